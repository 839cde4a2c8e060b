"""Accounts of a database that no server has to be asked about: its folder is free, or it is behind a URL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

from penstock.accounts import wire
from penstock.accounts.accounts import Accounts, console
from penstock.accounts.model import roles_named
from penstock.accounts.v1 import accounts_service_pb2 as pb
from penstock.accounts.v1.accounts_pb2 import ApiKey, User
from penstock.settings import Settings
from penstock.startup import data_folder
from penstock.storage.engine import open_engine
from penstock.storage.lease import Lease
from penstock.storage.schema import migrate
from penstock_client.accounts import Role


class Here:
    """What `client.accounts` of the SDK offers, without a server."""

    def __init__(self, accounts: Accounts, tenant: str) -> None:
        self._accounts = accounts
        self._operator = console(tenant)

    async def create_user(self, name: str, password: str, roles: Sequence[Role]) -> User:
        """Creates a user."""
        return wire.user(await self._accounts.create_user(self._operator, name, password, roles_named(roles)))

    async def users(self) -> list[User]:
        """The tenant's users."""
        return [wire.user(each) for each in self._accounts.list_users(self._operator.tenant)]

    async def update_user(
        self,
        name: str,
        *,
        roles: Sequence[Role] | None = None,
        password: str | None = None,
        disabled: bool | None = None,
    ) -> User:
        """Changes what is given of a user."""
        given = roles_named(roles) if roles is not None else None
        changed = await self._accounts.update_user(
            self._operator, name, roles=given, password=password, disabled=disabled
        )
        return wire.user(changed)

    async def create_key(
        self, name: str, roles: Sequence[Role], *, expires: datetime | timedelta | None = None
    ) -> pb.CreateApiKeyResponse:
        """Creates a key."""
        at = datetime.now().astimezone() + expires if isinstance(expires, timedelta) else expires
        at = at.astimezone() if at is not None else None
        made, key = await self._accounts.create_key(self._operator, name, roles_named(roles), at)
        return pb.CreateApiKeyResponse(api_key=wire.api_key(made), key=key)

    async def keys(self) -> list[ApiKey]:
        """The tenant's keys."""
        return [wire.api_key(each) for each in self._accounts.list_keys(self._operator.tenant)]

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Makes a key stop to work."""
        return wire.api_key(await self._accounts.revoke_key(self._operator.tenant, key_id))


@asynccontextmanager
async def opened_here(settings: Settings, tenant: str) -> AsyncIterator[Here]:
    """The accounts in the database of the settings, which is made where there is none.

    Raises StartupError when the folder is held or cannot be written, Conflict for a newer schema, Unavailable.
    """
    async with AsyncExitStack() as ending:
        if settings.embedded:
            ending.enter_context(data_folder(settings))
        engine = open_engine(settings)
        ending.push_async_callback(engine.close)
        lease = None if settings.embedded else Lease(engine)
        await migrate(engine, settings, lease)
        if lease is not None and lease.held:
            await lease.release()  # a server may be waiting for it
        yield Here(await ending.enter_async_context(Accounts.opened(engine, settings)), tenant)
