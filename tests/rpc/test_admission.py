"""Calls that are let in are fast: in a burst, under more load than can be served, and after it; nothing leaks."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from penstock.errors import Overloaded
from penstock.rpc.admission import INTERVAL_S, OVER_S, RETRY_AFTER_S, STANDING_S, TARGET_S, Admission
from tests.virtual_time import in_virtual_time, loop_time

SERVICE_S = 0.005
LONG_S = 1_000.0  # longer than any test
LOOP_S = 1e-5  # the clock's resolution, a few times


@dataclass(slots=True)
class Seen:
    """What became of calls, in the order in which it did."""

    served: list[object] = field(default_factory=list)
    served_s: list[float] = field(default_factory=list)  # from when they came until they were let in
    refused_s: list[float] = field(default_factory=list)  # until they were told

    async def call(self, admission: Admission, name: object = None, work_s: float = SERVICE_S) -> None:
        began = loop_time()
        try:
            async with admission.enter():
                self.served.append(name)
                self.served_s.append(loop_time() - began)
                await asyncio.sleep(work_s)
        except Overloaded:
            self.refused_s.append(loop_time() - began)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


async def settle() -> None:
    """Lets everything that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def queued(admission: Admission, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """A call that waits for a place."""
    waiting = admission.load.waiting
    task = asyncio.create_task(work())
    await settle()
    assert admission.load.waiting == waiting + 1
    return task


@in_virtual_time
async def test_so_many_run_at_once() -> None:
    admission = Admission(3, 10)
    assert [admission.try_enter() for _ in range(4)] == [True, True, True, False]
    admission.leave()
    assert admission.try_enter()
    load = admission.load
    assert (load.in_use, load.waiting, load.admitted, load.longest_wait_s) == (3, 0, 4, 0.0)


@in_virtual_time
async def test_what_fails_inside_gives_its_place_back() -> None:
    admission = Admission(1, 0)
    with pytest.raises(RuntimeError):
        async with admission.enter():
            raise RuntimeError
    assert admission.load.in_use == 0
    with pytest.raises(AssertionError):
        admission.leave()


@in_virtual_time
async def test_a_burst_is_served_in_order_without_refusals() -> None:
    admission, seen = Admission(10, 200, clock=loop_time), Seen()
    calls = [asyncio.create_task(seen.call(admission, place, 0.001)) for place in range(200)]
    await asyncio.gather(*calls)
    assert seen.served == list(range(200))
    load = admission.load
    assert load.refused == {"full": 0, "late": 0}
    assert (load.in_use, load.waiting, load.admitted) == (0, 0, 200)
    assert load.longest_wait_s == pytest.approx(max(seen.served_s), abs=0.01)
    assert load.longest_wait_s <= load.waited_s


@in_virtual_time
async def test_what_finds_the_queue_full_is_refused_at_once() -> None:
    admission, seen = Admission(1, 2, clock=loop_time), Seen()
    assert admission.try_enter()
    calls = [asyncio.create_task(seen.call(admission, place)) for place in range(3)]
    await settle()
    assert admission.load.refused == {"full": 1, "late": 0}
    with pytest.raises(Overloaded) as refusal:
        await admission.wait()
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("SERVER_BUSY", RETRY_AFTER_S)
    admission.leave()
    await asyncio.gather(*calls)
    assert seen.served == [0, 1]


@in_virtual_time
async def test_in_overload_the_newest_is_served_first_and_the_oldest_makes_room() -> None:
    now = 0.0
    admission, seen = Admission(1, 4, target_s=LONG_S, few=1, interval_s=10.0, clock=lambda: now), Seen()
    assert admission.try_enter()
    first = await queued(admission, partial(seen.call, admission, "first", 0))
    now += 9.9
    assert not admission.overloaded
    now += 0.2
    assert admission.overloaded
    calls = [await queued(admission, partial(seen.call, admission, place, 0)) for place in range(3)]
    extra = asyncio.create_task(seen.call(admission, "extra", 0))
    await settle()
    assert first.done()  # refused, to make room
    assert admission.load.refused == {"full": 1, "late": 0}
    admission.leave()
    await asyncio.gather(*calls, extra)
    assert seen.served == ["extra", 2, 1, 0]
    assert not admission.overloaded


@in_virtual_time
async def test_whoever_waited_too_long_is_not_served_even_if_its_timer_is_late() -> None:
    now = 0.0
    admission, seen = Admission(1, 4, patience_s=10.0, clock=lambda: now), Seen()
    assert admission.try_enter()
    call = await queued(admission, partial(seen.call, admission))
    now += 10.0
    admission.leave()
    await call
    assert (seen.served, len(seen.refused_s)) == ([], 1)
    assert (admission.load.in_use, admission.load.refused) == (0, {"full": 0, "late": 1})


@pytest.mark.parametrize("given_its_place", [False, True])
@in_virtual_time
async def test_a_cancelled_caller_loses_no_place(given_its_place: bool) -> None:
    admission, seen = Admission(1, 4, clock=loop_time), Seen()
    assert admission.try_enter()
    call = await queued(admission, partial(seen.call, admission, "cancelled"))
    other = await queued(admission, partial(seen.call, admission, "other", 0))
    if given_its_place:
        admission.leave()
        call.cancel()  # before it knows
    else:
        call.cancel()
        admission.leave()  # before it is gone
    await other
    with pytest.raises(asyncio.CancelledError):
        await call
    load = admission.load
    assert seen.served == ["other"]
    assert (load.in_use, load.waiting, load.admitted) == (0, 0, 2)


@pytest.mark.parametrize("seed", range(8))
@in_virtual_time
async def test_storms_of_cancellations_leak_nothing(seed: int) -> None:
    chance = random.Random(seed)
    places = chance.randint(1, 4)
    admission = Admission(
        places, chance.randint(0, 20), target_s=0.001, few=1, interval_s=0.004, patience_s=0.004, clock=loop_time
    )
    running = running_most = entered = refused = 0

    async def call() -> None:
        nonlocal running, running_most, entered, refused
        try:
            async with admission.enter():
                running += 1
                entered += 1
                running_most = max(running_most, running)
                try:
                    await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.002]))
                finally:
                    running -= 1
        except Overloaded:
            refused += 1

    calls: list[asyncio.Task[None]] = []
    for _ in range(600):
        calls.append(asyncio.create_task(call()))
        if chance.random() < 0.5:
            chance.choice(calls[-20:]).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice([0, 0, 0, 0.001, 0.003]))
        load = admission.load
        assert load.in_use == places if load.waiting else load.in_use <= places
    await asyncio.gather(*calls, return_exceptions=True)
    load = admission.load
    assert (load.in_use, load.waiting) == (0, 0)
    assert 0 < running_most <= places
    assert load.admitted == entered
    assert sum(load.refused.values()) >= refused  # some were cancelled when they had just been refused
    assert [admission.try_enter() for _ in range(places + 1)] == [True] * places + [False]


