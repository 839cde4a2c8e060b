"""What a backup says of itself, and what is believed of that: anybody may have altered it."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

FORMAT = 1
NAME = "manifest.json"
BYTES_MAX = 64 * 1024 * 1024  # of some 400,000 files
PATH_CHARS_MAX = 1_024
ROOTS = ("clickhouse", "index", "models")  # what of a data folder is in a backup
SIGNING_KEYS = "signing-keys.json"  # never is
LEFT_OUT = (
    f"The keys that sign access tokens ({SIGNING_KEYS}) are secret and not in here: a server that starts on the "
    "restored folder makes new ones, so access tokens end, and users and API keys stay. Locks, logs and run-time files "
    "are not in here either."
)

_PART = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,255}")  # what can be printed in ASCII, but for the backslash

Moved = Callable[[int, int], None]  # bytes that are done, and of how many


class BackupError(Exception):
    """A backup cannot be made or used. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the data folder."""

    path: str  # in the data folder, its parts separated by slashes
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class About:
    """What the files are of."""

    penstock: str  # the version that made the backup
    clickhouse: str  # the version of its engine
    schema: Annotated[int, Field(ge=0)]
    created: str  # ISO 8601, in UTC
    commit: Annotated[int, Field(ge=0)]  # the newest that is in it
    # The folder of the database, below `clickhouse`. Its name leads there by a link, and an archive has no links.
    database: Annotated[str, Field(pattern=r"^store/[0-9a-f]{3}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first member of an archive; the files follow in its order."""

    about: About
    members: tuple[Member, ...]

    @property
    def bytes(self) -> int:
        """Of all files together, unpacked."""
        return sum(member.bytes for member in self.members)


_ABOUT = TypeAdapter(About)
_MEMBERS = TypeAdapter(tuple[Member, ...])


def written(manifest: Manifest) -> bytes:
    """The manifest as it stands in an archive. Raises BackupError for more files than it may name."""
    said = {
        "format": FORMAT,
        **asdict(manifest.about),
        "left_out": LEFT_OUT,
        "files": len(manifest.members),
        "bytes": manifest.bytes,
        "members": [asdict(member) for member in manifest.members],
    }
    data = json.dumps(said, indent=1).encode()
    if len(data) > BYTES_MAX:
        raise BackupError(f"{len(manifest.members):,} files are more than the manifest of a backup can name")
    return data


def parsed(data: bytes) -> Manifest:
    """What `written` wrote. Raises BackupError for anything else, and for a newer format."""
    try:
        said: Any = json.loads(data)
        version = said["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BackupError("its manifest cannot be read: it is damaged, or no backup of Penstock") from error
    if isinstance(version, int) and version > FORMAT:
        raise BackupError(f"it has format {version}, this program knows {FORMAT}: use the newer Penstock that made it")
    try:
        about = _ABOUT.validate_json(
            json.dumps({each.name: said.get(each.name) for each in fields(About)}), strict=True
        )
        members = _MEMBERS.validate_json(json.dumps(said.get("members")), strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise BackupError(f"its manifest is wrong: {where}: {wrong['msg']}") from error
    if version != FORMAT or said.get("files") != len(members) or said.get("bytes") != sum(m.bytes for m in members):
        raise BackupError("its manifest is wrong: its parts do not agree")
    known: set[str] = set()
    for member in members:
        check_path(member.path)
        if member.path in known:
            raise BackupError(f"it has {member.path} twice")
        known.add(member.path)
    return Manifest(about, members)


def check_path(path: str) -> None:
    """Raises BackupError for a path that is none of a data folder's, whatever a file system would make of it."""
    parts = path.split("/")
    plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not plain or parts[0] not in ROOTS or len(parts) < 2 or len(path) > PATH_CHARS_MAX:
        raise BackupError(f"{path[:200]!r} is no file of a data folder")
    if parts[-1].casefold() == SIGNING_KEYS:
        # Whoever made it would know the keys, and could sign tokens for the restored server.
        raise BackupError(f"{path} would be signing keys, which are never in a backup")
