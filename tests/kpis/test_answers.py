"""One computation for all who ask, one version at a time, never more answers than the bound."""

import asyncio

import pytest

from penstock.errors import Unavailable
from penstock.kpis.answers import Answers


class Computation:
    """Answers with its own count once it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        mine = self.begun
        await self.go.wait()
        return mine


async def test_all_who_ask_meanwhile_get_the_same_answer() -> None:
    answers, compute = Answers[int](8), Computation()
    asked = [asyncio.create_task(answers.get(1, "key", compute)) for _ in range(20)]
    await asyncio.sleep(0)
    compute.go.set()
    assert await asyncio.gather(*asked) == [1] * 20
    assert await answers.get(1, "key", compute) == 1
    assert compute.begun == 1


async def test_one_who_goes_away_takes_nothing_with_him() -> None:
    answers, compute = Answers[int](8), Computation()
    first = asyncio.create_task(answers.get(1, "key", compute))
    second = asyncio.create_task(answers.get(1, "key", compute))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    compute.go.set()
    assert await second == 1


async def test_another_version_is_computed_anew() -> None:
    answers, compute = Answers[int](8), Computation()
    compute.go.set()
    assert [await answers.get(version, "key", compute) for version in (1, 1, 2, 2)] == [1, 1, 2, 2]


async def test_a_slow_answer_of_an_old_version_does_not_come_back_as_a_new_one() -> None:
    answers, old, new = Answers[int](8), Computation(), Computation()
    asked = asyncio.create_task(answers.get(1, "key", old))
    await asyncio.sleep(0)
    new.begun = 10
    new.go.set()
    assert await answers.get(2, "key", new) == 11
    old.go.set()
    assert await asked == 1
    assert await answers.get(2, "key", new) == 11


async def test_the_least_recently_used_goes_first() -> None:
    answers, compute = Answers[int](2), Computation()
    compute.go.set()
    for key in ("a", "b", "a", "c"):
        await answers.get(1, key, compute)
    assert compute.begun == 3
    assert await answers.get(1, "a", compute) == 1
    assert await answers.get(1, "b", compute) == 4


async def test_a_failure_is_told_and_forgotten() -> None:
    answers: Answers[int] = Answers(2)
    failing = True

    async def compute() -> int:
        if failing:
            raise Unavailable("away", reason="STORAGE_UNAVAILABLE")
        return 1

    told = await asyncio.gather(*(answers.get(1, "key", compute) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in told] == [Unavailable] * 3
    failing = False
    assert await answers.get(1, "key", compute) == 1


async def test_a_failure_that_nobody_waits_for_is_not_a_warning() -> None:
    answers: Answers[int] = Answers(2)

    async def compute() -> int:
        await asyncio.sleep(0.01)
        raise Unavailable("away", reason="STORAGE_UNAVAILABLE")

    asked = asyncio.create_task(answers.get(1, "key", compute))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(0.05)
