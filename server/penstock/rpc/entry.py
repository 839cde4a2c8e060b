"""Lets calls in: who calls, whether they may, and whether they have not called too often."""

import time

import structlog

from penstock import errors
from penstock.access.v1 import access_pb2
from penstock.cache.windows import Taken
from penstock.rpc.access import Access
from penstock.rpc.call import Call
from penstock.rpc.principal import Kind, Principal
from penstock.rpc.rate_limits import RateLimits, headers

RECHECK_S = 5.0  # a stream whose credential stops to hold is ended so much later at most, if anything passes on it


class Entry:
    """The door that every call comes through."""

    def __init__(self, access: Access, rates: RateLimits) -> None:
        self._access = access
        self._rates = rates

    def now(self, call: Call, needs: access_pb2.Needs) -> bool:
        """Lets the call in, if that takes no waiting; False: `wait` must decide. Raises Unauthenticated,
        PermissionDenied, Overloaded (RATE_LIMITED)."""
        caller = self._access.principal(call.metadata)
        self._known(call, caller, needs.role)
        taken = self._rates.charge_now(caller, call.client_address, needs.cost)
        if taken is None:
            return False
        self._charged(call, taken)
        return True

    async def wait(self, call: Call, needs: access_pb2.Needs) -> None:
        """Lets a call in whose caller is known already. Raises Overloaded (RATE_LIMITED)."""
        self._charged(call, await self._rates.charge(call.principal, call.client_address, needs.cost))

    def recheck(self, call: Call) -> "Recheck":
        """What a stream asks, from time to time, while it goes on."""
        return Recheck(self._access, call)

    def _known(self, call: Call, caller: Principal, role: int) -> None:
        call.principal = caller
        structlog.contextvars.bind_contextvars(tenant=caller.tenant)
        if role in caller.allowed:
            return
        if caller.kind is Kind.ANONYMOUS:
            raise errors.Unauthenticated(
                f"{call.method.rpartition('/')[2]} needs a credential: send `authorization: Bearer` with an API key or "
                "an access token",
                reason="CREDENTIAL_MISSING",
            )
        caller.require(role, call.method)

    def _charged(self, call: Call, taken: Taken) -> None:
        call.headers = headers(taken)
        self._rates.check(taken, call.principal)


class Recheck:
    """Whether the credential that opened a stream still holds."""

    def __init__(self, access: Access, call: Call) -> None:
        self._access = access
        self._call = call
        self._due = time.monotonic() + RECHECK_S

    def __call__(self) -> None:
        """Looks when it is time to. Raises Unauthenticated when it holds no more, or is somebody else's meanwhile."""
        if time.monotonic() < self._due or self._call.principal.kind in (Kind.OPEN, Kind.ANONYMOUS):
            return
        caller = self._access.principal(self._call.metadata)
        before = self._call.principal
        if (caller.tenant, caller.name, caller.roles) != (before.tenant, before.name, before.roles):
            raise errors.Unauthenticated("the credential's rights have changed: connect anew", reason="ROLES_CHANGED")
        self._due = time.monotonic() + RECHECK_S
