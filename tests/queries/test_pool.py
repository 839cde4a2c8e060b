"""Whose turn it is when more statements come than there are handles."""

import asyncio
from typing import cast

import pytest

from penstock import limits
from penstock.errors import Overloaded
from penstock.storage.user_sql.handles import Handle
from penstock.storage.user_sql.pool import Pool


def pool(size: int, of_tenant: int) -> Pool:
    return Pool(size, of_tenant, lambda: cast(Handle, object()))


class Line:
    """Statements of tenants, in the order in which they got their turn."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.served: list[str] = []
        self.waiting: list[asyncio.Task[None]] = []

    async def come(self, *tenants: str) -> None:
        for tenant in tenants:
            self.waiting.append(asyncio.create_task(self._wait(tenant)))
            await asyncio.sleep(0)

    async def end(self, tenant: str) -> None:
        self._pool.give(tenant, None)
        await asyncio.sleep(0)

    async def _wait(self, tenant: str) -> None:
        await self._pool.wait(tenant)
        self.served.append(tenant)


async def test_a_tenant_does_not_have_all_handles() -> None:
    line = Line(pool(3, 2))
    await line.come("a", "a", "a", "b")
    assert line.served == ["a", "a", "b"]
    await line.end("b")
    assert line.served == ["a", "a", "b"]
    await line.end("a")
    assert line.served == ["a", "a", "b", "a"]


async def test_tenants_take_turns_however_many_of_each_wait() -> None:
    line = Line(pool(1, 1))
    await line.come("a", *"aaaa", *"bb", "c")
    for tenant in "aabcaba":
        await line.end(tenant)
    assert "".join(line.served) == "aabcabaa"


async def test_who_stops_waiting_takes_no_turn() -> None:
    line = Line(pool(1, 1))
    await line.come("a", "a", "b", "b")
    line.waiting[1].cancel()
    line.waiting[2].cancel()
    await asyncio.sleep(0)
    await line.end("a")
    assert line.served == ["a", "b"]
    await line.end("b")
    await line.come("c")
    assert line.served == ["a", "b", "c"]


async def test_a_turn_that_is_given_to_one_who_just_left_goes_on() -> None:
    made = pool(1, 1)
    line = Line(made)
    await line.come("a", "b", "c")
    made.give("a", None)  # b is called,
    line.waiting[1].cancel()  # and leaves before it hears of it
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert line.served == ["a", "c"]


async def test_one_tenant_does_not_fill_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SQL_WAITING_MAX", 8)
    made = pool(1, 1)
    line = Line(made)
    await line.come(*["a"] * 7)
    with pytest.raises(Overloaded):
        await made.wait("a")
    await line.come("b")
    assert not any(each.done() for each in line.waiting[1:])
    for each in line.waiting:
        each.cancel()
