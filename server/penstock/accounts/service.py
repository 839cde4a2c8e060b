"""Accounts over gRPC."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from google.api.httpbody_pb2 import HttpBody

from penstock.accounts import wire
from penstock.accounts.accounts import Accounts, Tokens
from penstock.accounts.bounds import SIGN_IN_STATE_S
from penstock.accounts.model import roles_named
from penstock.accounts.v1 import accounts_pb2
from penstock.accounts.v1 import accounts_service_pb2 as pb
from penstock.errors import Conflict, invalid_field
from penstock.rpc.call import Call
from penstock.rpc.principal import names_of
from penstock.rpc.rate_limits import RateLimits

if TYPE_CHECKING:
    from penstock.accounts.oidc import OpenIdConnect  # its HTTP client is loaded where a provider is set

COOKIE = "penstock_sign_in"
COOKIE_PATH = "/api/v1/auth"
REDIRECT = ("x-http-status", "302")  # Envoy makes it the status of the reply
NO_STORE = ("cache-control", "no-store")

T = TypeVar("T", pb.CreateTokenResponse, pb.RefreshTokenResponse, pb.FinishSignInResponse)


class AccountService:
    """Serves `penstock.accounts.v1.AccountService`."""

    def __init__(self, accounts: Accounts, oidc: "OpenIdConnect | None", rates: RateLimits, *, secure: bool) -> None:
        """`secure`: whether browsers come over TLS, so that cookies may be kept from going any other way."""
        self._accounts = accounts
        self._oidc = oidc
        self._rates = rates
        self._secure = secure

    async def CreateToken(self, request: pb.CreateTokenRequest, call: Call) -> pb.CreateTokenResponse:
        tokens = await self._accounts.sign_in(request.username, request.password, address=call.client_address)
        return _answer(pb.CreateTokenResponse, tokens, call)

    async def RefreshToken(self, request: pb.RefreshTokenRequest, call: Call) -> pb.RefreshTokenResponse:
        return _answer(pb.RefreshTokenResponse, await self._accounts.refresh(request.refresh_token), call)

    async def StartSignIn(self, request: pb.StartSignInRequest, call: Call) -> pb.StartSignInResponse:
        url, sealed = await self._provider().begin()
        cookie = self._cookie(sealed, int(SIGN_IN_STATE_S))
        call.headers += (("location", url), ("set-cookie", cookie), REDIRECT, NO_STORE)
        return pb.StartSignInResponse(authorization_url=url)

    async def FinishSignIn(self, request: pb.FinishSignInRequest, call: Call) -> pb.FinishSignInResponse:
        provider = self._provider()
        # Whatever comes of it, the cookie has had its use.
        call.headers += (("set-cookie", self._cookie("", 0)),)
        identity = await provider.finish(
            code=request.code, state=request.state, cookie=_cookie_of(call), iss=request.iss, error=request.error
        )
        return _answer(pb.FinishSignInResponse, await self._accounts.sign_in_as(identity), call)

    async def SignOut(self, request: pb.SignOutRequest, call: Call) -> pb.SignOutResponse:
        if call.principal.session:
            await self._accounts.sign_out(call.principal.session)
        return pb.SignOutResponse()

    async def GetMe(self, request: pb.GetMeRequest, call: Call) -> pb.GetMeResponse:
        who = call.principal
        window = self._rates.window_of(who)
        expires = datetime.fromtimestamp(who.expires, UTC) if who.expires is not None else None
        return pb.GetMeResponse(
            kind=who.kind.value,
            name=who.name,
            tenant=who.tenant,
            roles=names_of(who.roles),
            expire_time=wire.stamp(expires),
            rate_limit=accounts_pb2.RateLimit(limit=window.limit, window_seconds=window.seconds) if window else None,
        )

    async def GetSigningKeys(self, request: pb.GetSigningKeysRequest, call: Call) -> HttpBody:
        return HttpBody(content_type="application/json", data=json.dumps(self._accounts.public_keys()).encode())

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, call: Call) -> pb.CreateApiKeyResponse:
        expires = wire.time_of(request.expire_time) if request.HasField("expire_time") else None
        made, key = await self._accounts.create_key(call.principal, request.name, roles_named(request.roles), expires)
        call.headers += (NO_STORE,)
        return pb.CreateApiKeyResponse(api_key=wire.api_key(made), key=key)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, call: Call) -> pb.ListApiKeysResponse:
        return pb.ListApiKeysResponse(api_keys=map(wire.api_key, self._accounts.list_keys(call.tenant)))

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, call: Call) -> pb.RevokeApiKeyResponse:
        return pb.RevokeApiKeyResponse(api_key=wire.api_key(await self._accounts.revoke_key(call.tenant, request.id)))

    async def CreateUser(self, request: pb.CreateUserRequest, call: Call) -> pb.CreateUserResponse:
        made = await self._accounts.create_user(
            call.principal, request.name, request.password, roles_named(request.roles)
        )
        return pb.CreateUserResponse(user=wire.user(made))

    async def ListUsers(self, request: pb.ListUsersRequest, call: Call) -> pb.ListUsersResponse:
        return pb.ListUsersResponse(users=map(wire.user, self._accounts.list_users(call.tenant)))

    async def UpdateUser(self, request: pb.UpdateUserRequest, call: Call) -> pb.UpdateUserResponse:
        changed = set(request.update_mask.paths)
        if "roles" in changed and not request.roles:
            raise invalid_field("roles", "a user has one role at least")
        found = await self._accounts.update_user(
            call.principal,
            request.name,
            roles=roles_named(request.roles) if "roles" in changed else None,
            password=request.password if "password" in changed else None,
            disabled=request.disabled if "disabled" in changed else None,
        )
        return pb.UpdateUserResponse(user=wire.user(found))

    def _provider(self) -> "OpenIdConnect":
        if self._oidc is None:
            raise Conflict("no OpenID provider is set: PENSTOCK_OIDC_ISSUER", reason="OIDC_NOT_CONFIGURED")
        return self._oidc

    def _cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={value}; Max-Age={seconds}; Path={COOKIE_PATH}; HttpOnly; SameSite=Lax{secure}"


def _answer(form: type[T], tokens: Tokens, call: Call) -> T:
    call.headers += (NO_STORE,)
    return form(
        access_token=tokens.access,
        refresh_token=tokens.refresh,
        token_type="Bearer",
        expires_in=tokens.expires_in_s,
    )


def _cookie_of(call: Call) -> str:
    for part in call.metadata.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
