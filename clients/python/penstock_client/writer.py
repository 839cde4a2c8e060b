"""The writing end of an ingest stream."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from types import TracebackType
from typing import Any, Literal, Self

from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_pb2 import Event
from penstock_client.acks import ERRORS_KEPT_MAX, Ack, AckQueue
from penstock_client.batch import FRAME_BYTES_MAX, Batch, MessageRows, Rows
from penstock_client.connection import Connection
from penstock_client.errors import Error, InvalidRequest, RejectedRow, RowsRejected, Unavailable, WriterClosed
from penstock_client.fields import event as build_event
from penstock_client.outbox import Flow, Outbox, Settled
from penstock_client.session import Session
from penstock_client.signal import Signal

RowPolicy = Literal["all_or_nothing", "keep_good"]
Durability = Literal["committed", "durable"]

_ROW_POLICIES: dict[str | None, events_pb2.RowPolicy] = {
    None: events_pb2.ROW_POLICY_UNSPECIFIED,
    "all_or_nothing": events_pb2.ROW_POLICY_ALL_OR_NOTHING,
    "keep_good": events_pb2.ROW_POLICY_KEEP_GOOD,
}
_DURABILITIES: dict[str | None, events_pb2.Durability] = {
    None: events_pb2.DURABILITY_UNSPECIFIED,
    "committed": events_pb2.DURABILITY_COMMITTED,
    "durable": events_pb2.DURABILITY_DURABLE,
}


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a writer batches, and what it asks of the server; see `EventsClient.writer`."""

    row_policy: RowPolicy | None = None
    min_durability: Durability | None = None
    batch_rows: int = 1_000
    batch_bytes: int = 1024 * 1024
    batch_delay_s: float = 0.05
    retry_total_s: float = 120.0


@dataclass(slots=True)
class WriterStats:
    """Counts since the writer was made."""

    rows_accepted: int = 0
    rows_rejected: int = 0  # left out by keep_good
    rows_refused: int = 0  # in batches that all_or_nothing refused whole
    rows_already_stored: int = 0  # found stored when they were sent again
    batches_settled: int = 0
    connections: int = 0
    last_commit: int = 0


