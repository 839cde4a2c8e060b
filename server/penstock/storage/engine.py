"""One face of ClickHouse, whether it runs in this process (chDB) or behind a URL.

Queries run on threads that each own a client handle, so that nothing blocks the event loop and readers, commits and the
pipeline never wait for each other's handle.
"""

import asyncio
import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypeVar

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3 import Timeout

from penstock import limits
from penstock.settings import Settings
from penstock.storage import connection
from penstock.storage import payload as payloads
from penstock.storage.connection import CONNECT_S
from penstock.storage.deadline import within
from penstock.storage.failures import outcome_is_known, translated
from penstock.storage.payload import EmbeddedSource, HttpSource, Payload, PayloadSource, Write, literal
from penstock.storage.under_way import UnderWay
from penstock.tracing import traceparent

Row: TypeAlias = dict[str, Any]
Parameters: TypeAlias = Mapping[str, Any]
T = TypeVar("T")

# A statement's time is rounded up to one of these, because a bound is the handle's: setting it costs a statement.
_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, limits.UNARY_DEADLINE_S, 60.0, 300.0, limits.HEAVY_DEADLINE_S)
ANSWER_S = 5.0  # after a statement's own time is up, a server has so long to say so before it counts as gone


class Lane(Enum):
    """Who a handle belongs to, and how many there are."""

    READ = limits.READ_HANDLES
    COMMIT = 1
    PIPELINE = limits.WRITE_HANDLES


_LANE_SECONDS = {
    Lane.READ: limits.UNARY_DEADLINE_S,
    Lane.COMMIT: limits.UNARY_DEADLINE_S,
    Lane.PIPELINE: limits.HEAVY_DEADLINE_S,
}


@dataclass(frozen=True, slots=True)
class Remote:
    """What an engine knows of the server behind its URL."""

    database: str
    cluster: str = ""  # empty: a single server


class Engine(Protocol):
    """What the rest of Penstock asks of ClickHouse.

    Raises Unavailable, TimedOut or Overloaded; anything else is a bug. After Unavailable or TimedOut of a statement
    that changes something, the change may have been made or may yet be: `settle` first, then look.
    """

    async def rows(
        self, sql: str, parameters: Parameters | None = None, *, lane: Lane = ..., timeout_s: float | None = ...
    ) -> list[Row]:
        """The rows of a SELECT, by column name; times are in UTC, without a zone. Parameters bind to `{name:Type}`."""
        ...

    async def arrow(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        lane: Lane = ...,
        timeout_s: float | None = ...,
        texts: bool = ...,
    ) -> pa.Table:
        """The rows of a SELECT as columns: for many rows, where `rows` makes an object of each value.

        Without `texts`, strings are bytes, of any kind."""
        ...

    async def execute(
        self, sql: str, parameters: Parameters | None = None, *, lane: Lane = ..., timeout_s: float | None = ...
    ) -> None:
        """Runs a statement that answers no rows."""
        ...

    async def insert_arrow(self, table: str, rows: pa.Table, *, lane: Lane = ...) -> None:
        """Appends an Arrow table, columns by name."""
        ...

    async def insert_payload(self, sql: str, payload: Payload, *, lane: Lane = ...) -> None:
        """Runs `INSERT … SELECT … FROM {source} … SETTINGS {settings}`, where `{source}` reads the payload's rows."""
        ...

    async def query_payload(self, sql: str, payload: Payload, *, lane: Lane = ...) -> list[Row]:
        """Runs `SELECT … FROM {source} … SETTINGS {settings}` over the payload's rows, storing nothing."""
        ...

    async def delete_rows(self, table: str, condition: str, *, lane: Lane = ...) -> None:
        """Removes the rows of `table` for which `condition`, in SQL without parameters, holds; returns afterwards."""
        ...

    async def settle(self, *, everybody: bool = False) -> None:
        """Returns once no statement still runs whose outcome a caller does not know, because it gave up waiting or the
        answer was lost; with `everybody`, once none runs that changes this database, whichever server began it."""
        ...

    def set_fence(self, condition: str) -> None:
        """From now on inserts that take rows along, and deletions, have no effect unless `condition` holds."""
        ...

    async def close(self) -> None:
        """Ends all handles; statements under way end first."""
        ...


