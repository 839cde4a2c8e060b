"""The record of what slow and heavy statements cost.

A record is a note in memory until the next writing, so it costs its query nothing and cannot fail it; a crash loses the
notes of the last seconds.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from penstock import limits
from penstock.errors import PenstockError
from penstock.queries.statement import Caller, Query
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.payload import literal
from penstock.storage.shares import Shares
from penstock.storage.user_sql.statement import Usage

log = structlog.get_logger()

WRITTEN_AT_ONCE = 100
ALWAYS = frozenset({"QUERY_LIMIT", "CANCELLED", "DEADLINE_EXCEEDED", "QUERY_STOPPED"})

_COLUMNS = (
    "tenant, time, query_id, user, request_id, client_address, method, sql, views, version, outcome, result_rows,"
    " rows_read, bytes_read, elapsed_ms, memory_bytes"
)
_WRITE = "INSERT INTO query_costs ({columns}) VALUES {values}"
_LIST = f"""
SELECT
    {_COLUMNS},
    toUnixTimestamp64Micro(time) AS micros
FROM query_costs
WHERE tenant = {{tenant:String}}
    AND time >= fromUnixTimestamp64Micro({{start:Int64}}, 'UTC')
    AND time < fromUnixTimestamp64Micro({{end:Int64}}, 'UTC')
    AND elapsed_ms >= {{min_ms:Float64}}
    AND ({{user:String}} = '' OR user = {{user:String}})
    AND (toUnixTimestamp64Micro(time), query_id) < ({{before_micros:Int64}}, {{before_id:String}})
ORDER BY time DESC, query_id DESC
LIMIT {{limit:UInt32}}
"""
END_MICROS = 9_000_000_000_000_000  # in the year 2255, before DateTime64(6) ends


@dataclass(frozen=True, slots=True)
class Cost:
    """One statement that was slow, heavy or stopped."""

    tenant: str
    time: datetime
    query_id: str
    caller: Caller
    sql: str
    views: tuple[str, ...]
    version: int
    outcome: str
    result_rows: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records."""

    tenant: str
    start: datetime | None = None
    end: datetime | None = None
    min_ms: float = 0.0
    user: str = ""
    before: tuple[int, str] | None = None  # microseconds and id of the last record of the page before
    limit: int = limits.PAGE_ROWS_DEFAULT


class CostRecorder:
    """Keeps notes, and writes them every few seconds."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock
        self._notes: deque[Cost] = deque()
        self._room = Shares(limits.SQL_COSTS_QUEUED_MAX)
        self._dropped = 0
        self._writing: asyncio.Task[None] | None = None

    def note(
        self,
        query: Query,
        caller: Caller,
        sql: str,
        views: tuple[str, ...],
        version: int,
        *,
        query_id: str,
        outcome: str,
        rows: int,
        usage: Usage | None,
    ) -> None:
        """Takes note of a statement that has ended, if it was slow, heavy or stopped. Never fails."""
        usage = usage or Usage()
        if not (outcome in ALWAYS or is_costly(usage)):
            return
        if not self._room.take(query.tenant):
            self._dropped += 1
            return
        shortened = sql[: limits.SQL_COST_CHARS_MAX]
        self._notes.append(
            Cost(query.tenant, self._clock(), query_id, caller, shortened, views, version, outcome, rows, usage)
        )

    def start(self) -> None:
        """Begins to write."""
        self._writing = asyncio.create_task(self._keep_writing(), name="query-costs")

    async def stop(self) -> None:
        """Writes what there is and ends."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None
        await self.flush()

    async def flush(self) -> None:
        """Writes all notes now; those that cannot be written wait for the next time."""
        while self._notes:
            batch = [self._notes[index] for index in range(min(WRITTEN_AT_ONCE, len(self._notes)))]
            values = ", ".join(_values(cost) for cost in batch)
            try:
                await self._engine.execute(_WRITE.format(columns=_COLUMNS, values=values), lane=Lane.PIPELINE)
            except PenstockError as error:
                log.warning("costs of queries cannot be written now", error=error.message, waiting=len(self._notes))
                return
            for cost in batch:
                self._notes.popleft()
                self._room.give_back(cost.tenant)

    async def list(self, selection: Selection) -> Sequence[Cost]:
        """Records, newest first. Raises Unavailable, TimedOut or Overloaded."""
        before_micros, before_id = selection.before or (END_MICROS, "")
        rows = await self._engine.rows(
            _LIST,
            {
                "tenant": selection.tenant,
                "start": _micros(selection.start, 0),
                "end": _micros(selection.end, END_MICROS),
                "min_ms": selection.min_ms,
                "user": selection.user,
                "before_micros": before_micros,
                "before_id": before_id,
                "limit": selection.limit,
            },
        )
        return [_cost(row) for row in rows]

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(limits.SQL_COSTS_INTERVAL_S)
            if self._dropped:
                log.warning("costs of queries were not recorded", dropped=self._dropped)
                self._dropped = 0
            with contextlib.suppress(PenstockError):
                await self.flush()


def is_costly(usage: Usage) -> bool:
    """Whether a statement was slow or heavy."""
    return (
        usage.elapsed_ms >= limits.SQL_COST_MS_MIN
        or usage.rows_read >= limits.SQL_COST_ROWS_MIN
        or usage.bytes_read >= limits.SQL_COST_BYTES_MIN
    )


def micros_of(cost: Cost) -> int:
    """When it ended, as page tokens say it."""
    return _micros(cost.time, 0)


def _values(cost: Cost) -> str:
    caller, usage = cost.caller, cost.usage
    texts = [cost.query_id, caller.user, caller.request_id, caller.client_address, caller.method, cost.sql]
    memory = "NULL" if usage.memory_bytes is None else f"{usage.memory_bytes:d}"
    return (
        f"({literal(cost.tenant)}, fromUnixTimestamp64Micro({micros_of(cost):d}, 'UTC'),"
        f" {', '.join(map(literal, texts))}, {literal(list(cost.views))}, {cost.version:d}, {literal(cost.outcome)},"
        f" {cost.result_rows:d}, {usage.rows_read:d}, {usage.bytes_read:d}, {usage.elapsed_ms:.3f}, {memory})"
    )


def _cost(row: Row) -> Cost:
    caller = Caller(row["method"], row["request_id"], row["client_address"], row["user"])
    usage = Usage(row["rows_read"], row["bytes_read"], row["elapsed_ms"], row["memory_bytes"])
    time = datetime.fromtimestamp(row["micros"] // 1_000_000, UTC).replace(microsecond=row["micros"] % 1_000_000)
    return Cost(
        row["tenant"], time, row["query_id"], caller, row["sql"], tuple(row["views"]), row["version"], row["outcome"],
        row["result_rows"], usage,
    )  # fmt: skip


def _micros(time: datetime | None, otherwise: int) -> int:
    if time is None:
        return otherwise
    return min(END_MICROS, max(0, int(time.timestamp()) * 1_000_000 + time.microsecond))
