"""What a credential that comes with a call says of the caller: an API key, or an access token.

It is asked of the user and the key as they are now, so that whatever is taken from them is gone at the next call.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.accounts import api_keys
from penstock.accounts.bounds import CREDENTIAL_CHARS_MAX, CREDENTIALS_KNOWN_MAX, USE_NOTED_S
from penstock.accounts.model import ApiKey, User
from penstock.accounts.secret_text import digest, same
from penstock.accounts.signing import SigningKeys
from penstock.accounts.store import AccountStore
from penstock.accounts.tokens import AccessTokens, Claims, invalid_token
from penstock.errors import Unauthenticated
from penstock.rpc.principal import Kind, Principal, principal

_NO_SECRET = digest("")  # no key has it: what an unknown one is compared with


@dataclass(slots=True)
class _Known:
    """A credential that was verified, and what of it must still be as it was then."""

    principal: Principal
    holder: User | ApiKey
    expires: float
    noted: float = 0.0  # when it was last noted that the key was used


class Credentials:
    """Tells whose a credential is."""

    def __init__(
        self, store: AccountStore, tokens: AccessTokens, keys: SigningKeys, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._keys = keys
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._version = keys.version
        self._marking = hashlib.blake2b(digest_size=16, key=secrets.token_bytes(16))

    def known(self, credential: str) -> Principal | None:
        """Whose it is, if it was verified lately; a few microseconds. None: ask `principal_of`."""
        self._keys.refresh()
        if self._version != self._keys.version:
            self._known.clear()
            self._version = self._keys.version
        mark = self._mark(credential)
        found = self._known.get(mark)
        if found is None:
            return None
        if not self._still_holds(found):
            del self._known[mark]
            return None
        return found.principal

    def principal_of(self, credential: str) -> Principal:
        """Whose it is; some 0.1 ms for an access token.

        Raises Unauthenticated: TOKEN_EXPIRED, TOKEN_INVALID, TOKEN_REVOKED; KEY_INVALID, KEY_EXPIRED, KEY_REVOKED.
        """
        if credential.startswith(api_keys.PREFIX):
            found = self._by_key(credential)
        else:
            found = self._by_token(self._tokens.claims_of(credential))
        self._known[self._mark(credential)] = found
        if len(self._known) > CREDENTIALS_KNOWN_MAX:
            self._known.popitem(last=False)
        return found.principal

    def _by_key(self, text: str) -> _Known:
        parts = api_keys.parsed(text) if len(text) <= CREDENTIAL_CHARS_MAX else None
        key = self._store.keys.get(parts.id) if parts else None
        hashed = digest(parts.secret if parts else "-")
        if not same(hashed, key.secret_hash if key else _NO_SECRET) or key is None:
            raise Unauthenticated("the API key does not hold", reason="KEY_INVALID")
        if key.revoked is not None:
            raise Unauthenticated("the API key was revoked", reason="KEY_REVOKED")
        if not key.holds(datetime.fromtimestamp(self._clock(), UTC)):
            raise Unauthenticated("the API key has expired", reason="KEY_EXPIRED")
        self._store.keys.used(key.id)
        expires = key.expires.timestamp() if key.expires else None
        caller = principal(Kind.KEY, key.tenant, key.id, key.roles, expires=expires)
        return _Known(caller, key, float("inf") if expires is None else expires)

    def _by_token(self, claims: Claims) -> _Known:
        user = self._store.users.get(claims.user)
        # The name may be somebody else's by now.
        if user is None or user.tenant != claims.tenant:
            raise invalid_token()
        ended = user.disabled or claims.started <= user.valid_from.timestamp()
        if ended or self._store.sessions.is_revoked(claims.session):
            raise Unauthenticated("the session of the access token has ended", reason="TOKEN_REVOKED")
        caller = principal(
            Kind.USER, user.tenant, user.name, user.roles, session=claims.session, expires=claims.expires
        )
        return _Known(caller, user, claims.expires)

    def _still_holds(self, known: _Known) -> bool:
        now = self._clock()
        if known.expires <= now:
            return False
        caller, holder = known.principal, known.holder
        # The very same object: it is another one as soon as anything of the user or key changed.
        if isinstance(holder, ApiKey):
            if self._store.keys.get(holder.id) is not holder:
                return False
            if now - known.noted >= USE_NOTED_S:
                self._store.keys.used(holder.id)
                known.noted = now
            return True
        return self._store.users.get(holder.name) is holder and not self._store.sessions.is_revoked(caller.session)

    def _mark(self, credential: str) -> bytes:
        """What a credential is known by, so that none of them lies about in memory."""
        marking = self._marking.copy()  # of the key alone, which is half of the work
        marking.update(credential.encode("utf-8", "surrogatepass"))
        return marking.digest()
