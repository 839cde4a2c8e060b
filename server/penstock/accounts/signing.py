"""The keys that sign access tokens: Ed25519, in one file that this user alone can read.

Servers that share the file accept each other's tokens. After a rotation what the old key signed holds until it expires.
"""

import base64
import fcntl
import hmac
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization, OctKey, OKPKey

from penstock.accounts.bounds import ACCESS_S, LEEWAY_S, SIGNING_FILE_BYTES_MAX, SIGNING_LOOK_S
from penstock.accounts.secret_text import drawn
from penstock.durable import sync_folder
from penstock.errors import Conflict

log = structlog.get_logger()

# RFC 9864's name for what RFC 8037 called EdDSA, which says the curve too: there is nothing left to choose.
ALGORITHM = "Ed25519"
_KID_CHARS = 16
_SECRET_BYTES = 32
# What a retired key signed last, by a server that had not yet heard of it.
_VERIFIES_S = ACCESS_S + LEEWAY_S + 60.0


@dataclass(frozen=True, slots=True)
class _Key:
    jwk: OKPKey = field(repr=False)
    created: float
    retired: float | None  # None: signs

    def verifies(self, now: float) -> bool:
        return self.retired is None or now < self.retired + _VERIFIES_S


@dataclass(frozen=True, slots=True)
class _Content:
    """What the file says."""

    secret: bytes = field(repr=False)
    keys: tuple[_Key, ...]  # the one that signs is the last


class SigningKeys:
    """The keys of one file, as they are now: a rotation by another process is seen within a second."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises Conflict (SIGNING_FILE) for a file that cannot be used."""
        self._path = path
        self._clock = clock
        self.version = 0  # grows when the keys are read anew
        self._looked = 0.0
        self._mark = _mark(path)
        self._use(_read(path))

    @classmethod
    def load_or_create(cls, path: Path, clock: Callable[[], float] = time.time) -> "SigningKeys":
        """The keys of the file, which is made with a first one when it is not there.

        Raises Conflict (SIGNING_FILE): it or its folder is open to others, or it is no such file.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path):
            if not path.exists():
                _write(path, _Content(secrets.token_bytes(_SECRET_BYTES), (_made(clock()),)))
        return cls(path, clock)

    @property
    def signing(self) -> OKPKey:
        """The key that signs; its `kid` goes into the token's header."""
        self.refresh()
        return self._content.keys[-1].jwk

    def verifying(self, kid: object) -> OKPKey | None:
        """The key of this id, if what it signed can still hold."""
        self.refresh()
        found = self._by_kid.get(kid)
        if found is None:  # perhaps the first token behind a rotation
            self.refresh(at_once=True)
            found = self._by_kid.get(kid)
        return found.jwk if found is not None and found.verifies(self._clock()) else None

    def jwks(self) -> KeySetSerialization:
        """The public keys, as a JSON Web Key Set."""
        self.refresh()
        now = self._clock()
        return KeySet([key.jwk for key in self._content.keys if key.verifies(now)]).as_dict(private=False)

    def sealing(self, purpose: str) -> OctKey:
        """A key of 256 bits for sealing what a browser keeps for this server; of each purpose another one."""
        # HKDF-Expand of RFC 5869, one block; its first step, Extract, is for secrets that are not random throughout.
        return OctKey.import_key(hmac.digest(self._content.secret, f"penstock {purpose}".encode() + b"\x01", "sha256"))

    def rotate(self) -> str:
        """Signs with a new key from now on; returns its id. Blocks while the disk flushes. Raises Conflict, OSError."""
        with _locked(self._path):
            content, now = _read(self._path), self._clock()
            kept = [key if key.retired is not None else replace(key, retired=now) for key in content.keys]
            made = _made(now)
            _write(self._path, replace(content, keys=(*(key for key in kept if key.verifies(now)), made)))
        self.refresh(at_once=True)
        return made.jwk.kid or ""

    def refresh(self, *, at_once: bool = False) -> None:
        """Reads the file again when it changed; looks once a second at most, or `at_once`."""
        now = time.monotonic()
        if not at_once and now - self._looked < SIGNING_LOOK_S:
            return
        self._looked = now
        try:
            mark = _mark(self._path)
            if mark == self._mark:
                return
            self._mark = mark
            self._use(_read(self._path))
        except Conflict as error:
            log.error("signing keys cannot be read again; those from before go on", error=error.message)

    def _use(self, content: _Content) -> None:
        now = self._clock()
        self._content = replace(content, keys=tuple(key for key in content.keys if key.verifies(now)))
        self._by_kid: dict[object, _Key] = {key.jwk.kid: key for key in self._content.keys}
        self.version += 1


def _made(now: float) -> _Key:
    return _Key(OKPKey.generate_key("Ed25519", {"kid": drawn(_KID_CHARS), "use": "sig", "alg": ALGORITHM}), now, None)


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from error
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path) -> _Content:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(SIGNING_FILE_BYTES_MAX)
        folder = stat.S_IMODE(path.parent.stat().st_mode)
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise _unusable(path, f"others may read or change it (mode {mode:04o}): chmod 600 {path}")
    if folder & 0o002 and not folder & stat.S_ISVTX:
        raise _unusable(path, f"others may replace it: chmod o-w {path.parent}")
    try:
        return _content(json.loads(text))
    except (ValueError, TypeError, LookupError, RecursionError, JoseError):
        # The cause would show what is in the file.
        raise _unusable(
            path, "it has no signing keys as Penstock writes them: restore it, or remove it and all sign in again"
        ) from None


def _content(found: dict[str, object]) -> _Content:
    keys: list[_Key] = []
    entries = found["keys"]
    if not isinstance(entries, list):
        raise TypeError("keys")
    for entry in entries:
        jwk = OKPKey.import_key(entry["jwk"])
        if not (jwk.is_private and jwk.kid and jwk.curve_name == "Ed25519"):
            raise ValueError("jwk")
        keys.append(_Key(jwk, float(entry["created"]), None if entry["retired"] is None else float(entry["retired"])))
    secret = base64.b64decode(str(found["secret"]), validate=True)
    if len(secret) < _SECRET_BYTES or [key.retired for key in keys].count(None) != 1:
        raise ValueError("keys")
    return _Content(secret, tuple(sorted(keys, key=lambda key: key.retired is None)))


def _write(path: Path, content: _Content) -> None:
    text = json.dumps(
        {
            "secret": base64.b64encode(content.secret).decode(),
            "keys": [
                {"created": key.created, "retired": key.retired, "jwk": key.jwk.as_dict(private=True)}
                for key in content.keys
            ],
        },
        indent=2,
    )
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".signing-")  # which makes it with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps two processes from making or rotating keys at once."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, f"its folder cannot be read ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unusable(path: Path, why: str) -> Conflict:
    return Conflict(f"the signing keys in {path} cannot be used: {why}", reason="SIGNING_FILE")
