"""Waiting for what nothing tells of."""

import asyncio
from collections.abc import Callable

WAIT_S_MAX = 30.0
LOOK_EVERY_S = 0.005


async def until(holds: Callable[[], bool]) -> None:
    """Waits until it holds. Raises TimeoutError after WAIT_S_MAX."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not holds():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(LOOK_EVERY_S)
