"""Answers that hold for one version of gold, each computed once however many ask for it at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Answers(Generic[T]):
    """At most `entries_max` answers, all of the newest version that was asked for; the least recently used goes first.

    A computation belongs to all who wait for it: one that goes away cancels nothing. A failure is told to those who
    wait and then forgotten.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._version: Hashable = None
        self._entries: OrderedDict[Hashable, asyncio.Task[T]] = OrderedDict()
        self._running: set[asyncio.Task[T]] = set()  # the loop itself holds tasks only weakly

    async def get(self, version: Hashable, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to `key` as of `version`, computed if it is not there. Raises what `compute` raises."""
        if version != self._version:
            self._version = version
            self._entries.clear()
        task = self._entries.get(key)
        if task is None:
            task = self._entries[key] = self._begin(key, compute)
        else:
            self._entries.move_to_end(key)
        return task.result() if task.done() else await asyncio.shield(task)

    def _begin(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        while len(self._entries) >= self._entries_max:
            self._entries.popitem(last=False)
        task = asyncio.create_task(compute())
        self._running.add(task)
        task.add_done_callback(partial(self._ended, key))
        return task

    def _ended(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._running.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if failed and self._entries.get(key) is task:
            del self._entries[key]
