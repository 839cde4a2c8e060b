"""Where searches run: on threads of their own, so many at a time, and neighbours that are asked for together in one go.

A hop to a thread and back costs about as much as a search of the graph. So whatever asked for neighbours while the last
batch was computed is computed together: with one hop, one evaluation of each filter, and one call of the index for all
that share it.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from penstock import limits
from penstock.errors import Overloaded
from penstock.search.index import Filter, Hits, IndexVersion, Plan

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
        self._executor = ThreadPoolExecutor(limits.SEARCH_THREADS, thread_name_prefix="search")
        self._waiting = 0
        self._wanted: deque[_Wanted] = deque()
        self._batches = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns. Raises Overloaded when too many wait."""
        self._check_room()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        finally:
            self._waiting -= 1

    async def nearest(self, version: IndexVersion, vectors: Vectors, limit: int, which: Filter) -> Neighbours:
        """The neighbours of (n, d) vectors among what passes. Raises Overloaded, InvalidInput."""
        self._check_room()
        loop = asyncio.get_running_loop()
        wanted = _Wanted(version, vectors, limit, which, loop.create_future())
        self._wanted.append(wanted)
        self._waiting += 1
        if self._batches < limits.SEARCH_THREADS:
            self._batches += 1
            self._executor.submit(self._compute, loop)
        try:
            return await wanted.done
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads; what runs is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _check_room(self) -> None:
        if self._waiting >= limits.SEARCHES_WAITING_MAX:
            raise Overloaded("too many searches wait for their turn", reason="OVERLOADED", retry_after_s=0.5)

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until nothing waits: all that does, in one go."""
        while True:
            taken: list[_Wanted] = []
            while self._wanted and len(taken) < limits.SEARCH_BATCH:
                try:
                    taken.append(self._wanted.popleft())
                except IndexError:  # the other thread was faster
                    break
            if taken:
                loop.call_soon_threadsafe(_deliver, _computed(taken))
                continue
            # Decided on the loop, where the queue is filled: what came since is not left behind.
            loop.call_soon_threadsafe(self._ended, loop)
            return

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._wanted:
            self._executor.submit(self._compute, loop)
        else:
            self._batches -= 1


def _computed(taken: Sequence[_Wanted]) -> list[tuple[_Wanted, Neighbours | Exception]]:
    groups: dict[tuple[int, int, Filter], list[_Wanted]] = defaultdict(list)
    for each in taken:
        if not each.done.cancelled():
            groups[each.version.number, each.limit, each.filter].append(each)
    results: list[tuple[_Wanted, Neighbours | Exception]] = []
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


def _deliver(results: Sequence[tuple[_Wanted, Neighbours | Exception]]) -> None:
    for wanted, result in results:
        if wanted.done.done():
            continue
        if isinstance(result, Exception):
            wanted.done.set_exception(result)
        else:
            wanted.done.set_result(result)
