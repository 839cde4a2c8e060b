"""How many calls run at once, and who else may wait: so that calls that are accepted are fast whatever comes in.

Who finds no place waits, for up to `patience_s`, and is served in the order in which they came: a burst, or some
callers more than there are places, each of whom waits for its answer before it asks again. When `few` or more have
waited for `interval_s`, and none of them for less than `standing_s`, there is more work than can be done: then a call
waits for `target_s` only, the newest is served first, and the others are refused. Those that were served in their order
would all have waited too long: for most of them nobody would wait any more.

CoDel with adaptive LIFO: Maurer, "Fail at Scale", ACM Queue 13(8), 2015; after Nichols and Jacobson, "Controlling Queue
Delay", ACM Queue 10(5), 2012. With two differences. Whether the queue stands is told from longer waits than are granted
then, and from how many wait: sixteen callers are no flood, however slow the machine. And overload is over when nobody
has been refused for `over_s`: while it lasts the queue is empty again and again, and each time it was taken for over,
the next calls waited many times as long as the others.

Then fewer may run at once, too, where that is asked for (`crowded`): calls that share processors take turns on them,
and the fewer take turns, the sooner each is done.

While as many wait as are served at once, who comes then is turned away before anything else is done for it: who it is,
what it wants. Five times the load is four refusals for each answer, and the loop has to come by for each.

Measured on one core: `try_enter` with `leave` takes 0.14 µs, `async with enter()` 0.4, waiting 20 or more.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from penstock.errors import Overloaded

TARGET_S = 0.01  # for so long calls wait when there are too many
STANDING_S = 0.03  # when nobody waited for less,
FEW = 32  # and so many did,
INTERVAL_S = 0.05  # for so long, there are too many
PATIENCE_S = 1.0  # for so long calls wait when there are not
OVER_S = 1.0  # nobody was refused for so long: the overload is over
RETRY_AFTER_S = 0.5  # long enough for a burst to be over, short enough for a person to wait


@dataclass(frozen=True, slots=True)
class Load:
    """What became of calls since the start, and what is under way."""

    in_use: int
    waiting: int
    admitted: int
    refused: Mapping[str, int]  # by why: `full`, the queue was; `late`, no place became free in time
    waited_s: float  # all that were admitted together
    longest_wait_s: float  # of one that was admitted


@dataclass(frozen=True, slots=True)
class _Waiter:
    since: float
    until: float


class Admission:
    """Places that calls take while they run. For one event loop.

    `try_enter` and `leave` for where a place is free, `async with enter()` for where it may not be.
    """

    def __init__(
        self,
        places: int,
        waiting_max: int,
        *,
        crowded: int | None = None,
        target_s: float = TARGET_S,
        standing_s: float = STANDING_S,
        few: int = FEW,
        interval_s: float = INTERVAL_S,
        patience_s: float = PATIENCE_S,
        over_s: float = OVER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` calls run at once, `crowded` when there are too many (None: as many), `waiting_max` wait.

        Raises ValueError for less than one place, or more of them in a crowd.
        """
        crowded = places if crowded is None else crowded
        if not 1 <= crowded <= places or waiting_max < 0:
            told = f"{places}, {crowded} in a crowd, {waiting_max}"
            raise ValueError(f"calls need at least one place, not more in a crowd, and no negative queue: {told}")
        self._places = places
        self._crowded = crowded
        self._waiting_max = waiting_max
        self._target_s = target_s
        self._standing_s = standing_s
        self._few = few
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._over_s = over_s
        self._clock = clock
        self._in_use = 0
        # Whoever waits, oldest first; only while all places are taken. The answer is whether a place was given.
        self._waiting: OrderedDict[asyncio.Future[bool], _Waiter] = OrderedDict()
        self._standing_since: float | None = None  # since when many wait for long; None: they do not
        self._refused_at = -math.inf  # when that was last
        self._admitted = 0
        self._refused = {"full": 0, "late": 0}
        self._waited_s = 0.0
        self._longest_wait_s = 0.0
        self._visit = _Visit(self)

    @property
    def load(self) -> Load:
        """The counters."""
        return Load(
            in_use=self._in_use,
            waiting=len(self._waiting),
            admitted=self._admitted,
            refused=dict(self._refused),
            waited_s=self._waited_s,
            longest_wait_s=self._longest_wait_s,
        )

    @property
    def overloaded(self) -> bool:
        """Whether there have been more calls than places for longer than a burst takes."""
        return self._in_use >= self._crowded and self._too_many()

    def turns_away(self) -> bool:
        """Whether who comes now need not even ask, because as many wait as are served, and not all of them will be.

        Counts as a refusal, so ask only for a call that is then refused."""
        if len(self._waiting) < self._crowded or not self.overloaded:
            return False
        self._refuse_until(self._clock() - self._target_s)
        if len(self._waiting) < self._crowded:
            return False
        self._count("full")
        return True

    def try_enter(self) -> bool:
        """Takes a place if one is free; then `leave` gives it back."""
        if self._in_use >= self._places or self.overloaded:
            return False
        self._in_use += 1
        self._admitted += 1
        if self._in_use >= self._crowded and self._standing_since is not None:
            self._forget_if_over(self._clock())
        return True

    def leave(self) -> None:
        """Gives a place back: to who waits, or to who comes next."""
        assert self._in_use, "more calls have left than entered"
        self._in_use -= 1
        while self._waiting:
            too_many = self._too_many()
            if self._in_use >= (self._crowded if too_many else self._places):
                return
            self._serve(*self._waiting.popitem(last=too_many))

    def enter(self) -> "_Visit":
        """A place for as long as the block runs. Entering it raises Overloaded (SERVER_BUSY)."""
        return self._visit

    async def wait(self) -> None:
        """Takes a place, waiting for one if none is free; then `leave` gives it back. Raises Overloaded."""
        if self.try_enter():
            return
        answer = self._join()
        try:
            if not await answer:
                raise busy()
        except BaseException:
            if self._waiting.pop(answer, None) is None and not answer.cancelled() and answer.result():
                self._admitted -= 1
                self.leave()  # it was given a place, and went away before it knew
            raise

    def _join(self) -> asyncio.Future[bool]:
        """A place in the queue: the answer will be whether it led to one. Raises Overloaded when there is none."""
        loop, now = asyncio.get_running_loop(), self._clock()
        overloaded = self.overloaded
        if overloaded:
            self._refuse_until(now - self._target_s)
        if len(self._waiting) >= self._waiting_max:
            if not (overloaded and self._waiting):
                self._count("full")
                raise busy()
            # The newest are served first, so the oldest has the least hope.
            self._refuse(self._waiting.popitem(last=False)[0], "full")
        if self._standing_since is None and len(self._waiting) + 1 >= self._few:
            self._standing_since = now
        patience_s = self._target_s if overloaded else self._patience_s
        answer: asyncio.Future[bool] = loop.create_future()
        self._waiting[answer] = _Waiter(now, now + patience_s)
        timer = loop.call_later(patience_s, self._expire, answer)
        answer.add_done_callback(lambda _: timer.cancel())
        return answer

    def _serve(self, answer: asyncio.Future[bool], waiter: _Waiter) -> None:
        now = self._clock()
        if now >= waiter.until:  # its timer is late, as is everything when the loop is
            self._refuse(answer, "late")
        if answer.done():  # or whoever waited was cancelled just now
            return
        answer.set_result(True)
        self._in_use += 1
        self._admitted += 1
        self._waited_s += now - waiter.since
        self._longest_wait_s = max(self._longest_wait_s, now - waiter.since)
        if now - waiter.since < self._standing_s or len(self._waiting) < self._few - 1:
            self._forget_if_over(now)

    def _too_many(self) -> bool:
        return self._standing_since is not None and self._clock() - self._standing_since > self._interval_s

    def _refuse_until(self, since: float) -> None:
        """Those who came before. They were promised more patience than there is now."""
        while self._waiting:
            answer, waiter = next(iter(self._waiting.items()))
            if waiter.since >= since:
                return
            del self._waiting[answer]
            self._refuse(answer, "late")

    def _expire(self, answer: asyncio.Future[bool]) -> None:
        if self._waiting.pop(answer, None) is not None:
            self._refuse(answer, "late")

    def _forget_if_over(self, now: float) -> None:
        """To be asked when nobody waits, or few, or not for long: from now on they have patience again."""
        if now - self._refused_at > self._over_s:
            self._standing_since = None

    def _refuse(self, answer: asyncio.Future[bool], why: str) -> None:
        if not answer.done():
            self._count(why)
            answer.set_result(False)

    def _count(self, why: str) -> None:
        self._refused[why] += 1
        self._refused_at = self._clock()


class _Visit:
    """`async with` for an Admission; it keeps nothing of a visit, so one serves all."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __aenter__(self) -> None:
        if not self._admission.try_enter():
            await self._admission.wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave()


def busy() -> Overloaded:
    """What a refused call is told."""
    return Overloaded(
        f"the server has as much to do as it can; try again in {RETRY_AFTER_S:g} s",
        reason="SERVER_BUSY",
        retry_after_s=RETRY_AFTER_S,
    )
