"""What is asked for most, and that it is computed before it is asked for again."""

import asyncio

import pytest

from penstock.cache import popular, warming
from penstock.cache.popular import HOUR_S, Popular
from penstock.cache.warming import Warmed, Warmer
from penstock.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_counts_are_of_a_tenant_and_fade() -> None:
    clock = Clock()
    counted = Popular(clock)
    for _ in range(5):
        counted.note("a", b"lamp")
    for _ in range(4):
        counted.note("a", b"hat")
    counted.note("b", b"hat")
    assert counted.most("a", at_least=5, limit=9) == [b"lamp"]
    assert counted.most("a", at_least=1, limit=9) == [b"lamp", b"hat"]
    assert counted.most("b", at_least=2, limit=9) == []
    assert counted.tenants() == {"a", "b"}
    clock.now = 0.6 * HOUR_S
    counted.note("a", b"hat")
    assert set(counted.most("a", at_least=5, limit=9)) == {b"lamp", b"hat"}
    clock.now = 1.2 * HOUR_S
    assert counted.most("a", at_least=1, limit=9) == [b"hat"]
    clock.now = 5 * HOUR_S
    assert counted.most("a", at_least=1, limit=9) == []
    assert counted.tenants() == set()


def test_what_is_asked_once_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popular, "KEYS_MAX", 100)
    counted = Popular(Clock())
    for _ in range(3):
        counted.note("a", b"lamp")
    for number in range(1_000):
        counted.note("a", b"%d" % number)
    assert counted.most("a", at_least=3, limit=9) == [b"lamp"]
    assert len(counted.most("a", at_least=1, limit=10_000)) <= 100
    counted.note("a", b"x" * 10_000)
    assert counted.most("a", at_least=1, limit=10_000)[0] == b"lamp"
    counted.forget("a", b"lamp")
    assert counted.most("a", at_least=2, limit=9) == []


class Area:
    def __init__(self) -> None:
        self.now: str | None = "1"
        self.warmed: list[str | None] = []
        self.busy = False

    def tenants(self) -> set[str]:
        return {"a"}

    def version(self, tenant: str) -> str | None:
        return self.now

    async def warm(self, tenant: str, limit: int) -> Warmed:
        if self.busy:
            raise Overloaded("busy", reason="OVERLOADED", retry_after_s=1.0)
        self.warmed.append(self.now)
        return Warmed(computed=1)


async def test_answers_are_warmed_when_what_they_depend_on_has_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "LOOK_S", 0.01)
    area = Area()
    warmer = Warmer([area])
    warmer.start()

    async def until(count: int) -> None:
        async with asyncio.timeout(5):
            while len(area.warmed) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    await until(1)
    await asyncio.sleep(0.1)
    assert area.warmed == ["1"], "once for each version"
    area.busy, area.now = True, "2"
    await asyncio.sleep(0.1)
    area.busy = False
    await until(2)
    assert area.warmed == ["1", "2"], "and again after it could not be done"
    await warmer.stop()
