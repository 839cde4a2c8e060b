"""Whether the measure of the event loop's lateness sees what makes it late."""

import asyncio
import time

import pytest

from penstock.operations import loop_lag
from penstock.operations.loop_lag import LoopLag

BLOCKED_S = 0.3


async def test_it_sees_a_loop_that_was_blocked() -> None:
    lag = LoopLag()
    lag.start()
    try:
        await asyncio.sleep(loop_lag.SAMPLE_EVERY_S / 2)
        time.sleep(BLOCKED_S)  # noqa: ASYNC251  # to block the loop is the point
        await asyncio.sleep(loop_lag.SAMPLE_EVERY_S * 2)
        assert lag.max_ms > (BLOCKED_S - loop_lag.SAMPLE_EVERY_S) * 1e3 * 0.9
    finally:
        lag.stop()


async def test_the_worst_is_kept_over_quieter_samples_and_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "WINDOW_S", 2)
    lag = LoopLag()
    assert lag.max_ms == 0
    lag.start()
    try:
        await asyncio.sleep(loop_lag.SAMPLE_EVERY_S / 2)
        time.sleep(BLOCKED_S)  # noqa: ASYNC251
        await asyncio.sleep(0.3)
        assert lag.max_ms > 100
        await asyncio.sleep(2.5)
        assert lag.max_ms < 150, "past the window it still counts"
    finally:
        lag.stop()


async def test_it_stops() -> None:
    lag = LoopLag()
    lag.start()
    lag.stop()
    await asyncio.sleep(loop_lag.SAMPLE_EVERY_S * 2)
    assert lag.max_ms == 0
