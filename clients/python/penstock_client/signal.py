"""Waiting for a state to change."""

import asyncio
from collections.abc import Callable


class Signal:
    """Wakes whoever waits for a predicate; unlike asyncio.Condition it is told without awaiting a lock."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something changed."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def until(self, predicate: Callable[[], object]) -> None:
        """Returns once `predicate` holds; at once when it holds already."""
        while not predicate():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)
