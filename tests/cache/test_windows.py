"""Windows of limits: never more than the limit, on one server and on two, with Redis and without it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cache.redis import Redis, key_of
from penstock.cache.windows import ASKED_MAX, BUCKETS, KNOWN_S_MAX, TAKE, Ask, Taken, Usage, Window, Windows
from tests.cache.running import GET, PATIENT_S, Server, flush, noticed_away
from tests.waiting import until

SMALL = Window(20, 60)  # counted call by call
LARGE = Window(10_000, 60)  # leased by the hundred
SPAN_MS = 1_000  # of the windows that questions are made up for


@dataclass(slots=True)
class Clock:
    """A clock that is set by hand."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def servers(server: Server) -> AsyncIterator[tuple[Windows, Windows]]:
    """Two servers on one Redis."""
    async with AsyncExitStack() as stack:
        one, other = [
            Windows(await stack.enter_async_context(Redis(server.url, call_s_max=PATIENT_S))) for _ in range(2)
        ]
        yield one, other


async def taken(windows: Windows, window: Window, calls: int, cost: int = 1, subject: str = "s") -> list[Taken]:
    """What became of calls that come at the same time."""
    return await asyncio.gather(*(windows.take(subject, window, cost) for _ in range(calls)))


def allowed(calls: Sequence[Taken]) -> int:
    """How many of them were."""
    return sum(each.allowed for each in calls)


# --- the same in Redis and here ----------------------------------------

_STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 400), st.integers(-1_500, 1_500)),  # milliseconds since the step before
        st.lists(st.integers(1, 12), max_size=5),  # costs
        st.integers(0, 20),  # leased
        st.integers(0, 8),  # given back of what was granted before
        st.sampled_from([0, SPAN_MS // BUCKETS]),  # lease
        st.sampled_from([10, 30]),  # limit
    ),
    max_size=40,
)
_subjects = count()


@given(steps=_STEPS)
@settings(max_examples=150)
async def test_redis_and_python_count_alike(
    redis: Redis, steps: list[tuple[int, list[int], int, int, int, int]]
) -> None:
    key, usage, now, left_of_ms = key_of("test", str(next(_subjects))), Usage(), 10_000_000, 0
    for passed, costs, leased, left, lease_ms, limit in steps:
        now += passed
        ask = Ask(limit, SPAN_MS, SPAN_MS // BUCKETS, lease_ms, leased, left, left_of_ms, tuple(costs))
        reply = await redis.run(TAKE, [key], [now, *ask[:-1], *costs])
        granted, redis_now, text = cast(tuple[int, int, bytes], reply)
        assert (granted, redis_now) == (usage.take(now, ask), now)
        assert text.decode() == " ".join(f"{each.start_ms} {each.last_ms} {each.count}" for each in usage.buckets)
        assert granted == 0 or min(costs) <= granted <= max(sum(costs), leased)
        assert len(usage.buckets) <= BUCKETS + 4
        left_of_ms = usage.buckets[-1].start_ms if usage.buckets else 0


async def test_redis_forgets_in_time(redis: Redis) -> None:
    windows = Windows(redis)
    assert (await windows.take("s", Window(5, 1))).allowed
    key = key_of("window", "s", "1")
    assert await redis.run(GET, [key], ()) is not None
    await asyncio.sleep(1.01)
    assert await redis.run(GET, [key], ()) is None


# --- laws, counted here ----------------------------------------

_CALLS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 0.3), st.floats(0.0, 5.0)),  # seconds since the call before
        st.integers(1, 6),  # cost
        st.booleans(),  # whether it is made after as long as it was told to wait
    ),
    max_size=120,
)


