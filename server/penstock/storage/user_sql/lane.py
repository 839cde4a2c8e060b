"""Lanes of handles for what users wrote, and how a statement is stopped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TypeVar

from penstock import limits
from penstock.settings import Settings
from penstock.storage import connection
from penstock.storage.user_sql.embedded import EmbeddedControl, EmbeddedHandle
from penstock.storage.user_sql.handles import Control, Handle, Piece
from penstock.storage.user_sql.http import HttpControl, HttpHandle
from penstock.storage.user_sql.limits import ANSWER_LIMITS, LIMITS, Limit
from penstock.storage.user_sql.pool import Pool
from penstock.storage.user_sql.statement import Answer, Format, Statement, Usage, parsed_answer
from penstock.storage.user_sql.turn import Turn, Watcher

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kind:
    handles: int
    of_tenant: int  # so many of them run one tenant's statements
    bounds: Mapping[str, Limit]


def _seconds(value: int) -> dict[str, Limit]:
    return {"max_execution_time": Limit(value, "seconds")}


class Lane(Enum):
    """Whose handle a statement takes, and its bounds: none waits for another lane's."""

    RUN = _Kind(limits.SQL_HANDLES, limits.SQL_TENANT_HANDLES, {**LIMITS, **ANSWER_LIMITS})
    STREAM = _Kind(
        limits.SQL_STREAM_HANDLES,
        limits.SQL_TENANT_HANDLES,
        {**LIMITS, **_seconds(limits.SQL_STREAM_SECONDS_MAX)},
    )
    PLAN = _Kind(1, 1, {**LIMITS, **ANSWER_LIMITS, **_seconds(limits.SQL_PLAN_SECONDS_MAX)})


@dataclass(slots=True)
class Meter:
    """Learns what a statement took."""

    usage: Usage | None = None  # when it has ended; of one that failed, as far as it was looked at


class UserSql:
    """Runs statements that the gate has let through.

    Raises InvalidInput (INVALID_SQL, INVALID_PARAMETER), TooCostly (QUERY_LIMIT), Overloaded, Unavailable or TimedOut.
    Whoever stops waiting stops the statement: cancelling `answer`, or leaving `stream`, ends the engine's work.
    """

    def __init__(
        self, open_handle: Callable[[Mapping[str, Limit]], Handle], open_control: Callable[[], Control]
    ) -> None:
        self._pools = {
            lane: Pool(lane.value.handles, lane.value.of_tenant, partial(open_handle, lane.value.bounds))
            for lane in Lane
        }
        threads = sum(lane.value.handles for lane in Lane)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="user-sql")
        self._watcher = Watcher(open_control)
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Statements that a handle works on."""
        return self._watcher.running

    async def answer(self, statement: Statement, lane: Lane = Lane.RUN, meter: Meter | None = None) -> Answer:
        """The whole result, held in memory; bound `statement.rows`. `meter` learns what it took, however it ends."""
        meter = meter or Meter()
        async with self._statement(statement, lane, meter) as turn:
            answer = await turn.do(lambda handle: parsed_answer(handle.answer(statement)))
            meter.usage = replace(answer.usage, memory_bytes=turn.usage().memory_bytes).rounded()
            return replace(answer, usage=meter.usage)

    @contextlib.asynccontextmanager
    async def stream(self, statement: Statement, form: Format, meter: Meter | None = None) -> AsyncIterator["Pieces"]:
        """The result piece by piece: whole lines, or whole Arrow streams."""
        async with self._statement(statement, Lane.STREAM, meter or Meter()) as turn:
            pieces = Pieces(turn, statement, form)
            try:
                yield pieces
            finally:
                pieces.end()

    async def close(self) -> None:
        """Ends all handles; statements under way are stopped by their callers' going away first."""
        await asyncio.gather(*self._endings, return_exceptions=True)
        await self._watcher.close()
        await asyncio.to_thread(self._executor.shutdown)
        for pool in self._pools.values():
            pool.close()

    @contextlib.asynccontextmanager
    async def _statement(self, statement: Statement, lane: Lane, meter: Meter) -> AsyncIterator[Turn]:
        pool = self._pools[lane]
        await pool.wait(statement.tenant)
        turn = Turn(statement, lane.value.bounds, pool, self._executor, self._watcher)
        self._watcher.begin(turn)
        try:
            yield turn
        finally:
            if meter.usage is None:
                meter.usage = turn.usage().rounded()
            # The handle is free when the engine has let go of it, which its caller need not wait for.
            ending = asyncio.create_task(turn.end())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            if turn.quiet:
                await ending


class Pieces:
    """A result on its way."""

    def __init__(self, turn: Turn, statement: Statement, form: Format) -> None:
        self._turn = turn
        self._statement = statement
        self._form = form
        self._pieces: Generator[Piece, None, None] | None = None
        self._ended = False

    @property
    def usage(self) -> Usage:
        """What the statement took so far."""
        return self._turn.usage().rounded()

    async def next(self, then: Callable[[bytes], T]) -> T | None:
        """The next piece as `then` reads it, in a thread; None when there is none."""

        def work(handle: Handle) -> T | None:
            if self._pieces is None:
                self._pieces = handle.pieces(self._statement, self._form)
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
                return None
            self._turn.rows_read += piece.rows_read
            self._turn.bytes_read += piece.bytes_read
            return then(piece.data)

        return await self._turn.do(work)

    def end(self) -> None:
        """No more is wanted."""
        if self._pieces is not None and not self._ended:
            self._turn.break_off(self._pieces.close)


def open_user_sql(settings: Settings) -> UserSql:
    """Lanes over the database that the settings name; handles are opened when they are needed.

    With the embedded engine, an `Engine` must be open over the same folder, and closed after this.
    """
    if settings.embedded:
        path = settings.data_dir / "clickhouse"
        return UserSql(partial(EmbeddedHandle, path), partial(EmbeddedControl, path))
    connect = connection.server(settings)
    return UserSql(partial(HttpHandle, connect), partial(HttpControl, connect, settings.cluster))
