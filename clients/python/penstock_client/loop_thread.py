"""The event loop on which the sync client runs the async one.

All sync clients of a process share one: gRPC's poller serves one event loop well, and several with noise (grpc #25364).
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class SupportsAclose(Protocol):
    """An async iterator that holds something open."""

    async def aclose(self) -> None:
        """Lets go of it."""
        ...


_END = object()


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the loop and waits for it; an interrupt of the waiting cancels the work."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the sync client was called on its own event loop")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of `source`, each waited for as it is asked for."""
        try:
            while (item := self.run(_next(source))) is not _END:
                yield item
        finally:
            # Not waited for: an iterator that was dropped may be finalised on any thread, the loop's own too.
            asyncio.run_coroutine_threadsafe(_close(source), self._loop)


@functools.cache
def shared_loop() -> LoopThread:
    """The process's one, started with the first use."""
    return LoopThread()


async def _next(source: AsyncIterator[T]) -> T:
    # A coroutine must not raise StopAsyncIteration into a future of another thread.
    return await anext(source, _END)  # type: ignore[arg-type]


async def _close(source: AsyncIterator[object]) -> None:
    if isinstance(source, SupportsAclose):
        await source.aclose()