@given(calls=_CALLS, limit=st.integers(1, 20), seconds=st.integers(1, 4))
def test_in_no_window_is_more_than_the_limit(calls: list[tuple[float, int, bool]], limit: int, seconds: int) -> None:
    clock, window = Clock(), Window(limit, seconds)
    windows = Windows(Redis(""), clock=clock)
    grants: list[tuple[float, int]] = []
    for passed, cost, patient in calls:
        clock.now += passed
        got = windows.try_take("s", window, cost)
        assert got is not None
        cost = min(cost, limit)
        if not got.allowed and patient:
            assert got.retry_after_s is not None
            assert 0 < got.retry_after_s <= seconds
            clock.now += got.retry_after_s
            got = windows.try_take("s", window, cost)
            assert got is not None
            assert got.allowed  # it was told when there is room
        if got.allowed:
            grants.append((clock.now, cost))
        assert got.limit == limit
        assert 0 <= got.remaining <= limit
        within = sum(cost for when, cost in grants if when > clock.now - seconds + 0.001)  # clocks count milliseconds
        assert within <= limit
        # What is refused is refused for what was taken a window and a bucket ago at most.
        counted = sum(cost for when, cost in grants if when > clock.now - seconds * (1 + 1 / BUCKETS) - 0.002)
        assert got.allowed or counted + cost > limit


