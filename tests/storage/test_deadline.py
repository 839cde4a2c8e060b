"""Statements end when their call's time is up, and what was begun for others does not."""

import asyncio
import time

import pytest

from penstock.errors import TimedOut
from penstock.storage.deadline import detached, keep_to, within
from penstock.storage.engine import ClickHouseEngine

ENDLESS = "SELECT max(cityHash64(number)) AS found FROM numbers(100000000000)"


async def test_a_read_ends_with_the_call_that_waits_for_it(engine: ClickHouseEngine) -> None:
    async def call() -> None:
        keep_to(time.monotonic() + 0.2)
        await engine.rows(ENDLESS)

    started = time.monotonic()
    with pytest.raises(TimedOut):
        await asyncio.create_task(call())
    assert time.monotonic() - started < 5


async def test_what_is_detached_has_no_deadline() -> None:
    async def look() -> float:
        return within(30.0)

    async def call() -> tuple[float, float]:
        keep_to(time.monotonic() - 1)
        return await asyncio.create_task(look()), await detached(look())

    assert await asyncio.create_task(call()) == (0.0, 30.0)
    assert within(30.0) == 30.0
