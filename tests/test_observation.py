"""What a call tells of itself reaches the call's own observation, and nobody else's."""

import asyncio
from contextlib import suppress
from contextvars import Context

import pytest

from penstock import observation
from penstock.observation import OTHER, STAGES_MAX, Observation
from penstock.storage.deadline import detached


async def test_an_observation_belongs_to_its_task() -> None:
    async def call(name: str, hit: bool) -> Observation:
        seen = observation.begin()
        await asyncio.sleep(0)
        observation.note_cache(hit, 0.25)
        observation.note_stage(name, 1.0)
        await asyncio.sleep(0)
        return seen

    first, second = await asyncio.gather(call("a", True), call("b", False))
    assert (first.cache, first.stages) == (True, {"a": 1.0})
    assert (second.cache, second.stages) == (False, {"b": 1.0})


async def test_tasks_and_threads_of_a_call_tell_of_it_too_and_detached_work_does_not() -> None:
    async def part(name: str) -> None:
        observation.note_stage(name, 1.0)

    async def call() -> Observation:
        seen = observation.begin()
        await asyncio.gather(part("one"), part("two"))
        await asyncio.to_thread(observation.note_stage, "thread", 1.0)
        await detached(part("of all"))
        return seen

    seen = await asyncio.create_task(call())
    assert set(seen.stages) == {"one", "two", "thread"}


def test_outside_of_a_call_nothing_happens() -> None:
    def outside() -> None:
        observation.note_cache(hit=True, seconds=0.25)
        observation.note_stage("a", 1.0)
        with observation.stage("b"):
            pass

    Context().run(outside)


@pytest.mark.parametrize(
    ("parts", "cache"),
    [([], None), ([True], True), ([False], False), ([True, False], False), ([False, True], False)],
)
def test_an_answer_with_one_computed_part_is_no_hit(parts: list[bool], cache: bool | None) -> None:
    def call() -> Observation:
        seen = observation.begin()
        for hit in parts:
            observation.note_cache(hit, 0.25)
        return seen

    seen = Context().run(call)
    assert seen.cache is cache
    assert seen.cache_s == 0.25 * len(parts)


async def test_a_stage_takes_as_long_as_its_block_however_that_ends() -> None:
    async def call() -> Observation:
        seen = observation.begin()
        for _ in range(2):
            with suppress(ZeroDivisionError), observation.stage("read"):
                await asyncio.sleep(0.02)
                raise ZeroDivisionError
        return seen

    seen = await asyncio.create_task(call())
    assert 38 < seen.stages["read"] < 500, "both times, in milliseconds"


def test_names_are_bounded_and_no_time_is_lost() -> None:
    def call() -> Observation:
        seen = observation.begin()
        for number in range(1_000):
            observation.note_stage(f"stage {number}", 1.0)
        observation.note_stage("stage 0", 1.0)
        return seen

    stages = Context().run(call).stages
    assert len(stages) == STAGES_MAX + 1
    assert stages[OTHER] == 1_000 - STAGES_MAX
    assert stages["stage 0"] == 2.0
