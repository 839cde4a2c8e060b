"""Signing in through an OpenID provider: authorization code, PKCE, state and nonce.

Nothing is kept here between going and coming back: it is in a sealed cookie, so that any server can take the browser
back, and only the browser that went. Where that ends up no client can name.
"""

import base64
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import structlog
from joserfc import jws, jwt
from joserfc.jwk import Key, OctKey

from penstock.accounts.bounds import (
    EMAIL_CHARS_MAX,
    LEEWAY_S,
    PROVIDER_BYTES_MAX,
    SIGN_IN_STATE_S,
    STATES_USED_MAX,
    SUBJECT_CHARS_MAX,
)
from penstock.accounts.model import Identity, given_roles, tenant_name
from penstock.accounts.provider import Provider
from penstock.accounts.sealing import opened, sealed
from penstock.accounts.secret_text import same
from penstock.errors import PenstockError, PermissionDenied, Unauthenticated

log = structlog.get_logger()

SCOPE = "openid email"
# Those by which a key that everybody may see verifies, and nobody else can sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")


class OpenIdConnect:
    """One provider, and whom of its people to let in."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        *,
        allowed_emails: Iterable[str] = (),
        allowed_domains: Iterable[str] = (),
        tenant: str,
        roles: Iterable[int],
        sealing_key: OctKey,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nobody is allowed whom neither list names. New users get `tenant` and `roles`.

        Raises Conflict (OIDC_ISSUER), InvalidInput.
        """
        self._tenant = tenant_name(tenant)
        self._roles = given_roles(roles)
        self._provider = Provider(issuer, transport=transport)
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._emails = frozenset(each.strip().lower() for each in allowed_emails) - {""}
        self._domains = frozenset(each.strip().lower().lstrip("@") for each in allowed_domains) - {""}
        self._key = sealing_key
        self._clock = clock
        self._used: OrderedDict[str, float] = OrderedDict()

    async def begin(self) -> tuple[str, str]:
        """Where to send the browser, and what it is to keep until it is back.

        The second as a cookie: HttpOnly, Secure, SameSite=Lax, for `SIGN_IN_STATE_S`.
        Raises Unavailable (SIGN_IN_UNAVAILABLE).
        """
        metadata = await self._provider.metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        kept = {"state": state, "nonce": nonce, "verifier": verifier}
        return (
            f"{metadata.authorization_endpoint}{separator}{urlencode(query)}",
            sealed(kept, self._clock() + SIGN_IN_STATE_S, self._key),
        )

    async def finish(self, code: str, state: str, cookie: str, *, iss: str = "", error: str = "") -> Identity:
        """Who came back, with what the provider gave the browser and what the browser kept.

        Raises Unauthenticated: SIGN_IN_STATE when it is not the browser that went, or it came twice, SIGN_IN_REFUSED;
        PermissionDenied (EMAIL_NOT_ALLOWED); Unavailable (SIGN_IN_UNAVAILABLE).
        """
        kept = opened(cookie, self._clock(), self._key) or {}
        if not {"state", "nonce", "verifier"} <= kept.keys() or not same(kept["state"], state):
            raise Unauthenticated("this sign-in was not begun here, or too long ago", reason="SIGN_IN_STATE")
        self._use(state)
        metadata = await self._provider.metadata()
        if (iss or metadata.names_issuer) and iss != self._provider.issuer:
            raise _refused("another provider answered")
        if error or not code:
            raise _refused("it was refused there")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": kept["verifier"],
        }
        answer = await self._provider.exchange(form, self._client_id, self._client_secret)
        try:
            claims = await self._verified(answer.get("id_token"), kept["nonce"])
        except PenstockError:
            raise
        except Exception as error:  # whatever is wrong with it, it proves nothing
            raise _refused(type(error).__name__) from None
        return self._identity(claims)

    async def close(self) -> None:
        """Ends its connections."""
        await self._provider.close()

    def _use(self, state: str) -> None:
        """Once each, by this server; by another one the provider takes the code no second time."""
        now = self._clock()
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        if state in self._used:
            raise Unauthenticated("this sign-in came back before: begin again", reason="SIGN_IN_STATE")
        self._used[state] = now + SIGN_IN_STATE_S
        if len(self._used) > STATES_USED_MAX:
            self._used.popitem(last=False)

    async def _verified(self, token: object, nonce: str) -> dict[str, Any]:
        """The claims of an ID token that holds; raises whatever, when it does not."""
        if not isinstance(token, str) or len(token) > PROVIDER_BYTES_MAX:
            raise TypeError("id_token")
        kid = jws.extract_compact(token.encode()).headers().get("kid")
        key: Key | None = await self._provider.key(kid)
        if key is None:
            raise ValueError("kid")
        claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
        jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock()),
            leeway=int(LEEWAY_S),
            iss={"essential": True, "value": self._provider.issuer},
            aud={"essential": True, "value": self._client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True},
        ).validate(claims)
        # OpenID Connect Core, 3.1.3.7: who else it is for must be known to be trusted, and nobody is.
        if claims["aud"] not in (self._client_id, [self._client_id]):
            raise ValueError("aud")
        if claims.get("azp", self._client_id) != self._client_id:
            raise ValueError("azp")
        if not isinstance(claims["nonce"], str) or not same(claims["nonce"], nonce):
            raise ValueError("nonce")
        if not 1 <= len(claims["sub"]) <= SUBJECT_CHARS_MAX:
            raise ValueError("sub")
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        email = claims.get("email")
        if not isinstance(email, str) or claims.get("email_verified") is not True:
            raise _not_allowed("the OpenID provider names no e-mail address that it has verified")
        # What is not ASCII may look like another address, or become one in lower case.
        if not email.isascii() or len(email) > EMAIL_CHARS_MAX or not self._allows(email.lower()):
            raise _not_allowed("this e-mail address may not sign in here")
        return Identity(email.lower(), f"{self._provider.issuer} {claims['sub']}", self._tenant, self._roles)

    def _allows(self, email: str) -> bool:
        mailbox, _, domain = email.rpartition("@")
        return bool(mailbox) and (email in self._emails or domain in self._domains)


def _refused(why: str) -> Unauthenticated:
    log.warning("a sign-in through the OpenID provider does not hold", why=why)
    return Unauthenticated("the sign-in does not hold: begin again", reason="SIGN_IN_REFUSED")


def _not_allowed(message: str) -> PermissionDenied:
    return PermissionDenied(message, reason="EMAIL_NOT_ALLOWED")
