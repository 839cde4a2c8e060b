"""Access tokens: JWTs after RFC 9068 that hold half an hour, and what makes one hold."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError
from joserfc.jwk import Key, OKPKey

from penstock.accounts.bounds import ACCESS_S, CREDENTIAL_CHARS_MAX, LEEWAY_S
from penstock.accounts.model import User
from penstock.accounts.secret_text import drawn
from penstock.accounts.sessions import Session
from penstock.accounts.signing import ALGORITHM, SigningKeys
from penstock.errors import Unauthenticated
from penstock.rpc.principal import names_of

AUDIENCE = "penstock"
TYPE = "at+jwt"  # so that no other JWT of the same keys is taken for an access token
_JTI_CHARS = 20


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says, once it is known to hold."""

    tenant: str
    user: str
    session: str
    started: float  # seconds since 1970: when the user signed in
    expires: float  # likewise


class AccessTokens:
    """Gives and verifies access tokens."""

    def __init__(self, keys: SigningKeys, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock

    def given(self, user: User, session: Session) -> tuple[str, float]:
        """A token for a user's session, and when it expires."""
        key, now = self._keys.signing, int(self._clock())
        expires = now + int(ACCESS_S)
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": user.name,
            "tenant": user.tenant,
            # For who looks into it. What a call may do is asked of the user as it is then, see `credentials`.
            "roles": names_of(user.roles),
            "sid": session.id,
            "auth_time": session.started.timestamp(),
            "iat": now,
            "exp": expires,
            "jti": drawn(_JTI_CHARS),
        }
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}
        return jwt.encode(header, claims, key, algorithms=[ALGORITHM]), float(expires)

    def claims_of(self, token: str) -> Claims:
        """What the token says. Raises Unauthenticated: TOKEN_EXPIRED; TOKEN_INVALID for whatever else is wrong."""
        if len(token) > CREDENTIAL_CHARS_MAX:
            raise invalid_token()
        try:
            return self._verified(token)
        except ExpiredTokenError:
            raise Unauthenticated("the access token has expired", reason="TOKEN_EXPIRED") from None
        except Exception:  # whatever it was made to trip over, it does not hold; and the cause may show what it said
            raise invalid_token() from None

    def _verified(self, token: str) -> Claims:
        found = jwt.decode(token, self._key, algorithms=[ALGORITHM])
        if found.header.get("typ") != TYPE:
            raise ValueError("typ")
        claims = found.claims
        jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock()),
            leeway=int(LEEWAY_S),
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            jti={"essential": True},
        ).validate(claims)
        tenant, session = (_text(claims, name) for name in ("tenant", "sid"))
        return Claims(tenant, _text(claims, "sub"), session, float(claims["auth_time"]), float(claims["exp"]))

    def _key(self, signed: Any) -> Key:
        key: OKPKey | None = self._keys.verifying(signed.headers().get("kid"))
        if key is None:
            raise ValueError("kid")
        return key


def invalid_token() -> Unauthenticated:
    """One error for all that can be wrong: which it was helps nobody but who forges."""
    return Unauthenticated("the access token does not hold", reason="TOKEN_INVALID")


def _text(claims: jwt.Claims, name: str) -> str:
    value = claims[name]
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value