class Writer:
    """Sends events; made by `client.events.writer(…)`, used as an async context manager.

    `send` gathers rows into batches and returns; it waits only while as much is unanswered as the server allows.
    `flush` returns when everything sent before is settled, and raises what was refused since the last flush. Leaving
    the context flushes; leaving it by an exception does not, it drops what is not settled.

    A named stream (`stream_id`) is exactly-once: rows are numbered, and after a broken connection the writer goes on
    where the server stands. A program that crashed opens the same stream and continues with row `next_offset`. The
    default stream is at-least-once: what was unanswered when the connection broke is sent again. A stream is for one
    writer at a time: rows of another are noticed (StreamTakenOver) unless they took the very offsets of rows that were
    under way when the connection broke.

    With all_or_nothing one bad row keeps its whole batch out. The writer then goes on: batches behind it move up and
    are sent again, so `next_offset` falls by the rows refused. The refusal, a `RowsRejected` that gives the rows back,
    is raised by the next `flush`; or comes with its ack, if acks are read, and is not raised then.

    Once a method raised anything but `RowsRejected` or `InvalidRequest` of its own argument the writer is dead, and
    every further call raises the same.
    """

    def __init__(self, connection: Connection, stream_id: str, options: WriterOptions) -> None:
        if options.batch_rows < 1 or options.batch_bytes < 1 or options.batch_delay_s < 0:
            raise ValueError("batch_rows and batch_bytes must be positive, batch_delay_s not negative")
        self.stream_id = stream_id
        self.stats = WriterStats()
        self._options = options
        self._connection = connection
        self._signal = Signal()
        self._outbox = Outbox(named=bool(stream_id))
        opening = pb.AppendRequest(
            stream_id=stream_id,
            row_policy=_ROW_POLICIES[options.row_policy],
            min_durability=_DURABILITIES[options.min_durability],
        )
        self._session = Session(
            connection, opening, self._outbox, self._signal, self._on_settled, options.retry_total_s
        )
        self._running: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self._acks: AckQueue | None = None
        self._refusals: list[Error] = []
        # The open batch: the lock lets `offer` add to it from another thread than the event loop's.
        self._lock = threading.Lock()
        self._rows: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._flow: Flow | None = None
        self._batch_rows = self._batch_bytes = self._row_bytes_max = 0
        self._follow_flow()

    @property
    def next_offset(self) -> int:
        """The offset that the next row will have, if none before it is refused; right after opening, the rows held.

        In the default stream it only counts.
        """
        return self._outbox.next_offset + len(self._rows)

    @property
    def stored_offset(self) -> int:
        """Everything before it is settled."""
        return self._outbox.stored_end

    # --- opening and closing ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the stream; `async with` does it. Raises the Error that forbids it, or that still did at timeout_s."""
        self._running = asyncio.create_task(self._run(), name=f"penstock writer {self.stream_id}")
        try:
            async with asyncio.timeout(self._connection.timeout_s):
                await self._signal.until(lambda: self._session.opened or self._failure)
        except BaseException as error:
            await self.abort()
            if not isinstance(error, TimeoutError):
                raise
            last = self._session.last_error
            raise last or Unavailable(f"{self._connection.target} does not answer", reason="UNAVAILABLE") from None
        self._raise_failure()

    async def close(self) -> None:
        """Flushes and ends the stream. Raises as `flush` does, the stream being ended all the same."""
        if self._closed or self._running is None:
            return
        try:
            await self.flush()
        finally:
            self._closed = True
            if self._failure is None and self._outbox.empty:
                self._session.finish()
                await asyncio.wait({self._running})
            await self.abort()

    async def abort(self) -> None:
        """Ends the stream at once; what is not settled may or may not be stored."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._signal.tell()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.close() if kind is None else self.abort())

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(self, event: Event | Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Adds an event, given as a message or as the arguments of `penstock.event`. Waits while the window is full."""
        row = _serialised(event, fields)
        if self._outbox.full:
            await self._room()
        self._check_open()
        if self._append(row):
            await asyncio.sleep(0)  # a loop that only sends would else keep its batches from leaving until it must wait

    async def send_batch(self, events: Iterable[Event | Mapping[str, Any]]) -> None:
        """Adds many events."""
        for event in events:
            await self.send(event)

    async def send_arrow(self, data: Any, *, batch_rows: int = 10_000, compression: str | None = None) -> None:
        """Adds rows that are columns: a pyarrow Table, RecordBatch, RecordBatchReader, or any object with the Arrow
        C stream or array interface.

        Columns are named as the fields of Event, the utm fields `utm_source` …; columns of other names are kept in
        `properties`. Each request holds at most `batch_rows` rows, and fewer where the server's bounds ask for it.
        """
        from penstock_client import columns

        for rows in columns.batches(data, batch_rows, compression):
            await self.send_rows(rows)

    async def send_dataframe(self, frame: Any, *, batch_rows: int = 10_000, compression: str | None = None) -> None:
        """Adds the rows of a pandas or polars dataframe; columns as for `send_arrow`, a pandas index is left out."""
        from penstock_client import columns

        await self.send_arrow(columns.from_dataframe(frame), batch_rows=batch_rows, compression=compression)

    async def send_rows(self, rows: Rows) -> None:
        """Adds a batch that is serialised already, as it is."""
        await self._room()
        self._check_open()
        self._close_batch()
        if rows.count:
            self._enqueue(rows)
            await asyncio.sleep(0)

    def offer(self, event: Event | Mapping[str, Any] | None = None, /, **fields: Any) -> bool:
        """Adds an event if that needs no waiting and no event loop; from any thread. False: use `send`."""
        row = _serialised(event, fields)
        with self._lock:
            room = self._rows and len(self._rows) + 1 < self._batch_rows and self._size + len(row) < self._batch_bytes
            if not room or self._outbox.full or self._closed or self._failure is not None:
                return False
            self._rows.append(row)
            self._size += len(row) + FRAME_BYTES_MAX
        return True

    async def flush(self) -> None:
        """Returns when everything sent before is settled.

        Raises the first refusal since the last flush, unless acks are read; its `others` are the further ones.
        """
        self._check_open()
        self._close_batch()
        target = self._sequence
        await self._signal.until(lambda: self._outbox.settled_through(target) or self._failure)
        if not self._outbox.settled_through(target):
            self._raise_failure()
        if self._refusals:
            first, *others = self._refusals
            self._refusals = []
            if isinstance(first, RowsRejected):
                first.others = tuple(others)
            raise first

    def acks(self) -> AsyncIterator[Ack]:
        """The server's answers as they come, from this call on until the writer is closed; for one reader.

        Reading slowly, or stopping, holds nothing up and costs bounded memory: beyond 1,000 unread acks neighbours are
        merged into one. Raises what kills the writer.
        """
        if self._acks is None:
            self._acks = AckQueue(self._signal)
        return self._read_acks(self._acks)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _read_acks(self, queue: AckQueue) -> AsyncIterator[Ack]:
        async for ack in queue.read(lambda: self._closed or self._failure is not None):
            yield ack
        if not self._closed:
            self._raise_failure()

    def _append(self, row: bytes) -> bool:
        """Adds a row; whether that closed a batch."""
        self._follow_flow()
        size = len(row) + FRAME_BYTES_MAX
        if size > self._row_bytes_max:
            raise InvalidRequest(f"one event of {size} bytes is more than a request may hold", reason="EVENT_TOO_LARGE")
        closed = bool(self._rows) and self._size + size > self._batch_bytes
        if closed:
            self._close_batch()
        with self._lock:
            self._rows.append(row)
            self._size += size
            rows = len(self._rows)
        if rows >= self._batch_rows or self._size >= self._batch_bytes:
            self._close_batch()
            return True
        if rows == 1:
            self._timer = asyncio.get_running_loop().call_later(self._options.batch_delay_s, self._close_batch)
        return closed

    def _follow_flow(self) -> None:
        """Batches are cut by the options, or by what the server last announced where that is less."""
        flow = self._outbox.flow
        if flow is not self._flow:
            self._flow = flow
            self._batch_rows = min(self._options.batch_rows, flow.request_rows)
            self._batch_bytes = min(self._options.batch_bytes, flow.request_bytes, flow.bytes)
            self._row_bytes_max = flow.request_bytes - 4 * FRAME_BYTES_MAX

    def _close_batch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            rows, size, self._rows, self._size = self._rows, self._size, [], 0
        if rows:
            self._enqueue(MessageRows(rows, size))

    def _enqueue(self, rows: Rows) -> None:
        self._sequence += 1
        self._outbox.add(Batch(self._sequence, rows))
        self._signal.tell()

    async def _room(self) -> None:
        await self._signal.until(lambda: not self._outbox.full or self._failure or self._closed)

    async def _run(self) -> None:
        try:
            await self._session.run()
        except asyncio.CancelledError:
            self._failure = WriterClosed("the writer was closed", reason="WRITER_CLOSED")
            raise
        except Exception as error:
            self._failure = error
        finally:
            self._signal.tell()

    def _check_open(self) -> None:
        if self._failure is not None:
            self._raise_failure()
        if self._closed or self._running is None:
            state = "closed" if self._closed else "not open"
            raise WriterClosed(f"the writer is {state}", reason="WRITER_CLOSED")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _on_settled(self, settled: Settled) -> None:
        ack = _ack(settled)
        stats = self.stats
        stats.batches_settled += 1
        stats.connections = self._session.connections
        stats.rows_accepted += ack.accepted_rows
        stats.last_commit = max(stats.last_commit, ack.commit)
        if ack.error is not None:
            stats.rows_refused += ack.rows
        else:
            stats.rows_rejected += ack.rejected_rows
        if ack.already_stored:
            stats.rows_already_stored += ack.rows
        if self._acks is not None:
            self._acks.put(ack)
        elif ack.error is not None and len(self._refusals) < ERRORS_KEPT_MAX:
            self._refusals.append(ack.error)


def _serialised(event: Event | Mapping[str, Any] | None, fields: dict[str, Any]) -> bytes:
    if event is None:
        event = build_event(**fields)
    elif not isinstance(event, Event):
        event = build_event(**event, **fields)
    elif fields:
        raise TypeError("give an Event or fields, not both")
    return event.SerializeToString()


def _ack(settled: Settled) -> Ack:
    rows = settled.batch.rows.count
    result = settled.result
    if settled.error is not None:
        rejected = settled.error.rejected if isinstance(settled.error, RowsRejected) else ()
        return Ack(settled.offset, rows, 0, len(rejected), rejected, error=settled.error)
    if result is None:
        return Ack(settled.offset, rows, rows, 0, already_stored=True)
    return Ack(
        settled.offset,
        rows,
        result.accepted_rows,
        len(result.rejected),
        tuple(RejectedRow(row.index, row.reason, row.message) for row in result.rejected),
        result.commit,
        result.commit_time.ToDatetime(tzinfo=UTC),
        result.durability == events_pb2.DURABILITY_DURABLE,
    )
