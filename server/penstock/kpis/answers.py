"""Answers as of a version, each computed once however many ask for it at once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from penstock.observation import note_cache, stage
from penstock.storage.deadline import detached

T = TypeVar("T")


class Answers(Generic[T]):
    """At most `entries_max` answers of any versions; the least recently used goes first.

    A computation belongs to all who wait for it: one that goes away cancels nothing. A failure is told to those who
    wait and then forgotten.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[tuple[Hashable, Hashable], asyncio.Task[T]] = OrderedDict()
        self._running: set[asyncio.Task[T]] = set()  # the loop itself holds tasks only weakly

    async def get(self, version: Hashable, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to `key` as of `version`, computed if it is not there. Raises what `compute` raises."""
        began = time.perf_counter()
        place = (version, key)
        task = self._entries.get(place)
        note_cache(hit=task is not None and task.done(), seconds=time.perf_counter() - began)
        if task is None:
            task = self._entries[place] = self._begin(place, compute)
        else:
            self._entries.move_to_end(place)
        if task.done():
            return task.result()
        with stage("compute"):
            return await asyncio.shield(task)

    def _begin(
        self, place: tuple[Hashable, Hashable], compute: Callable[[], Coroutine[Any, Any, T]]
    ) -> asyncio.Task[T]:
        while len(self._entries) >= self._entries_max:
            self._entries.popitem(last=False)
        task = detached(compute())
        self._running.add(task)
        task.add_done_callback(partial(self._ended, place))
        return task

    def _ended(self, place: tuple[Hashable, Hashable], task: asyncio.Task[T]) -> None:
        self._running.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if failed and self._entries.get(place) is task:
            del self._entries[place]
