"""One computation for all who want its result at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from penstock.storage.deadline import detached

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Flights(Generic[T]):
    """Computations under way, by key.

    A computation belongs to all who wait for it: one that goes away, the first among them too, changes nothing for the
    others. When the last is gone, it is cancelled. A failure is told to all who wait.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        """Computations that new callers would join."""
        return len(self._flights)

    async def join(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result for `key`, of the computation under way or of a new one. Raises what it raises."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(detached(compute()))
            flight.task.add_done_callback(lambda _: self._landed(key, flight))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._landed(key, flight)  # who comes now must not join what is being cancelled
                flight.task.cancel()

    def _landed(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # nobody may be left to be told; asyncio shall not report it then
