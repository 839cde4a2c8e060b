"""How much a subject may take in a sliding window of time, counted in Redis for all servers together.

What was taken is kept in *buckets*: one begins with what is taken first, holds what is taken in the next tenth of the
window, and counts in full until what was taken last in it is a window old. So within no window is more granted than its
limit, after a window of silence all of it is free, and nothing counts for a tenth too long. (To weigh the oldest bucket
by how much of it is still in the window lets nearly twice the limit through, all of it late in that bucket first.)

A server takes a *lease* for a busy subject: a hundredth of the limit at once, which it then gives out without asking,
and which counts LEASE_S_MAX longer. What is left of it by then goes back with the next question. So each other server
may hold back a hundredth of a limit; below LEASE_LIMIT_MIN there are no leases, and limits are exact.

While Redis is away each server counts alone, on top of what Redis told it last. When Redis is back it does not learn
what was granted meanwhile: at each such change each server may grant a limit once more.

Measured on one core: a call from a lease 0.8 µs, a refusal without asking 2.5, counting alone 3.5 to 8, Redis 115.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from penstock.cache.redis import ABSENT, Redis, Script, key_of
from penstock.storage.deadline import detached

BUCKETS = 10  # of one window; at most four more are kept, see Usage
LEASES = 100  # a lease is so small a part of the limit,
LEASE_LIMIT_MIN = 2 * LEASES  # or none: of one call it would be none
LEASE_S_MAX = 1.0  # and it is spent so soon, or in a tenth of the window: so much longer does it count
KNOWN_S_MAX = 0.05  # so long is a refusal repeated without asking; meanwhile others may only have given back leases
ASKED_MAX = 500  # calls that share a question; what it grants to as many is more than most limits are
SUBJECTS_MAX = 20_000  # 0.7 kB each, 2.2 at most. Of those that are dropped Redis still counts all

# KEYS: the subject's. ARGV: the time in milliseconds, 0 for that of Redis, which is one for all servers; then an Ask,
# each cost apart. The same as Usage.take.
TAKE = Script(
    """
local now, limit, span, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, leased, left, left_of = unpack(ARGV, 5, 8)
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local buckets, used = {}, 0
for start, last, count in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%d+) (%d+) (%d+)') do
  count = start == left_of and count - left or tonumber(count)
  if count > 0 and math.abs(now - last) < span then
    table.insert(buckets, {tonumber(start), tonumber(last), count})
    used = used + count
  end
end
local granted = 0
for place = 9, #ARGV do
  if used + granted + ARGV[place] <= limit then
    granted = granted + ARGV[place]
  end
