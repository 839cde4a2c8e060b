"""An OpenID provider, as seen from here: its documents, its keys, and the exchange of a code for an ID token.

Everything that it answers is bounded in time and size, and comes from where its discovery document says, which is read
from the issuer that was configured.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey

from penstock.accounts.bounds import (
    PROVIDER_BYTES_MAX,
    PROVIDER_KEYS_AGAIN_S,
    PROVIDER_METADATA_S,
    PROVIDER_S_MAX,
)
from penstock.errors import Conflict, Unauthenticated, Unavailable

log = structlog.get_logger()

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Never `oct`: a key that both sides have signs nothing that a client could not have signed itself.
_KEY_TYPES: dict[object, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the discovery document says."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    by_post: bool  # whether the client's secret goes into the body, where the header is not supported
    names_issuer: bool  # whether it says who it is when it sends a browser back, see RFC 9207


class Provider:
    """One OpenID provider."""

    def __init__(
        self,
        issuer: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Conflict (OIDC_ISSUER) for an issuer that is not https, except on this machine."""
        self.issuer = issuer
        self._is_local = urlsplit(issuer).hostname in _LOOPBACK
        if not self._is_secure(issuer):
            raise Conflict(f"the OpenID issuer {issuer} has to be an https:// address", reason="OIDC_ISSUER")
        self._clock = clock
        # Nothing that is compressed: its size would show only when it is in memory. No redirects: httpx follows none.
        self._client = httpx.AsyncClient(transport=transport, headers={"accept-encoding": "identity"})
        self._metadata: Metadata | None = None
        self._metadata_at = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0
        self._lock = asyncio.Lock()

    async def metadata(self) -> Metadata:
        """The discovery document, read once an hour. Raises Unavailable (SIGN_IN_UNAVAILABLE)."""
        async with self._lock:
            if self._metadata is None or self._clock() - self._metadata_at >= PROVIDER_METADATA_S:
                found = await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                self._metadata, self._metadata_at = self._checked(found), self._clock()
            return self._metadata

    async def key(self, kid: object) -> Key | None:
        """The key that signs by this id, or by none where there is just one. Raises Unavailable."""
        uri = (await self.metadata()).jwks_uri
        async with self._lock:
            age = self._clock() - self._keys_at
            # One that is not among them may be new.
            unknown = self._keys is None or _key_of(self._keys, kid) is None
            if self._keys is None or age >= (PROVIDER_KEYS_AGAIN_S if unknown else PROVIDER_METADATA_S):
                self._keys, self._keys_at = await self._read_keys(uri), self._clock()
            return _key_of(self._keys, kid)

    async def exchange(self, form: Mapping[str, str], client_id: str, client_secret: str) -> dict[str, Any]:
        """What the provider gives for a code.

        Raises Unauthenticated (SIGN_IN_REFUSED), Unavailable (SIGN_IN_UNAVAILABLE).
        """
        metadata = await self.metadata()
        body, auth = dict(form), None
        if not client_secret or metadata.by_post:
            body["client_id"] = client_id
            body.update({"client_secret": client_secret} if client_secret else {})
        else:  # encoded first, says RFC 6749, section 2.3.1
            auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(client_secret))
        request = self._client.build_request("POST", metadata.token_endpoint, data=body)
        status, text = await self._send(request, auth)
        if 400 <= status < 500:
            # What it says may quote what was sent, all but the error's name.
            log.warning("the OpenID provider refused a code", status=status, error=_error_of(text))
            raise Unauthenticated("the OpenID provider refused the sign-in", reason="SIGN_IN_REFUSED")
        return self._object(status, text)

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()

    async def _read_keys(self, uri: str) -> KeySet:
        found = (await self._get(uri)).get("keys")
        return KeySet([key for each in (found if isinstance(found, list) else []) if (key := _imported(each))])

    def _checked(self, found: Mapping[str, Any]) -> Metadata:
        if found.get("issuer") != self.issuer:
            raise self._unavailable("its discovery document is of another issuer")
        methods = found.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return Metadata(
            self._endpoint(found, "authorization_endpoint"),
            self._endpoint(found, "token_endpoint"),
            self._endpoint(found, "jwks_uri"),
            by_post="client_secret_basic" not in methods,
            names_issuer=found.get("authorization_response_iss_parameter_supported") is True,
        )

    def _endpoint(self, found: Mapping[str, Any], name: str) -> str:
        url = found.get(name)
        if not isinstance(url, str) or not self._is_secure(url):
            raise self._unavailable(f"its discovery document has no {name} that is https")
        return url

    def _is_secure(self, url: str) -> bool:
        parts = urlsplit(url)
        local = self._is_local and parts.scheme == "http" and parts.hostname in _LOOPBACK
        return bool(parts.hostname) and (parts.scheme == "https" or local)

    async def _get(self, url: str) -> dict[str, Any]:
        return self._object(*await self._send(self._client.build_request("GET", url), None))

    def _object(self, status: int, text: bytes) -> dict[str, Any]:
        if status != 200:
            raise self._unavailable(f"it answered {status}")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._unavailable("what it answered is no JSON object")
        return found

    async def _send(self, request: httpx.Request, auth: httpx.Auth | None) -> tuple[int, bytes]:
        text = b""
        try:
            async with asyncio.timeout(PROVIDER_S_MAX):
                response = await self._client.send(request, auth=auth, stream=True)
                try:
                    if response.headers.get("content-encoding", "identity") != "identity":
                        raise self._unavailable("it compresses what it was asked not to")
                    async for piece in response.aiter_raw():
                        text += piece
                        if len(text) > PROVIDER_BYTES_MAX:
                            raise self._unavailable(f"it answered more than {PROVIDER_BYTES_MAX} bytes")
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._unavailable(f"it does not answer ({type(error).__name__})") from None
        return response.status_code, text

    def _unavailable(self, why: str) -> Unavailable:
        log.warning("the OpenID provider cannot be used", issuer=self.issuer, why=why)
        return Unavailable("the OpenID provider cannot be used now", reason="SIGN_IN_UNAVAILABLE", retry_after_s=5.0)


def _imported(found: object) -> Key | None:
    """A key of the provider's; None for one of no use here, which stands beside others all the time."""
    if not isinstance(found, dict) or found.get("use", "sig") != "sig":
        return None
    try:
        return _KEY_TYPES[found["kty"]].import_key(found)
    except (JoseError, ValueError, TypeError, LookupError):
        return None


def _key_of(keys: KeySet, kid: object) -> Key | None:
    if kid is None:
        return keys.keys[0] if len(keys.keys) == 1 else None
    return next((key for key in keys.keys if key.kid == kid), None)


def _error_of(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])[:64]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
