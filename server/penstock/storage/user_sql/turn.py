"""One statement's use of a handle: from waiting for it until the engine has let go of it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock import limits
from penstock.errors import PenstockError
from penstock.storage.user_sql.failures import translated
from penstock.storage.user_sql.handles import Control, Handle, Sample
from penstock.storage.user_sql.limits import Limit
from penstock.storage.user_sql.pool import Pool
from penstock.storage.user_sql.statement import Statement, Usage

log = structlog.get_logger()

T = TypeVar("T")
STOP_AGAIN_S = 0.05  # a statement that is being parsed is not there to be stopped yet


class Turn:
    """One statement's use of a handle."""

    def __init__(
        self,
        statement: Statement,
        bounds: Mapping[str, Limit],
        pool: Pool,
        executor: ThreadPoolExecutor,
        watcher: "Watcher",
    ) -> None:
        self._statement = statement
        self._bounds = bounds
        self._pool = pool
        self._executor = executor
        self._watcher = watcher
        self._handle: Handle | None = None
        self._working: asyncio.Future[object] | None = None
        self._at_end: list[Callable[[], None]] = []
        self._failed = False
        self.started = time.monotonic()
        self.rows_read = 0  # that pieces of the result came with
        self.bytes_read = 0
        self.seen: Sample | None = None

    @property
    def quiet(self) -> bool:
        """Whether no thread works for the statement now."""
        return self._working is None or self._working.done()

    @property
    def mark(self) -> str | None:
        """By which the engine knows the statement; None before it has a handle."""
        return None if self._handle is None else self._handle.mark(self._statement)

    def usage(self) -> Usage:
        """What the statement took so far, as far as it was looked at."""
        elapsed_ms = (time.monotonic() - self.started) * 1e3
        if self.seen is None:
            return Usage(self.rows_read, self.bytes_read, elapsed_ms)
        rows_read, bytes_read = max(self.seen.rows_read, self.rows_read), max(self.seen.bytes_read, self.bytes_read)
        return Usage(rows_read, bytes_read, elapsed_ms, self.seen.memory_bytes)

    async def do(self, work: Callable[[Handle], T]) -> T:
        """Does a part of the statement's work on the handle, in a thread."""
        working = asyncio.wrap_future(self._executor.submit(self._work, work))
        self._working = cast("asyncio.Future[object]", working)
        # The shield: a thread cannot be cancelled, only the statement that it waits for.
        return await asyncio.shield(working)

    def break_off(self, work: Callable[[], None]) -> None:
        """Has `work`, which ends a statement that was not read to its end, done in a thread at the end of the turn."""
        self._at_end.append(work)
        self._failed = True

    async def end(self) -> None:
        """Stops the statement if it still runs, and gives the handle back."""
        try:
            while self._working is not None and not self._working.done():
                if self.mark is not None:
                    await self._watcher.stop(self.mark)
                await asyncio.wait([self._working], timeout=STOP_AGAIN_S)
            if self._working is not None:
                self._working.exception()  # which nobody waits for any more
            for work in self._at_end:
                await asyncio.wrap_future(self._executor.submit(_quietly, work))
            if self._failed and self._handle is not None and self._handle.spoils:
                await asyncio.wrap_future(self._executor.submit(_quietly, self._handle.close))
                self._handle = None
        finally:
            self._watcher.end(self)
            self._pool.give(self._statement.tenant, self._handle)

    def _work(self, work: Callable[[Handle], T]) -> T:
        failed, self._failed = self._failed, True  # whatever goes wrong now
        try:
            if self._handle is None:
                self._handle = self._pool.take()
            done = work(self._handle)
        except ClickHouseError as error:
            raise translated(error, self._bounds) from error
        self._failed = failed
        return done


class Watcher:
    """Looks at running statements from a handle of its own, and stops them."""

    def __init__(self, opened: Callable[[], Control]) -> None:
        self._opened = opened
        self._control: Control | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="user-sql-control")
        self._turns: set[Turn] = set()
        self._looking: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        return len(self._turns)

    def begin(self, turn: Turn) -> None:
        self._turns.add(turn)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    def end(self, turn: Turn) -> None:
        self._turns.discard(turn)

    async def stop(self, mark: str) -> None:
        try:
            await self._do(lambda control: control.stop(mark))
        except (ClickHouseError, PenstockError) as error:
            log.warning("a statement could not be stopped yet", error=str(error)[:500])

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        if self._control is not None:
            self._control.close()

    async def _look(self) -> None:
        while self._turns:
            await asyncio.sleep(limits.SQL_SAMPLE_S)
            old = time.monotonic() - limits.SQL_SAMPLE_S
            if not any(turn.started <= old for turn in self._turns):
                continue  # most statements are over before anybody looks
            try:
                samples = await self._do(lambda control: control.samples())
            except (ClickHouseError, PenstockError) as error:
                log.warning("running statements cannot be looked at", error=str(error)[:500])
                continue
            for turn in self._turns:
                turn.seen = samples.get(turn.mark or "", turn.seen)

    async def _do(self, work: Callable[[Control], T]) -> T:
        def with_control() -> T:
            if self._control is None:
                self._control = self._opened()
            return work(self._control)

        return await asyncio.wrap_future(self._executor.submit(with_control))


def _quietly(work: Callable[[], None]) -> None:
    try:
        work()
    except ClickHouseError as error:  # of a statement that was stopped
        log.debug("a stream ended", error=str(error)[:500])