@in_virtual_time
async def test_under_five_times_the_load_what_is_served_is_fast_and_so_it_is_afterwards() -> None:
    """Four places of 5 ms serve 800 calls a second; 4,000 come."""
    admission, seen = Admission(4, 1_000, clock=loop_time), Seen()
    calls: list[asyncio.Task[None]] = []

    async def offer(a_second: int, seconds: float) -> None:
        for _ in range(round(seconds * 1_000)):
            calls.extend(asyncio.create_task(seen.call(admission)) for _ in range(a_second // 1_000))
            await asyncio.sleep(0.001)

    await offer(4_000, 3 * INTERVAL_S)  # until it is clear that it is no burst, and what came as one is gone
    seen.served_s.clear()
    seen.refused_s.clear()
    await offer(4_000, 1.0)
    assert admission.overloaded
    assert max(seen.served_s) <= TARGET_S + LOOP_S
    assert max(seen.refused_s) <= TARGET_S + LOOP_S
    assert len(seen.refused_s) > len(seen.served_s)
    assert len(seen.served_s) == pytest.approx(4 / SERVICE_S, abs=4)  # places are not idle

    await asyncio.gather(*calls)
    assert not admission.overloaded
    await asyncio.sleep(OVER_S)
    refused = sum(admission.load.refused.values())
    await asyncio.gather(*(seen.call(admission) for _ in range(40)))  # a burst of 50 ms is served again
    assert sum(admission.load.refused.values()) == refused


@in_virtual_time
async def test_a_queue_that_was_emptied_by_refusals_was_not_empty() -> None:
    now = 0.0
    admission, seen = Admission(1, 4, target_s=1.0, few=1, interval_s=10.0, patience_s=10.0, clock=lambda: now), Seen()
    assert admission.try_enter()
    call = await queued(admission, partial(seen.call, admission, "late", 0))
    now += 10.0
    admission.leave()  # nobody is left to be given the place
    await call
    assert admission.try_enter()  # and it was free for no time
    now += 0.1
    assert admission.overloaded
    admission.leave()
    now += 1.0
    assert admission.try_enter()  # now it was
    assert not admission.overloaded
    call = await queued(admission, partial(seen.call, admission, "burst", 0))
    now += 9.9
    admission.leave()
    await call
    assert seen.served == ["burst"]


@in_virtual_time
async def test_a_queue_that_was_served_is_no_overload() -> None:
    now = 0.0
    admission = Admission(1, 4, standing_s=9.5, few=1, interval_s=10.0, patience_s=LONG_S, clock=lambda: now)
    seen = Seen()
    for _ in range(5):  # the place is never free for long, and nobody waits for long
        admission.try_enter()
        call = await queued(admission, partial(seen.call, admission, "served", 0))
        now += 9.0
        assert not admission.overloaded
        admission.leave()
        await call
    assert len(seen.served) == 5


@pytest.mark.parametrize(
    ("places", "waiting_max", "crowded"), [(0, 1, None), (-1, 1, None), (1, -1, None), (1, 1, 0), (1, 1, 2)]
)
def test_there_is_a_place_at_least(places: int, waiting_max: int, crowded: int | None) -> None:
    with pytest.raises(ValueError, match="at least one place"):
        Admission(places, waiting_max, crowded=crowded)


@in_virtual_time
async def test_in_a_crowd_fewer_run_and_after_it_as_many_as_before() -> None:
    now = 0.0
    admission = Admission(3, 100, crowded=1, target_s=5.0, few=4, interval_s=10.0, over_s=1.0, clock=lambda: now)
    seen = Seen()
    assert [admission.try_enter() for _ in range(4)] == [True, True, True, False]
    first = [await queued(admission, partial(seen.call, admission, place, LONG_S)) for place in range(4)]
    now = 10.1
    assert admission.overloaded
    newest = asyncio.create_task(seen.call(admission, "a", LONG_S))
    await settle()
    assert all(call.done() for call in first)  # they were promised more patience, and now there is none
    for running in (2, 1):  # places that are given back, but not given on
        admission.leave()
        assert (admission.load.in_use, admission.load.waiting) == (running, 1)
    assert not admission.try_enter()
    admission.leave()
    await settle()
    assert seen.served == ["a"]
    assert admission.load.in_use == 1
    assert not admission.try_enter()
    now = 11.2  # nobody was refused for a second
    waiting = [await queued(admission, partial(seen.call, admission, place, LONG_S)) for place in "de"]
    admission.leave()  # as the call that runs would
    await settle()
    assert seen.served[0] == "a"
    assert sorted(map(str, seen.served[1:])) == ["d", "e"]
    assert admission.try_enter()
    assert admission.load.in_use == 3
    for call in (newest, *waiting):
        call.cancel()
    await asyncio.gather(newest, *waiting, return_exceptions=True)


@in_virtual_time
async def test_overload_lasts_until_nobody_was_refused_for_a_while() -> None:
    now = 0.0
    admission = Admission(1, 4, target_s=1.0, few=1, interval_s=10.0, patience_s=10.0, over_s=5.0, clock=lambda: now)
    seen = Seen()
    assert admission.try_enter()
    await queued(admission, partial(seen.call, admission, "late", 0))
    now = 10.1
    admission.leave()  # it is refused, and the queue is empty
    for moment, over in ((11.0, False), (15.0, False), (15.2, True)):
        now = moment
        assert admission.try_enter()
        assert admission.overloaded is not over
        admission.leave()


@in_virtual_time
async def test_who_comes_is_turned_away_while_as_many_wait_as_are_served() -> None:
    now = 0.0
    admission, seen = Admission(2, 100, target_s=LONG_S, few=2, interval_s=10.0, clock=lambda: now), Seen()
    assert admission.try_enter()
    assert not admission.turns_away()  # a place is free
    assert admission.try_enter()
    calls = [await queued(admission, partial(seen.call, admission, place, 0)) for place in range(2)]
    assert not admission.turns_away()  # a burst
    now = 10.1
    assert admission.turns_away()
    assert admission.load.refused == {"full": 1, "late": 0}
    admission.leave()
    await settle()
    assert not admission.turns_away()
    admission.leave()
    await asyncio.gather(*calls)


@in_virtual_time
async def test_a_few_callers_more_than_places_share_them_without_a_refusal() -> None:
    """Sixteen, of whom each makes one call after another: most wait, for longer than is granted in overload."""
    admission, seen = Admission(1, 100, clock=loop_time), Seen()
    until = loop_time() + 5 * INTERVAL_S

    async def calls() -> None:
        while loop_time() < until:
            await seen.call(admission)

    await asyncio.gather(*(calls() for _ in range(16)))
    assert not seen.refused_s
    assert percentile(seen.served_s, 0.5) > STANDING_S


@in_virtual_time
async def test_those_who_were_promised_more_patience_do_not_keep_others_out() -> None:
    now = 0.0
    admission, seen = (
        Admission(1, 100, target_s=1.0, few=3, interval_s=10.0, patience_s=LONG_S, clock=lambda: now),
        Seen(),
    )
    assert admission.try_enter()
    burst = [await queued(admission, partial(seen.call, admission, place, 0)) for place in range(3)]
    now = 10.1
    assert not admission.turns_away()
    await asyncio.gather(*burst)
    assert admission.load.refused == {"full": 0, "late": 3}
