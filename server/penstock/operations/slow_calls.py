"""The newest calls that took long, with what they took it for.

Kept in this process, so that to look at them costs a slow database nothing. The edge tells of unary calls only: a
stream lasts as long as its client likes.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from penstock.observation import Observation

SLOW_S = 0.3
CALLS_MAX = 200  # of one tenant
TENANTS_MAX = 1_000  # those that were slow last
ALL_CALLS_MAX = 20_000  # of all tenants together; each takes some 700 bytes


@dataclass(frozen=True, slots=True)
class SlowCall:
    """One call that took longer than SLOW_S."""

    time: datetime  # when it ended, in UTC
    operation: str  # "KpiService/GetMetrics"
    duration_ms: float
    code: str  # OK, or what it failed with
    request_id: str
    stages: tuple[tuple[str, float], ...]  # name and milliseconds, in the order in which they began to be known
    cache: bool | None  # whether the answer came from a cache; None: it looked into none

    @property
    def began(self) -> datetime:
        """When it began, in UTC."""
        return self.time - timedelta(milliseconds=self.duration_ms)


class SlowCalls:
    """Slow calls by tenant, each with its newest."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells seconds since 1970."""
        self._clock = clock
        self._calls: OrderedDict[str, deque[SlowCall]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Calls of all tenants that are kept."""
        return self._count

    def record(
        self, tenant: str, method: str, seconds: float, code: str, request_id: str, observed: Observation
    ) -> None:
        """A unary call has ended; it is kept if it was slow. Costs 0.05 µs if it was not."""
        if seconds <= SLOW_S:
            return
        call = SlowCall(
            time=datetime.fromtimestamp(self._clock(), UTC),
            operation=method.rpartition(".")[2],
            duration_ms=seconds * 1e3,
            code=code,
            request_id=request_id,
            stages=tuple(observed.stages.items()),
            cache=observed.cache,
        )
        calls = self._calls.setdefault(tenant, deque(maxlen=CALLS_MAX))
        self._count += len(calls) < CALLS_MAX
        calls.append(call)
        self._calls.move_to_end(tenant)
        while len(self._calls) > TENANTS_MAX or self._count > ALL_CALLS_MAX:
            _, dropped = self._calls.popitem(last=False)
            self._count -= len(dropped)

    def report(self, tenant: str, limit: int) -> list[SlowCall]:
        """The tenant's own, newest first, `limit` at most."""
        return list(islice(reversed(self._calls.get(tenant, ())), limit))
