"""Heavy numerics in a process of their own, so that they hold up neither the event loop nor its GIL.

One worker, spawned at the first use: to fork a process that runs gRPC is not safe. What is run must be a function of a
module; its arguments and its result are pickled.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from typing import TypeVar

import structlog

from penstock import limits
from penstock.errors import Overloaded, PenstockError, TimedOut, Unavailable
from penstock.storage.shares import Shares

log = structlog.get_logger()

T = TypeVar("T")

ATTEMPTS = 2  # at a call whose worker dies
NICE = 5  # the server and its database come first


class Workers:
    """Runs functions in one worker, one after the other. Belongs to the event loop that first uses it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0
        self._turn = asyncio.Lock()
        self._calls = Shares(2 * limits.WORKER_CALLS_MAX, limits.WORKER_CALLS_MAX)
        self._running: asyncio.Task[object] | None = None
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object, timeout_s: float, tenant: str = "") -> T:
        """What `function(*args)` returns or raises; `tenant` is whose call it is.

        Raises Overloaded with `limits.WORKER_CALLS_MAX` calls of the tenant before it, or fewer beside others';
        TimedOut after `timeout_s` (which includes waiting for its turn and for the worker to start; a worker that is
        late is ended), Unavailable when the worker died over it twice, or is closed. A call that is cancelled while it
        runs is left to run on until its timeout: a new worker would take longer to start than nearly any call takes.
        """
        if self._closed:
            raise _closed()
        if not self._calls.take(tenant):
            raise Overloaded("too many computations are waiting", reason="OVERLOADED", retry_after_s=1.0)
        deadline = time.monotonic() + timeout_s
        try:
            await self._take_turn(timeout_s)
        except BaseException:
            self._calls.give_back(tenant)
            raise
        task = asyncio.create_task(self._run(function, args, deadline))
        self._running = task
        task.add_done_callback(partial(self._give_turn, tenant))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends the worker, whatever it does; calls that wait or run raise Unavailable."""
        self._closed = True
        self._kill()
        if self._running is not None:
            await asyncio.wait({self._running})
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
            self._pool = None

    async def _take_turn(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise _late() from None
        if self._closed:
            self._turn.release()
            raise _closed()

    def _give_turn(self, tenant: str, task: asyncio.Task[T]) -> None:
        self._calls.give_back(tenant)
        self._turn.release()
        if not task.cancelled():
            task.exception()  # seen, should nobody wait for it any more

    async def _run(self, function: Callable[..., T], args: tuple[object, ...], deadline: float) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._started(deadline)
                return await self._done(function, args, deadline)
            except BrokenProcessPool:
                await self._discard()
                if self._closed:
                    raise _closed() from None
                log.warning("the worker died", function=function.__qualname__, attempt=attempt)
        raise Unavailable("the computation ended its process", reason="WORKER_DIED", retry_after_s=1.0)

    async def _started(self, deadline: float) -> None:
        if self._pool is None:
            # From this thread, which lives as long as the server.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepared)
            self._pid = 0
        if self._pid == 0:
            self._pid = await self._done(os.getpid, (), deadline)

    async def _done(self, function: Callable[..., T], args: tuple[object, ...], deadline: float) -> T:
        assert self._pool is not None
        if self._closed:
            raise _closed()
        future = asyncio.wrap_future(self._pool.submit(function, *args))
        await asyncio.wait({future}, timeout=max(0.0, deadline - time.monotonic()))
        if future.done():
            return future.result()
        future.cancel()
        self._kill()
        await self._discard()
        raise _late()

    def _kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    async def _discard(self) -> None:
        pool, self._pool, self._pid = self._pool, None, 0
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)


def _prepared() -> None:
    """In the worker: Ctrl-C is the server's to handle, and without a server there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _late() -> PenstockError:
    return TimedOut("the computation did not finish in time", reason="DEADLINE_EXCEEDED")


def _closed() -> PenstockError:
    return Unavailable("the server is shutting down", reason="SHUTTING_DOWN", retry_after_s=1.0)
