"""Whether the measure of the event loop's lateness sees what makes it late."""

import asyncio

import pytest

from penstock.operations.loop_lag import SAMPLE_EVERY_S, WINDOW_S, LoopLag
from tests.virtual_time import block, in_virtual_time

BLOCKED_S = 0.3
LATE_MS = 1e3 * (BLOCKED_S - SAMPLE_EVERY_S / 2)  # it is blocked half of the time before it was to be woken


@in_virtual_time
async def test_it_sees_a_loop_that_was_blocked() -> None:
    lag = LoopLag()
    assert lag.max_ms == 0
    lag.start()
    await asyncio.sleep(SAMPLE_EVERY_S / 2)
    block(BLOCKED_S)
    await asyncio.sleep(SAMPLE_EVERY_S / 2)
    assert lag.max_ms == pytest.approx(LATE_MS, abs=0.1)
    lag.stop()


@in_virtual_time
async def test_the_worst_is_kept_over_quieter_samples_and_then_forgotten() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(SAMPLE_EVERY_S / 2)
    block(BLOCKED_S)
    await asyncio.sleep(WINDOW_S - 1)
    assert lag.max_ms == pytest.approx(LATE_MS, abs=0.1)
    await asyncio.sleep(2)
    assert lag.max_ms < 1, "past the window it still counts"
    lag.stop()


@in_virtual_time
async def test_it_stops() -> None:
    lag = LoopLag()
    lag.start()
    lag.stop()
    await asyncio.sleep(SAMPLE_EVERY_S / 2)
    block(BLOCKED_S)
    await asyncio.sleep(2 * SAMPLE_EVERY_S)
    assert lag.max_ms == 0