@given(steps=_STEPS)
def test_leases_that_are_spent_late_are_within_the_limit_as_well(
    steps: list[tuple[int, list[int], int, int, int, int]],
) -> None:
    usage, now, lease_ms = Usage(), 10_000_000, SPAN_MS // BUCKETS
    grants: list[tuple[int, int]] = []
    for passed, costs, leased, _, _, _ in steps:
        now += abs(passed)
        ask = Ask(30, SPAN_MS, SPAN_MS // BUCKETS, lease_ms, leased, 0, 0, tuple(costs))
        grants.append((now, usage.take(now, ask)))
        # At worst all before is spent as late as it may be, and this at once.
        assert sum(count for when, count in grants if now - (when + lease_ms) < SPAN_MS) <= 30


@given(calls=_CALLS)
def test_after_a_window_of_silence_all_is_free(calls: list[tuple[float, int, bool]]) -> None:
    clock, window = Clock(), Window(7, 2)
    windows = Windows(Redis(""), clock=clock)
    got = windows.try_take("s", window)
    for passed, cost, _ in calls:
        clock.now += passed
        got = windows.try_take("s", window, cost)
    assert got is not None
    assert 0 < got.reset_s <= window.seconds
    clock.now += got.reset_s
    got = windows.try_take("s", window, window.limit)
    assert got is not None
    assert (got.allowed, got.remaining, got.retry_after_s) == (True, 0, None)


def test_what_costs_more_than_the_limit_costs_all_of_it() -> None:
    clock = Clock()
    windows = Windows(Redis(""), clock=clock)
    assert windows.try_take("s", Window(5, 60), 10) == Taken(True, 5, 0, 60.0)
    assert windows.try_take("s", Window(5, 60), 10) == Taken(False, 5, 0, 60.0, 60.0)
    clock.now += 60.0
    assert windows.try_take("s", Window(5, 60), 10) == Taken(True, 5, 0, 60.0)


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    usage, ask = Usage(), Ask(5, 60_000, 6_000, 0, 0, 0, 0, (5,))
    assert usage.take(10_000_000, ask) == 5
    assert usage.take(10_000_000 - 30_000, ask) == 0
    assert usage.wait_ms(10_000_000 - 30_000, 60_000, 0) == 90_000
    assert usage.take(10_000_000 - 3_600_000, ask) == 5


@pytest.mark.parametrize(("limit", "seconds"), [(0, 60), (60, 0), (-1, 60)])
def test_a_window_lets_something_through(limit: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Window(limit, seconds)


def test_so_many_subjects_are_known_and_the_least_recently_used_goes() -> None:
    windows = Windows(Redis(""), subjects_max=3)
    once = Window(1, 60)
    for subject in ("a", "b", "c", "a", "d"):  # b goes
        windows.try_take(subject, once)
        assert len(windows) <= 3
    got = {subject: windows.try_take(subject, once) for subject in ("a", "c", "d", "b")}
    assert [subject for subject, each in got.items() if each is not None and each.allowed] == ["b"]


# --- servers that share a Redis ----------------------------------------


async def test_two_servers_share_a_small_limit_exactly(servers: tuple[Windows, Windows]) -> None:
    one, other = servers
    got = await asyncio.gather(taken(one, SMALL, 50), taken(other, SMALL, 50))
    assert sum(allowed(each) for each in got) == SMALL.limit
    got = await asyncio.gather(taken(one, SMALL, 9, cost=3, subject="t"), taken(other, SMALL, 9, cost=3, subject="t"))
    assert sum(allowed(each) for each in got) == SMALL.limit // 3
    assert allowed(await taken(other, SMALL, 9, subject="t")) == SMALL.limit % 3


@pytest.mark.parametrize("in_turn", [True, False])
async def test_call_by_call_it_is_as_exact(servers: tuple[Windows, Windows], in_turn: bool) -> None:
    turns = [place % 2 if in_turn else place // SMALL.limit for place in range(2 * SMALL.limit)]
    got = [await servers[turn].take("s", SMALL) for turn in turns]
    assert [each.allowed for each in got] == [True] * SMALL.limit + [False] * SMALL.limit
    assert [each.remaining for each in got[: SMALL.limit]] == list(range(SMALL.limit))[::-1]
    assert all(59 < each.reset_s <= 60 for each in got)


async def test_leases_keep_within_a_hundredth(servers: tuple[Windows, Windows]) -> None:
    one, other = servers
    assert (await one.take("s", LARGE)).remaining == LARGE.limit - 1  # it holds a lease of a hundred now
    got = 1 + allowed([await other.take("s", LARGE) for _ in range(LARGE.limit + 100)])
    assert LARGE.limit - LARGE.limit // 100 <= got < LARGE.limit
    got += allowed([await one.take("s", LARGE) for _ in range(LARGE.limit // 100 + 100)])
    assert got == LARGE.limit


async def test_a_lease_is_given_out_without_asking(redis: Redis) -> None:
    windows = Windows(redis)
    got = [await windows.take("s", LARGE) for _ in range(1_000)]
    assert redis.counters.answered == 10
    assert [each.remaining for each in got] == list(range(LARGE.limit))[::-1][:1_000]
    assert windows.try_take("s", LARGE) is None  # the eleventh must be asked for


async def test_what_is_left_of_a_lease_is_given_back(redis: Redis) -> None:
    """A caller that calls now and then is not charged for all the leases that were taken for it."""
    clock = Clock()
    windows = Windows(redis, clock=clock)
    for nth in range(300):
        got = await windows.take("s", LARGE)
        assert got.remaining == LARGE.limit - nth - 1
        clock.now += 1.1  # the lease is over; in Redis it is as if all came at once
    assert redis.counters.answered == 300


async def test_a_lease_counts_for_as_long_as_it_may_be_spent(redis: Redis) -> None:
    windows = Windows(redis)
    got = await windows.take("s", LARGE)
    assert 60.9 < got.reset_s <= 61.0
    assert (await windows.take("s", Window(10_000, 1))).reset_s == pytest.approx(1.1, abs=0.001)


async def test_many_calls_share_one_question(redis: Redis) -> None:
    windows = Windows(redis)
    assert allowed(await taken(windows, SMALL, 500)) == SMALL.limit
    assert redis.counters.answered == 1
    assert allowed(await taken(windows, LARGE, 500, subject="large")) == 500
    assert redis.counters.answered == 2
    assert allowed(await taken(windows, LARGE, 20_000, subject="flood")) == LARGE.limit
    assert redis.counters.answered <= 2 + LARGE.limit // ASKED_MAX


async def test_calls_of_different_cost_share_questions_and_none_is_overtaken_for_nothing(redis: Redis) -> None:
    windows = Windows(redis)
    costs = [9, 9, 9, 1, 1, 1]
    got = await asyncio.gather(*(windows.take("s", SMALL, cost) for cost in costs))
    assert [each.allowed for each in got] == [True, True, False, True, True, False]
    assert redis.counters.answered == 1


async def test_who_goes_away_costs_nothing(servers: tuple[Windows, Windows], redis: Redis) -> None:
    went = 0
    for turn in range(20):
        subject = f"s{turn}"
        calls = [asyncio.create_task(servers[turn % 2].take(subject, SMALL, 10)) for _ in range(2)]
        await asyncio.sleep(0)  # they wait
        await asyncio.sleep(0)  # and Redis is asked
        wanted = [call.cancel() for call in calls]
        if not all(wanted):
            continue  # Redis was faster, as happens on a busy machine
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in ended} == {asyncio.CancelledError}
        went += 1
        async with asyncio.timeout(PATIENT_S):
            while await redis.run(GET, [key_of("window", subject, "60")], ()):  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0.001)
        assert (await servers[0].take(subject, SMALL, 20)).allowed
    assert went


async def test_a_flood_of_refused_calls_does_not_reach_redis(redis: Redis) -> None:
    clock = Clock()
    windows = Windows(redis, clock=clock)
    assert allowed(await taken(windows, SMALL, 21)) == SMALL.limit
    answered = redis.counters.answered
    for cost in (1, 10):
        got = [windows.try_take("s", SMALL, cost) for _ in range(1_000)]
        assert all(each is not None and not each.allowed for each in got)
    clock.now += KNOWN_S_MAX
    assert windows.try_take("s", SMALL) is None
    assert redis.counters.answered == answered


async def test_who_waits_as_told_is_let_through(servers: tuple[Windows, Windows]) -> None:
    one, other = servers
    window = Window(20, 1)
    for turn in range(16):
        windows = servers[turn % 2]
        got = await windows.take("s", window, 3)
        if not got.allowed:
            assert got.retry_after_s is not None
            await asyncio.sleep(got.retry_after_s)
            assert (await windows.take("s", window, 3)).allowed
        await asyncio.sleep(0.02)
    assert len(one) == len(other) == 1


async def test_windows_and_subjects_are_apart(redis: Redis) -> None:
    windows = Windows(redis)
    assert allowed(await taken(windows, SMALL, 21)) == SMALL.limit
    assert (await windows.take("S", SMALL)).allowed
    assert (await windows.take("s", Window(20, 61))).allowed
    assert not (await windows.take("s", Window(10, 60))).allowed  # another limit for what was taken is no new window


# --- Redis that goes away ----------------------------------------


async def test_killed_it_is_counted_here_and_then_there_again(server: Server, hasty_redis: Redis) -> None:
    windows = Windows(hasty_redis)
    assert allowed(await taken(windows, SMALL, 15)) == 15
    async with server.hanging():
        await noticed_away(hasty_redis)
        got = windows.try_take("s", SMALL)
        assert got is not None
        assert (got.allowed, got.remaining) == (True, 4)  # what Redis had told still counts
        assert allowed(await taken(windows, SMALL, 30)) == 4
        assert allowed(await taken(windows, SMALL, 30, subject="t")) == SMALL.limit
        assert allowed(await taken(windows, LARGE, LARGE.limit + 100, subject="u")) == LARGE.limit
    await server.kill()
    await until(lambda: hasty_redis.available)
    await flush(hasty_redis)
    assert windows.try_take("t", SMALL) is None
    assert allowed(await taken(windows, SMALL, 30, subject="t")) == SMALL.limit  # Redis counts, and had forgotten


async def test_killed_under_load_every_call_has_an_answer(server: Server, hasty_redis: Redis) -> None:
    windows, ended, counted = Windows(hasty_redis), False, 0

    async def call(subject: str) -> None:
        nonlocal counted
        while not ended:
            got = await windows.take(subject, SMALL)
            counted += got.allowed
            await asyncio.sleep(0.001)

    callers = [asyncio.create_task(call(f"s{place % 4}")) for place in range(40)]
    for _ in range(2):
        await server.kill()
        await until(lambda: hasty_redis.available)
        await asyncio.sleep(0.1)
    ended = True
    await asyncio.gather(*callers)
    changes = 2 * hasty_redis.counters.recoveries
    assert 4 * SMALL.limit <= counted <= 4 * SMALL.limit * (1 + changes)


async def test_without_redis_nothing_waits() -> None:
    async with Redis("") as redis:
        windows = Windows(redis)
        got = [windows.try_take("s", SMALL) for _ in range(25)]
        assert [each is not None and each.allowed for each in got] == [True] * 20 + [False] * 5
        assert allowed(await taken(windows, SMALL, 25, subject="t")) == SMALL.limit