end
if granted > 0 then
  granted = math.max(granted, math.min(leased, limit - used))
  if #buckets == 0 or now - buckets[#buckets][1] >= width then
    table.insert(buckets, {now, 0, 0})
  end
  local newest = buckets[#buckets]
  newest[2] = math.max(newest[2], now + lease)
  newest[3] = newest[3] + granted
end
local texts, expires = {}, 1
for place, bucket in ipairs(buckets) do
  texts[place] = string.format('%d %d %d', unpack(bucket))
  expires = math.max(expires, bucket[2] + span - now)
end
redis.call('SET', KEYS[1], table.concat(texts, ' '), 'PX', expires)
return {granted, now, table.concat(texts, ' ')}
"""
)


@dataclass(frozen=True, slots=True)
class Window:
    """So much in any so many seconds. Raises ValueError for one that lets nothing through."""

    limit: int
    seconds: int

    def __post_init__(self) -> None:
        if self.limit < 1 or self.seconds < 1:
            raise ValueError(f"a window has a limit and seconds of at least 1, not {self}")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a call."""

    allowed: bool
    limit: int
    remaining: int  # of the limit, as far as this server knows; a refused call may have cost more than that
    reset_s: float  # until all of it is free, if nothing more is taken
    retry_after_s: float | None = None  # of a refusal: when there is room for such a call, if nothing more is taken


class Ask(NamedTuple):
    """What is asked of a subject's usage, in the order of TAKE's arguments. Times are in milliseconds."""

    limit: int
    span_ms: int
    width_ms: int  # of a bucket
    lease_ms: int  # how much later what is granted may be spent
    leased: int  # where anything is granted it is so much, if there is so much, whatever the calls cost
    left: int  # of the last lease: it is given back
    left_of_ms: int  # the start of the bucket that it was counted in
    costs: tuple[int, ...]  # of calls: each that fits is granted, in their order; none: only to give back


@dataclass(slots=True)
class Bucket:
    """What was taken in a short time. Times are in milliseconds, on whatever clock."""

    start_ms: int
    last_ms: int
    count: int


@dataclass(slots=True)
class Usage:
    """What a subject has taken, in buckets, oldest first.

    They begin a tenth of the window apart or more, and each counts for a window after its last grant, which may be
    spent two tenths after the bucket began: so there are at most fourteen.
    """

    buckets: list[Bucket] = field(default_factory=list)

    def take(self, now_ms: int, ask: Ask) -> int:
        """How much is granted, and counted from now on. The same as TAKE."""
        for bucket in self.buckets:
            if bucket.start_ms == ask.left_of_ms:
                bucket.count -= ask.left
        self.buckets = [each for each in self.live(now_ms, ask.span_ms) if each.count > 0]
        free, granted = ask.limit - sum([each.count for each in self.buckets]), 0
        for cost in ask.costs:
            granted += cost if granted + cost <= free else 0
        if granted:
            granted = max(granted, min(ask.leased, free))
            if not self.buckets or now_ms - self.buckets[-1].start_ms >= ask.width_ms:
                self.buckets.append(Bucket(now_ms, 0, 0))
            newest = self.buckets[-1]
            newest.last_ms = max(newest.last_ms, now_ms + ask.lease_ms)
            newest.count += granted
        return granted

    def live(self, now_ms: int, span_ms: int) -> list[Bucket]:
        """What still counts. Nothing does on a clock that was set back by more than a window."""
        return [each for each in self.buckets if abs(now_ms - each.last_ms) < span_ms]

    def wait_ms(self, now_ms: int, span_ms: int, used_max: int) -> int:
        """Until no more than `used_max` counts, if nothing more is taken; 0 when that is now."""
        live = self.live(now_ms, span_ms)
        excess, wait_ms = sum([each.count for each in live]) - used_max, 0
        for bucket in live:
            if excess > 0:
                excess -= bucket.count
                wait_ms = max(wait_ms, bucket.last_ms + span_ms - now_ms)
        return wait_ms


@dataclass(slots=True)
class _Subject:
    """What this server knows of a subject. Times are in seconds on this server's clock, except in `usage`."""

    window: Window
    usage: Usage = field(default_factory=Usage)  # as Redis told it last, or as this server counts alone
    ahead_ms: float = 0.0  # the clock of `usage`, of this server's
    left: int = 0  # of the lease
    left_of_ms: int = 0  # the start of the bucket that it was counted in
    spend_until: float = 0.0
    free: int = 0  # of the limit, the lease not in it
    reset_at: float = 0.0
    known_until: float = 0.0  # whom `usage` leaves no room is refused without asking
    waiters: list[tuple[int, asyncio.Future[Taken]]] = field(default_factory=list)  # what each costs, and its answer
    asking: asyncio.Task[None] | None = None

    def ask(self, costs: tuple[int, ...], leased: int = 0, lease_s: float = 0.0) -> Ask:
        """A question that gives back what is left of the lease."""
        (limit, span_ms), left, self.left = (self.window.limit, 1_000 * self.window.seconds), self.left, 0
        return Ask(limit, span_ms, span_ms // BUCKETS, int(lease_s * 1e3), leased, left, self.left_of_ms, costs)

    def granted(self, count: int, now: float) -> None:
        """Takes what was granted as the lease."""
        self.left, self.left_of_ms = count, self.usage.buckets[-1].start_ms if count else 0
        self.free = max(0, self.window.limit - sum([each.count for each in self.usage.buckets]))
        self.reset_at = now + self.wait_s(now, 0)

    def spend(self, cost: int, now: float) -> Taken:
        """Takes it from the lease."""
        self.left -= cost
        return Taken(True, self.window.limit, self.free + self.left, self.reset_at - now)

    def refusal(self, cost: int, now: float) -> Taken | None:
        """The refusal of a call that `usage` leaves no room; None when it does."""
        limit, left = self.window.limit, self.left
        retry_after_s = self.wait_s(now, limit - cost + left)
        return Taken(False, limit, self.free + left, self.wait_s(now, 0), retry_after_s) if retry_after_s else None

    def taken(self, cost: int, now: float) -> Taken | None:
        """What the lease or `usage` says of a call; None when neither does."""
        return self.spend(cost, now) if cost <= self.left else self.refusal(cost, now)

    def taken_alone(self, cost: int, now: float) -> Taken:
        """What this server says of a call without Redis."""
        self.granted(self.usage.take(self.now_ms(now), self.ask((cost,))), now)
        return cast(Taken, self.taken(cost, now))

    def wait_s(self, now: float, used_max: int) -> float:
        """Until no more than `used_max` counts."""
        return self.usage.wait_ms(self.now_ms(now), 1_000 * self.window.seconds, used_max) / 1e3

    def now_ms(self, now: float) -> int:
        """`now` on the clock of `usage`."""
        return round(now * 1e3 + self.ahead_ms)


class Windows:
    """Takes from windows, for callers in one event loop."""

    def __init__(
        self, redis: Redis, *, clock: Callable[[], float] = time.monotonic, subjects_max: int = SUBJECTS_MAX
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._subjects_max = subjects_max
        self._subjects: OrderedDict[tuple[str, int, int], _Subject] = OrderedDict()  # the one used last at the end

    def __len__(self) -> int:
        """Subjects that this server knows something of."""
        return len(self._subjects)

    def try_take(self, subject: str, window: Window, cost: int = 1) -> Taken | None:
        """As `take`, where that needs no waiting; None when Redis must be asked."""
        known, now = self._known(subject, window), self._clock()
        if cost <= known.left and now < known.spend_until:
            return known.spend(cost, now)
        cost = min(cost, window.limit)
        # While Redis is asked, something is perhaps being given back.
        if now < known.known_until and known.asking is None and (refusal := known.refusal(cost, now)) is not None:
            return refusal
        return None if self._redis.available else known.taken_alone(cost, now)

    async def take(self, subject: str, window: Window, cost: int = 1) -> Taken:
        """Takes `cost`, at least 1, or nothing when there is less. What costs more than the limit costs all of it."""
        taken = self.try_take(subject, window, cost)
        if taken is not None:
            return taken
        known = self._known(subject, window)
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        known.waiters.append((min(cost, window.limit), answer))
        if known.asking is None:
            # It begins when all that came at the same time wait already: they share its first question.
            known.asking = detached(self._ask(subject, known))
        return await answer

    def _known(self, subject: str, window: Window) -> _Subject:
        key = (subject, window.limit, window.seconds)
        known = self._subjects.get(key)
        if known is None:
            known = self._subjects[key] = _Subject(window)
            if len(self._subjects) > self._subjects_max:
                self._subjects.popitem(last=False)
        self._subjects.move_to_end(key)
        return known

    async def _ask(self, subject: str, known: _Subject) -> None:
        """Asks Redis, one question after the other, until all who wait have their answer."""
        key = key_of("window", subject, str(known.window.seconds))
        leased = known.window.limit // LEASES if known.window.limit >= LEASE_LIMIT_MIN else 0
        lease_s = min(LEASE_S_MAX, known.window.seconds / BUCKETS) if leased else 0.0
        try:
            # Where limits are exact, what nobody waits for any more is given back at once.
            while (waiters := [each for each in known.waiters if not each[1].done()]) or (known.left and not leased):
                known.waiters = waiters
                ask = known.ask(tuple(cost for cost, _ in waiters[:ASKED_MAX]), leased, lease_s)
                asked = self._clock()
                reply = await self._redis.run(TAKE, [key], [0, *ask[:-1], *ask.costs])
                now = self._clock()
                if reply is not ABSENT:
                    granted, redis_ms, text = cast(tuple[int, int, bytes], reply)
                    numbers = [int(each) for each in text.split()]
                    known.usage = Usage([Bucket(*numbers[place : place + 3]) for place in range(0, len(numbers), 3)])
                    known.ahead_ms = redis_ms - now * 1e3
                    known.granted(granted, now)
                    known.spend_until, known.known_until = asked + lease_s, now + KNOWN_S_MAX
                take = known.taken_alone if reply is ABSENT else known.taken
                for cost, answer in known.waiters:
                    if not answer.done() and (taken := take(cost, now)) is not None:
                        answer.set_result(taken)
        finally:
            known.asking = None
            for _, answer in known.waiters:
                answer.cancel()
