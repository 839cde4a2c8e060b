"""Who calls: signing in, API keys, users."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from google.protobuf.field_mask_pb2 import FieldMask

from penstock.accounts.v1 import accounts_service_pb2 as pb
from penstock.accounts.v1.accounts_pb2 import ApiKey, User
from penstock.accounts.v1.accounts_service_pb2_grpc import AccountServiceStub
from penstock_client.backoff import Backoff
from penstock_client.connection import Connection
from penstock_client.errors import Overloaded, TimedOut, Unavailable

Role: TypeAlias = Literal["viewer", "ingester", "analyst", "operator", "admin"]

FRESH_S = 60.0  # an access token is traded for the next so long before it stops to hold


class AccountsClient:
    """`client.accounts`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fresh: asyncio.Task[None] | None = None

    @property
    def _stub(self) -> AccountServiceStub:
        return AccountServiceStub(self._connection.channel)

    async def sign_in(self, username: str, password: str) -> None:
        """Signs in: every call of this client from now on is the user's, and stays so until `sign_out`.

        Raises AccessDenied (WRONG_CREDENTIALS), Overloaded (TOO_MANY_ATTEMPTS).
        """
        request = pb.CreateTokenRequest(username=username, password=password)
        answer = await self._connection.call(self._stub.CreateToken, request, pb.CreateTokenResponse)
        self._stop_refreshing()
        self._connection.use(answer.access_token)
        self._fresh = self._connection.in_background(self._keep_fresh(answer.refresh_token, answer.expires_in))

    @property
    def credential(self) -> str | None:
        """What calls bring now: an API key, or the access token of who signed in; None for nothing."""
        return self._connection.credential

    async def sign_out(self) -> None:
        """Ends the session; calls bring no credential from now on."""
        self._stop_refreshing()
        await self._connection.call(self._stub.SignOut, pb.SignOutRequest(), pb.SignOutResponse)
        self._connection.use(None)

    async def me(self) -> pb.GetMeResponse:
        """Who calls: kind, name, tenant, roles, limit. Raises AccessDenied where one is needed and there is none."""
        return await self._connection.read(self._stub.GetMe, pb.GetMeRequest(), pb.GetMeResponse)

    async def create_key(
        self, name: str, roles: Sequence[Role], *, expires: datetime | timedelta | None = None
    ) -> pb.CreateApiKeyResponse:
        """Creates an API key of the caller's tenant. What it opens with is the answer's `key`: to be had now only.

        `expires` is when it stops to work, or in how long; without a zone it is local time. Default: never.
        Raises AccessDenied (ROLE_MISSING) for roles that the caller has not.
        """
        request = pb.CreateApiKeyRequest(name=name, roles=roles)
        if expires is not None:
            at = datetime.now().astimezone() + expires if isinstance(expires, timedelta) else expires.astimezone()
            request.expire_time.FromDatetime(at)
        return await self._connection.call(self._stub.CreateApiKey, request, pb.CreateApiKeyResponse)

    async def keys(self) -> list[ApiKey]:
        """The tenant's keys that work, newest first."""
        request = pb.ListApiKeysRequest()
        answer = await self._connection.read(self._stub.ListApiKeys, request, pb.ListApiKeysResponse)
        return list(answer.api_keys)

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Makes a key stop to work. Raises NotFound."""
        request = pb.RevokeApiKeyRequest(id=key_id)
        answer = await self._connection.call(self._stub.RevokeApiKey, request, pb.RevokeApiKeyResponse)
        return answer.api_key

    async def create_user(self, name: str, password: str, roles: Sequence[Role]) -> User:
        """Creates a user of the caller's tenant. Raises AlreadyStored, AccessDenied, InvalidRequest."""
        request = pb.CreateUserRequest(name=name, password=password, roles=roles)
        answer = await self._connection.call(self._stub.CreateUser, request, pb.CreateUserResponse)
        return answer.user

    async def users(self) -> list[User]:
        """The tenant's users, by name."""
        answer = await self._connection.read(self._stub.ListUsers, pb.ListUsersRequest(), pb.ListUsersResponse)
        return list(answer.users)

    async def update_user(
        self,
        name: str,
        *,
        roles: Sequence[Role] | None = None,
        password: str | None = None,
        disabled: bool | None = None,
    ) -> User:
        """Changes what is given of a user, which ends their sessions. Raises NotFound, AccessDenied, InvalidRequest."""
        given = {"roles": roles, "password": password, "disabled": disabled}
        paths = [field for field, value in given.items() if value is not None]
        request = pb.UpdateUserRequest(name=name, update_mask=FieldMask(paths=paths))
        request.roles.extend(roles or ())
        request.password = password or ""
        request.disabled = bool(disabled)
        answer = await self._connection.call(self._stub.UpdateUser, request, pb.UpdateUserResponse)
        return answer.user

    def _stop_refreshing(self) -> None:
        if self._fresh is not None:
            self._fresh.cancel()
            self._fresh = None

    async def _keep_fresh(self, refresh_token: str, expires_in: float) -> None:
        """Trades tokens until the session ends; then calls fail with what is wrong with the old token."""
        while True:
            await asyncio.sleep(max(expires_in - FRESH_S, expires_in / 2))
            backoff = Backoff(FRESH_S)
            while True:
                # Where the answer was lost, the trade was made: the next try then ends the session, and calls say so.
                request = pb.RefreshTokenRequest(refresh_token=refresh_token)
                try:
                    answer = await self._connection.call(self._stub.RefreshToken, request, pb.RefreshTokenResponse)
                    break
                except (Unavailable, Overloaded, TimedOut) as error:
                    wait = backoff.next_s(error.retry_after_s)
                    if wait is None:
                        return
                    await asyncio.sleep(wait)
            refresh_token, expires_in = answer.refresh_token, answer.expires_in
            self._connection.use(answer.access_token)