class ClickHouseEngine:
    """`Engine` over clickhouse-connect, which has one client API for both."""

    def __init__(
        self,
        connect: Callable[[], Client],
        source: PayloadSource,
        remote: Remote | None = None,
        opened: Sequence[Client] = (),
    ) -> None:
        self._connect = connect
        self._clients = [*opened]
        self._spare = [*opened]
        self._source = source
        self._remote = remote
        self._fence = ""
        self._prefix = f"penstock/{remote.database}/" if remote else ""
        self._mark = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        self._unknown: set[str] = set()  # ids of writes whose answer was lost
        self._left: set[Future[Any]] = set()  # statements that run on although their caller went away
        self._local = threading.local()
        self._under_way = UnderWay()
        self._lanes = {
            lane: ThreadPoolExecutor(lane.value, thread_name_prefix=f"clickhouse-{lane.name.lower()}") for lane in Lane
        }

    @property
    def remote(self) -> Remote | None:
        """The server behind the URL; None for the embedded engine."""
        return self._remote

    async def rows(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        lane: Lane = Lane.READ,
        timeout_s: float | None = None,
    ) -> list[Row]:
        def work(client: Client) -> list[Row]:
            result = client.query(sql, parameters=dict(parameters or {}))
            return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

        return await self._run(sql, lane, work, timeout_s)

    async def arrow(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        lane: Lane = Lane.READ,
        timeout_s: float | None = None,
        texts: bool = True,
    ) -> pa.Table:
        def work(client: Client) -> pa.Table:
            return client.query_arrow(sql, parameters=dict(parameters or {}), use_strings=texts)

        return await self._run(sql, lane, work, timeout_s)

    async def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        lane: Lane = Lane.PIPELINE,
        timeout_s: float | None = None,
    ) -> None:
        await self._write(
            sql,
            lane,
            lambda client, write: client.command(sql, parameters=dict(parameters or {}), settings=write.settings),
            timeout_s,
        )

    async def insert_arrow(self, table: str, rows: pa.Table, *, lane: Lane = Lane.COMMIT) -> None:
        insert = f"INSERT INTO {table}"
        await self._write(insert, lane, lambda client, write: self._source.insert_arrow(client, table, rows, write))

    async def insert_payload(self, sql: str, payload: Payload, *, lane: Lane = Lane.COMMIT) -> None:
        await self._write(sql, lane, lambda client, write: self._source.insert(client, sql, payload, write))

    async def query_payload(self, sql: str, payload: Payload, *, lane: Lane = Lane.COMMIT) -> list[Row]:
        return await self._run(sql, lane, lambda client: self._source.query(client, sql, payload))

    async def delete_rows(self, table: str, condition: str, *, lane: Lane = Lane.COMMIT) -> None:
        if self._fence:
            # The fence reads a table, which ClickHouse lets a replicated deletion do only on demand.
            condition = f"({condition}) AND {self._fence}"
        cluster = self._remote.cluster if self._remote else ""
        target = f"{table}_local ON CLUSTER {literal(cluster)}" if cluster else table
        await self.execute(
            f"ALTER TABLE {target} DELETE WHERE {condition}"
            f" SETTINGS mutations_sync = 2{', allow_nondeterministic_mutations = 1' if self._fence else ''}",
            lane=lane,
            timeout_s=limits.HEAVY_DEADLINE_S,
        )

    async def settle(self, *, everybody: bool = False) -> None:
        unknown = self._unknown.copy()
        if self._remote and (everybody or any(unknown)):
            ours = f"startsWith(query_id, {literal(self._prefix)})"
            chosen = ours if everybody else f"query_id IN {literal(sorted(filter(None, unknown)))}"
            on_cluster = f" ON CLUSTER {literal(self._remote.cluster)}" if self._remote.cluster else ""
            sql = f"KILL QUERY{on_cluster} WHERE {chosen} SYNC"
            await self._run(sql, Lane.READ, lambda client: client.command(sql))
            self._unknown -= unknown
        left = [asyncio.wrap_future(future) for future in self._left.copy()]
        await asyncio.gather(*left, return_exceptions=True)

    def set_fence(self, condition: str) -> None:
        self._fence = condition

    async def close(self) -> None:
        for executor in self._lanes.values():
            await asyncio.to_thread(executor.shutdown, wait=True)
        for client in self._clients:
            client.close()
        self._source.close()

    @property
    def load(self) -> Mapping[str, tuple[int, int]]:
        """Statements that run, and that wait for a handle, by lane. For any thread."""
        counts = self._under_way.counts()
        lanes = {lane.name.lower(): (counts.get(lane.name.lower(), 0), lane.value) for lane in Lane}
        return {name: (min(count, handles), max(0, count - handles)) for name, (count, handles) in lanes.items()}

    async def _write(
        self, sql: str, lane: Lane, work: Callable[[Client, Write], object], timeout_s: float | None = None
    ) -> None:
        # Only the lease writes on the readers' lane, and it is no part of what `settle` ends.
        named = self._remote and lane is not Lane.READ
        query_id = f"{self._prefix}{self._mark}/{next(self._numbers)}" if named else ""
        write = Write(query_id, self._fence)

        def follow(client: Client) -> None:
            try:
                work(client, write)
            except DatabaseError as error:
                if outcome_is_known(error):
                    self._unknown.discard(query_id)
                else:
                    self._unknown.add(query_id)
                raise
            self._unknown.discard(query_id)

        with self._under_way.one(sql, lane.name.lower()):
            future = self._submit(lane, follow, timeout_s)
            try:
                await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                self._unknown.add(query_id)
                if not future.done():
                    self._left.add(future)
                    future.add_done_callback(self._left.discard)
                raise

    async def _run(self, sql: str, lane: Lane, work: Callable[[Client], T], timeout_s: float | None = None) -> T:
        with self._under_way.one(sql, lane.name.lower()):
            return await asyncio.wrap_future(self._submit(lane, work, timeout_s))

    def _submit(self, lane: Lane, work: Callable[[Client], T], timeout_s: float | None) -> Future[T]:
        wanted = timeout_s or _LANE_SECONDS[lane]
        if lane is Lane.READ:  # what was begun on the others is to be finished
            wanted = within(wanted)
        seconds = next((s for s in _SECONDS if s >= wanted), _SECONDS[-1])
        return self._lanes[lane].submit(self._translated, work, seconds, traceparent() if self._remote else None)

    def _translated(self, work: Callable[[Client], T], seconds: float, parent: str | None) -> T:
        try:
            client = self._client(seconds)
            if isinstance(client, HttpClient):  # this thread's own, so no other statement has its headers
                client.headers.pop("traceparent", None)
                if parent is not None:
                    client.headers["traceparent"] = parent
            return work(client)
        except ClickHouseError as error:
            if self._remote is None:
                self._replace_client()
            raise translated(error) from error

    def _replace_client(self) -> None:
        """Gives up this thread's handle: what a failed statement had written already, chDB puts before the result of
        the handle's next one."""
        spoiled: Client | None = getattr(self._local, "client", None)
        self._local.client = None
        if spoiled is not None:
            with contextlib.suppress(ClickHouseError):
                # First, because the engine lives as long as one handle does.
                self._spare.append(self._opened())
                self._clients.remove(spoiled)
                spoiled.close()

    def _client(self, seconds: float) -> Client:
        """This thread's handle, its statements bounded to `seconds`.

        The bounds are the handle's own settings, because settings of a single statement cost the embedded engine more:
        0.2 ms behind a SELECT, and 9 ms with any other statement, where clickhouse-connect reads, sets and restores
        them around it. A `SET` costs 0.15 ms and is rarely needed.
        """
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            try:
                client = self._spare.pop()
            except IndexError:
                client = self._opened()
            self._local.client = client
            self._local.seconds = 0.0
        if self._local.seconds != seconds:
            client.set_client_setting("max_execution_time", seconds)
            if isinstance(client, HttpClient):
                client.timeout = Timeout(connect=CONNECT_S, read=seconds + ANSWER_S)
            self._local.seconds = seconds
        return client

    def _opened(self) -> Client:
        client = self._connect()
        self._clients.append(client)
        return client


def rows_as_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows by name, turned into columns by name."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def quoted(names: Iterable[str]) -> str:
    """Identifiers as a comma-separated list, in backticks."""
    return payloads.quoted(list(names))


def open_engine(settings: Settings) -> ClickHouseEngine:
    """The engine that the settings name.

    Raises Conflict when another server has the data folder open, or a ClickHouse server refuses user or database;
    Unavailable when a server does not answer.
    """
    connect = connection.embedded(settings) if settings.embedded else connection.server(settings)
    try:
        first = connect()
    except ClickHouseError as error:
        raise connection.start_up_error(settings, error) from error
    if settings.embedded:
        # Only who has the data folder's lock, which came with the handle, may clear the scratch folder.
        return ClickHouseEngine(connect, EmbeddedSource(connection.scratch_folder(settings.data_dir)), opened=[first])
    remote = Remote(connection.database_of(settings), settings.cluster)
    return ClickHouseEngine(connect, HttpSource(), remote, opened=[first])
