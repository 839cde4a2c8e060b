"""Where searches run: on threads of their own, so many at a time, and neighbours that are asked for together in one go.

A hop to a thread and back costs about as much as a search of the graph. So whatever asked for neighbours while the last
batch was computed is computed together: with one hop, one evaluation of each filter, and one call of the index for all
that share it.
"""

import asyncio
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from penstock import limits
from penstock.errors import Overloaded, Unavailable
from penstock.search.index import Filter, Hits, IndexVersion, Plan
from penstock.storage.shares import Shares

P = ParamSpec("P")
T = TypeVar("T")

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest neighbours of some vectors."""

    hits: Sequence[Hits]
    plan: Plan
    matches: int  # products that pass the filter


@dataclass(slots=True)
class _Wanted:
    """One call's vectors."""

    version: IndexVersion
    vectors: Vectors
    limit: int
    filter: Filter
    done: asyncio.Future[Neighbours]


class SearchLane:
    """Runs what blocks."""

    def __init__(self) -> None:
        # Not an executor: its futures, locks and wakes took 20 µs of the loop for each search, this takes 2.
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.closing = False  # what has not begun does not begin any more
        self._waiting = Shares(2 * limits.SEARCHES_WAITING_MAX, limits.SEARCHES_WAITING_MAX)
        self._wanted: deque[_Wanted] = deque()
        self._batches = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"search-{number}", daemon=True)
            for number in range(limits.SEARCH_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, tenant: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns. Raises Overloaded when too many wait, and Unavailable when it is closed."""
        self._take_room(tenant)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put(lambda: self._run(loop, done, lambda: work(*args, **kwargs)))
        try:
            return await done
        finally:
            self._waiting.give_back(tenant)

    async def nearest(
        self, version: IndexVersion, vectors: Vectors, limit: int, which: Filter, *, tenant: str = ""
    ) -> Neighbours:
        """The neighbours of (n, d) vectors among what passes. Raises Overloaded, Unavailable, InvalidInput."""
        self._take_room(tenant)
        loop = asyncio.get_running_loop()
        wanted = _Wanted(version, vectors, limit, which, loop.create_future())
        self._wanted.append(wanted)
        if self._batches < limits.SEARCH_THREADS:
            self._batches += 1
            self._jobs.put(lambda: self._compute(loop))
        try:
            return await wanted.done
        finally:
            self._waiting.give_back(tenant)

    def close(self) -> None:
        """Ends the threads; what runs is finished first, what waits is cancelled."""
        self.closing = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _take_room(self, tenant: str) -> None:
        if self.closing:
            raise Unavailable("this server is stopping; ask another", reason="DRAINING", retry_after_s=0.5)
        if not self._waiting.take(tenant):
            raise Overloaded("too many searches wait for their turn", reason="OVERLOADED", retry_after_s=0.5)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds a version of the index, which is not to wait for the next job to be freed

    def _run(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], work: Callable[[], T]) -> None:
        if done.cancelled():
            return
        if self.closing:
            loop.call_soon_threadsafe(done.cancel)
            return
        try:
            result = work()
        except BaseException as error:  # whatever it is, the thread must not end of it, nor the caller wait for ever
            loop.call_soon_threadsafe(_set, done, error)
        else:
            loop.call_soon_threadsafe(_set, done, result)

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until nothing waits: all that does, in one go."""
        while True:
            taken: list[_Wanted] = []
            while self._wanted and len(taken) < limits.SEARCH_BATCH:
                try:
                    taken.append(self._wanted.popleft())
                except IndexError:  # the other thread was faster
                    break
            results: list[tuple[_Wanted, Neighbours | Exception | None]]
            results = [(each, None) for each in taken] if self.closing else _computed(taken)
            ended = not self._wanted
            loop.call_soon_threadsafe(self._deliver, loop, results, ended)
            if ended:
                return

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        results: Sequence[tuple[_Wanted, Neighbours | Exception | None]],
        ended: bool,
    ) -> None:
        for wanted, result in results:
            if result is None:
                wanted.done.cancel()
            else:
                _set(wanted.done, result)
        if not ended:
            return
        if self.closing:
            while self._wanted:
                self._wanted.popleft().done.cancel()
        # Decided on the loop, where the queue is filled: what came since is not left behind.
        if self._wanted:
            self._jobs.put(lambda: self._compute(loop))
        else:
            self._batches -= 1


def _computed(taken: Sequence[_Wanted]) -> list[tuple[_Wanted, Neighbours | Exception | None]]:
    groups: dict[tuple[int, int, Filter], list[_Wanted]] = defaultdict(list)
    for each in taken:
        if not each.done.cancelled():
            # By the object: numbers of versions of two tenants' indexes may be the same.
            groups[id(each.version), each.limit, each.filter].append(each)
    results: list[tuple[_Wanted, Neighbours | Exception | None]] = []
    for group in groups.values():
        try:
            results += zip(group, _together(group), strict=True)
        except Exception as error:
            # One of them may be at fault; each is told of its own.
            results += [(each, _alone(each)) for each in group] if len(group) > 1 else [(group[0], error)]
    return results


def _together(group: Sequence[_Wanted]) -> list[Neighbours]:
    first = group[0]
    matches = first.version.matching(first.filter)
    vectors = first.vectors if len(group) == 1 else np.concatenate([each.vectors for each in group])
    found = first.version.nearest(vectors, first.limit, matches)
    split, start = [], 0
    for each in group:
        end = start + len(each.vectors)
        split.append(Neighbours(found.hits[start:end], found.plan, matches.count))
        start = end
    return split


def _alone(wanted: _Wanted) -> Neighbours | Exception:
    try:
        return _together([wanted])[0]
    except Exception as error:
        return error


def _set(done: asyncio.Future[T], result: T | BaseException) -> None:
    if done.done():
        return
    if isinstance(result, BaseException):
        done.set_exception(result)
    else:
        done.set_result(result)
