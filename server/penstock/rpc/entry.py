"""Lets calls in: who calls, whether they may, and whether they have not called too often."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from penstock import errors
from penstock.access.v1 import access_pb2
from penstock.cache.windows import Taken
from penstock.rpc.access import Access
from penstock.rpc.call import Call
from penstock.rpc.principal import WITH_CREDENTIAL, Kind, Principal
from penstock.rpc.rate_limits import RateLimits, headers

RECHECK_S = 5.0  # a stream whose credential stops to hold is ended so much later at most


class Entry:
    """The door that every call comes through."""

    def __init__(self, access: Access, rates: RateLimits) -> None:
        self._access = access
        self._rates = rates

    def now(self, call: Call, needs: access_pb2.Needs) -> bool:
        """Lets the call in, if that takes no waiting; False: `wait` must decide. Raises Unauthenticated,
        PermissionDenied, Overloaded (RATE_LIMITED)."""
        try:
            self._known(call, self._access.principal(call.metadata), needs.role)
        except errors.PenstockError as refusal:
            call.refusal = refusal
        taken = self._rates.charge_now(*_price(call, needs))
        if taken is None:
            return False
        self._charged(call, taken)
        return True

    async def wait(self, call: Call, needs: access_pb2.Needs) -> None:
        """Lets a call in whose caller is known already. Raises as `now`."""
        self._charged(call, await self._rates.charge(*_price(call, needs)))

    @asynccontextmanager
    async def holding(self, call: Call) -> AsyncIterator["Holding"]:
        """For as long as a stream lasts. Raises Unauthenticated when the credential that opened it holds no more, which
        is looked at every RECHECK_S, whether anything passes or not."""
        scope = asyncio.timeout(None)
        held = Holding(self._access, call, scope)
        try:
            async with scope:
                held.begin()
                try:
                    yield held
                finally:
                    held.end()
        except TimeoutError:
            held.waits()
            raise

    def _known(self, call: Call, caller: Principal, role: int) -> None:
        if caller.kind is Kind.ANONYMOUS and role not in caller.allowed:
            raise errors.Unauthenticated(
                f"{call.method.rpartition('/')[2]} needs a credential: send `authorization: Bearer` with an API key or "
                "an access token",
                reason="CREDENTIAL_MISSING",
            )
        call.principal = caller
        structlog.contextvars.bind_contextvars(tenant=caller.tenant)
        caller.require(role, call.method)

    def _charged(self, call: Call, taken: Taken) -> None:
        call.headers = headers(taken)
        self._rates.check(taken, call.principal)
        if call.refusal is not None:
            raise call.refusal


def _price(call: Call, needs: access_pb2.Needs) -> tuple[Principal, str, int]:
    """Who pays for a call, and what. A refusal is paid for, too, where it is of something free as well: who tries
    credentials must not be able to try many."""
    return call.principal, call.client_address, needs.cost if call.refusal is None else access_pb2.COST_CLASS_READ


class Holding:
    """Looks whether the credential of a stream still holds.

    Where it does not, a stream that waits is woken, and one that sends a response ends with the next."""

    def __init__(self, access: Access, call: Call, scope: asyncio.Timeout) -> None:
        self._access = access
        self._call = call
        self._scope = scope
        self._waits = True
        self._ended: errors.PenstockError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on `scope`, which is entered, ends when the credential does."""
        if self._call.principal.kind in WITH_CREDENTIAL:
            self._wind()

    def end(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def passes(self) -> None:
        """A response goes out: the stream is not to be woken. Raises what ended the credential."""
        self._told()
        self._waits = False

    def waits(self) -> None:
        """It has gone out. Raises what ended the credential."""
        self._waits = True
        self._told()

    def _told(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _wind(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RECHECK_S, self._look)

    def _look(self) -> None:
        try:
            self._check()
        except errors.PenstockError as error:
            self._ended = error
            if self._waits:
                self._scope.reschedule(0.0)  # now: that is long ago
        else:
            self._wind()

    def _check(self) -> None:
        caller = self._access.principal(self._call.metadata)
        before = self._call.principal
        if (caller.tenant, caller.name, caller.roles) != (before.tenant, before.name, before.roles):
            raise errors.Unauthenticated("the credential's rights have changed: connect anew", reason="ROLES_CHANGED")
