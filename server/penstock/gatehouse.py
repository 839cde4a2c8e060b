"""Who gets in, put together: accounts, rate limits, and how many calls run at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock import limits
from penstock.access.v1 import access_pb2
from penstock.accounts.accounts import Accounts
from penstock.accounts.service import COOKIE_PATH, AccountService
from penstock.accounts.v1 import accounts_service_pb2
from penstock.cache.redis import Redis
from penstock.cache.windows import Windows
from penstock.processors import processors
from penstock.rpc.access import Access
from penstock.rpc.admission import Admission
from penstock.rpc.policy import Policy, Watcher
from penstock.rpc.rate_limits import ANONYMOUS_LIMIT, RateLimits
from penstock.rpc.tags import Tags
from penstock.settings import Settings
from penstock.storage.engine import Engine

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from penstock.accounts.oidc import OpenIdConnect

CALLBACK = f"{COOKIE_PATH}/callback"


@dataclass(frozen=True, slots=True)
class Gatehouse:
    """The parts that live as long as the server."""

    access: Access
    rates: RateLimits
    admissions: Mapping[int, Admission]  # by cost class
    service: AccountService

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, engine: Engine, redis: Redis) -> AsyncIterator["Gatehouse"]:
        """Reads accounts, and keeps up with those of other servers. Raises Conflict, Unavailable."""
        async with AsyncExitStack() as ending:
            accounts = await ending.enter_async_context(Accounts.opened(engine, settings))
            oidc = _oidc(settings, accounts)
            if oidc is not None:
                ending.push_async_callback(oidc.close)
            following = asyncio.create_task(accounts.follow(), name="follow-accounts")
            ending.push_async_callback(_ended, following)
            rates = _rates(settings, redis)
            yield cls(
                Access(accounts, required=settings.auth_required),
                rates,
                _admissions(),
                AccountService(accounts, oidc, rates, secure=settings.public_url.startswith("https:")),
            )

    def policy(self, tags: Tags, watcher: Watcher) -> Policy:
        """What the edge asks at each call."""
        return Policy(self.access, self.rates, self.admissions, tags, watcher)

    def services(self) -> "Mapping[ServiceDescriptor, object]":
        """The services of this area."""
        return {accounts_service_pb2.DESCRIPTOR.services_by_name["AccountService"]: self.service}


def _admissions() -> Mapping[int, Admission]:
    """A bulkhead each: a slow report keeps no search waiting, and a flood of searches refuses no report.

    The others have bounds of their own: writers their queue, SQL and forecasts their lanes.

    What is computed in this process takes turns on its processors: more at once are later, not more. gRPC hands over
    one call at a time, each for two turns of the loop, and turns are slow to come when threads that compute hold the
    interpreter. So there is one place more than processors, which keeps all of them busy, and in a crowd one less,
    which leaves one to the loop. On two, at five times the load, the slowest 1 % of what was served took .06 to .08 s
    with three places, .043 with two, .025 with one, its refusals .036, .023, .013, and as much was served with each.
    Eight callers that wait for their answers get 191 searches a second of three places, 154 of one.
    """
    cores = processors()
    return {
        access_pb2.COST_CLASS_COMPUTE: Admission(
            min(limits.COMPUTED_AT_ONCE_MAX, cores + 1),
            limits.WAITING_MAX,
            crowded=min(limits.COMPUTED_AT_ONCE_MAX, max(1, cores - 1)),
        ),
        access_pb2.COST_CLASS_READ: Admission(limits.READS_AT_ONCE, limits.WAITING_MAX),
    }


def _rates(settings: Settings, redis: Redis) -> RateLimits:
    return RateLimits(
        Windows(redis),
        anonymous_limit=settings.rate_limit or ANONYMOUS_LIMIT,
        user_limit=settings.rate_limit_user,
        key_limit=settings.rate_limit_key,
        open_limit=settings.rate_limit,
        seconds=settings.rate_window,
    )


def _oidc(settings: Settings, accounts: Accounts) -> "OpenIdConnect | None":
    if not settings.oidc_issuer:
        return None
    from penstock.accounts.model import roles_named
    from penstock.accounts.oidc import OpenIdConnect  # its libraries take a while to load

    return OpenIdConnect(
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret.get_secret_value(),
        settings.public_url.rstrip("/") + CALLBACK,
        allowed_emails=settings.oidc_allowed_emails,
        allowed_domains=settings.oidc_allowed_domains,
        tenant=settings.oidc_tenant,
        roles=roles_named(settings.oidc_roles),
        sealing_key=accounts.keys.sealing("sign-in"),
    )


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
