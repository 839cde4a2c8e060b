"""The handles of a lane, and whose turn it is when all are taken."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import TypeAlias

from penstock import limits
from penstock.errors import Overloaded
from penstock.storage.shares import Shares
from penstock.storage.user_sql.handles import Handle

Turns: TypeAlias = "deque[asyncio.Future[None]]"


class Pool:
    """At most `size` handles, `of_tenant` of them for one tenant, opened when they are needed.

    Tenants that wait take turns, each with the statement that waits longest.
    """

    def __init__(self, size: int, of_tenant: int, opened: Callable[[], Handle]) -> None:
        self._opened = opened
        self._free = size
        self._of_tenant = of_tenant
        self._running: Counter[str] = Counter()
        self._places = Shares(limits.SQL_WAITING_MAX)
        self._waiting: OrderedDict[str, Turns] = OrderedDict()  # whose turn is next, first
        self._idle: list[Handle] = []

    async def wait(self, tenant: str) -> None:
        """Waits for its turn. Raises Overloaded when too many do, or too many of the tenant."""
        if self._may_run(tenant):
            self._begin(tenant)
            return
        if not self._places.take(tenant):
            raise Overloaded("too many statements wait for their turn", reason="OVERLOADED", retry_after_s=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given just before
                self.give(tenant, None)
            raise
        finally:
            self._places.give_back(tenant)

    def take(self) -> Handle:
        """A handle, for one whose turn it is; blocks."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._opened()

    def give(self, tenant: str, handle: Handle | None) -> None:
        """Ends a turn of the tenant."""
        if handle is not None:
            self._idle.append(handle)
        self._free += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        while (following := next(filter(self._may_run, self._waiting), None)) is not None:
            self._call(following)

    def close(self) -> None:
        """Closes the handles, all of which are idle."""
        for handle in self._idle:
            handle.close()
        self._idle.clear()

    def _may_run(self, tenant: str) -> bool:
        return self._free > 0 and self._running[tenant] < self._of_tenant

    def _begin(self, tenant: str) -> None:
        self._free -= 1
        self._running[tenant] += 1

    def _call(self, tenant: str) -> None:
        """Gives the tenant a turn, unless nobody of it waits any more; it is the last one in the line then."""
        turns = self._waiting[tenant]
        while turns and (turn := turns.popleft()):
            if not turn.done():
                self._begin(tenant)
                turn.set_result(None)
                break
        if turns:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
