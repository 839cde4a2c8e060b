"""One StreamEvents connection: requests in, frames out, in the order of the requests.

Two tasks share a connection. One reads requests and queues their batches; the other answers, in order, as commits
finish. What is read and not yet answered is bounded, so a client that sends faster than commits happen, or does not
read its answers, is pushed back by HTTP/2 itself.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from penstock import limits
from penstock.errors import Conflict, InvalidInput, PenstockError, invalid_field
from penstock.events import arrow, wire
from penstock.events.batch import Batch, Origin, RowsRejected
from penstock.events.committer import Committer, taken_over
from penstock.events.streams import Connection, Streams, StreamState
from penstock.events.v1 import events_pb2, events_service_pb2
from penstock.rpc.call import Call

_STREAM_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_EMPTY_TIMESTAMP = b"\x1a\x00"  # field 3 of Event, no bytes: the first second of 1970
_BATCH_OVERHEAD_BYTES = 512  # what a queued batch holds beside its bytes


class FlowGate:
    """Counts what one connection has outstanding, and holds its reader at the bound."""

    def __init__(self) -> None:
        self._requests = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Waits until a request of `size` bytes may be outstanding; one alone always may."""
        while self._requests and (
            self._requests >= limits.STREAM_OUTSTANDING_REQUESTS_MAX
            or self._bytes + size > limits.STREAM_OUTSTANDING_BYTES_MAX
        ):
            self._freed.clear()
            await self._freed.wait()
        self._requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """A request of `size` bytes is answered."""
        self._requests -= 1
        self._bytes -= size
        self._freed.set()


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that awaits its answer."""

    size: int
    offset: int | None
    outcome: Batch | PenstockError  # a queued batch, or an error found at the edge


class AppendStream:
    """The state of one connection, from its first request to its last frame."""

    def __init__(
        self, committer: Committer, streams: Streams, call: Call, *, durable: bool, draining: asyncio.Event
    ) -> None:
        self._committer = committer
        self._streams = streams
        self._call = call
        self._durability = events_pb2.DURABILITY_DURABLE if durable else events_pb2.DURABILITY_COMMITTED
        self._draining = draining
        self._connection = Connection()
        self._gate = FlowGate()
        self._sent: asyncio.Queue[_Sent | None] = asyncio.Queue()
        self._origin = Origin(call.tenant, "", call.client_address, call.user_agent)
        self._keep_good = False
        self._state: StreamState | None = None
        self._waiting = False  # whether the reader waits for the client

    async def frames(self, requests: AsyncIterator[bytes]) -> AsyncIterator[events_service_pb2.AppendResponse]:
        """Every frame of the connection. Raises what ends it."""
        first = await anext(requests, None)
        opening = _parsed(first) if first is not None else events_service_pb2.AppendRequest()
        if isinstance(opening, InvalidInput):
            raise opening
        await self._open(opening)
        reader: asyncio.Task[None] | None = None
        try:
            yield wire.opened(self._origin.stream_id, self._next_offset(), self._durability)
            reader = asyncio.create_task(self._read(first, opening, requests), name="append-reader")
            async for frame in self._answers():
                yield frame
            await reader  # its fault, where it had one, is the call's
            yield wire.end(self._next_offset(), draining=self._draining.is_set())
        except PenstockError as error:
            yield wire.append_error(error, None, self._expected())
            raise  # REST sees only the frame, gRPC the status too
        finally:
            if reader is not None:
                reader.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await reader
            if self._state is not None:
                self._streams.close(self._origin.tenant, self._state, self._connection)

    def _next_offset(self) -> int:
        return self._state.next_offset if self._state is not None else 0

    async def _open(self, opening: events_service_pb2.AppendRequest) -> None:
        if opening.stream_id and not _STREAM_ID.fullmatch(opening.stream_id):
            raise invalid_field("stream_id", "must be 1 to 128 of A-Z a-z 0-9 . _ : -", reason="INVALID_STREAM_ID")
        if opening.HasField("offset") and not opening.stream_id:
            raise invalid_field(
                "offset", "needs a stream_id: the default stream has no offsets", reason="OFFSET_WITHOUT_STREAM"
            )
        if opening.min_durability > self._durability:
            raise Conflict(
                "this server acknowledges COMMITTED rows; start it with --fsync for DURABLE",
                reason="DURABILITY_NOT_OFFERED",
            )
        self._keep_good = opening.row_policy == events_pb2.ROW_POLICY_KEEP_GOOD
        if not opening.stream_id:
            return
        self._origin = Origin(self._call.tenant, opening.stream_id, self._call.client_address, self._call.user_agent)
        self._state = await self._streams.open(self._origin.tenant, opening.stream_id, self._connection)
        # What an older connection queued is refused from now on; what is being committed counts.
        await self._committer.settled()
        await self._streams.state(self._origin.tenant, opening.stream_id)

    async def _read(
        self, first: bytes | None, opening: events_service_pb2.AppendRequest, requests: AsyncIterator[bytes]
    ) -> None:
        """Reads until the client is done, the stream is lost, or the server drains; then marks the end."""
        stop = asyncio.create_task(self._stop_reading(asyncio.current_task()))
        try:
            if first is not None:
                await self._take(first, opening)
            while not stop.done():
                self._waiting = True
                raw = await anext(requests, None)
                self._waiting = False
                if raw is None:
                    return
                await self._take(raw, _parsed(raw))
        except asyncio.CancelledError:
            if not stop.done():
                raise
        finally:
            stop.cancel()
            self._sent.put_nowait(None)

    async def _stop_reading(self, reader: "asyncio.Task[None] | None") -> None:
        """Ends the reader when the stream is lost or the server drains, but never between reading and queueing.

        To wait for the next request and for these at once would cost every request half as much again.
        """
        await _either(self._draining, self._connection.lost)
        if self._waiting and reader is not None:
            reader.cancel()

    async def _take(self, raw: bytes, request: events_service_pb2.AppendRequest | InvalidInput) -> None:
        size = len(raw) + _BATCH_OVERHEAD_BYTES
        offset: int | None = None
        try:
            if isinstance(request, InvalidInput):
                raise request
            offset = request.offset if request.HasField("offset") else None
            batch = await self._batch(raw, request, offset)
        except PenstockError as error:
            await self._gate.enter(size)
            self._sent.put_nowait(_Sent(size, offset, error))
            return
        if batch is None:
            return
        await self._gate.enter(size)
        try:
            await self._committer.submit(batch)
        except PenstockError as error:
            self._sent.put_nowait(_Sent(size, offset, error))
        else:
            self._sent.put_nowait(_Sent(size, offset, batch))

    async def _batch(self, raw: bytes, request: events_service_pb2.AppendRequest, offset: int | None) -> Batch | None:
        """The request's rows as a batch; None when it has none."""
        if request.stream_id and request.stream_id != self._origin.stream_id:
            raise invalid_field(
                "stream_id",
                f"this connection is for {self._origin.stream_id or 'the default stream'}",
                reason="STREAM_ID_CHANGED",
            )
        if offset is not None and offset < 0:
            raise invalid_field("offset", "must not be negative")
        kind = request.WhichOneof("rows")
        size = len(raw) + _BATCH_OVERHEAD_BYTES
        made: Batch | None = None
        if kind == "event_rows":
            message = _readable_alike(raw, request)
            made = Batch(self._origin, len(request.event_rows.events), size, self._keep_good, message=message)
        elif kind == "arrow_rows":
            table = await asyncio.to_thread(_columns, request.arrow_rows.ipc_stream, self._origin)
            made = Batch(self._origin, table.num_rows, max(size, table.nbytes), self._keep_good, columns=table)
        if made is None or made.rows == 0:
            return None
        if made.rows > limits.REQUEST_ROWS_MAX:
            raise invalid_field(
                kind or "rows",
                f"has {made.rows} rows; at most {limits.REQUEST_ROWS_MAX} fit a request",
                reason="TOO_MANY_ROWS",
            )
        made.offset = offset
        made.owner = self._connection if self._state is not None else None
        return made

    async def _answers(self) -> AsyncIterator[events_service_pb2.AppendResponse]:
        while (sent := await self._sent.get()) is not None:
            frame = await self._answer(sent)
            yield frame
            # Only now, so that what a client does not read counts as outstanding.
            self._gate.leave(sent.size)
        if self._connection.lost.is_set():
            raise taken_over(self._origin.stream_id)

    async def _answer(self, sent: _Sent) -> events_service_pb2.AppendResponse:
        try:
            if isinstance(sent.outcome, PenstockError):
                raise sent.outcome
            return wire.append_result(await sent.outcome.done, self._durability)
        except RowsRejected as error:
            return wire.rows_rejected(error.rows, sent.offset, self._expected())
        except PenstockError as error:
            # What was expected when the batch was refused, where that is why: later batches may have moved it.
            then = error.metadata.get("expected_offset")
            return wire.append_error(error, sent.offset, self._expected() if then is None else int(then))

    def _expected(self) -> int | None:
        return self._state.next_offset if self._state is not None else None


def _parsed(raw: bytes) -> events_service_pb2.AppendRequest | InvalidInput:
    try:
        return events_service_pb2.AppendRequest.FromString(raw)
    except DecodeError as error:
        return InvalidInput(f"the request cannot be parsed: {error}", reason="MALFORMED_MESSAGE")


def _readable_alike(raw: bytes, request: events_service_pb2.AppendRequest) -> bytes:
    """The request's bytes, written anew in the two cases in which the engine would read them differently from us."""
    changed = False
    if len(UnknownFieldSet(request)):
        # A client's own stamp fields: of a field that is there twice the engine makes neither value.
        request.DiscardUnknownFields()
        changed = True
    if _EMPTY_TIMESTAMP in raw:
        # On the wire a zero is absent: a timestamp of second 0, which is too old, would pass for none, which means now.
        for event in request.event_rows.events:
            if event.HasField("timestamp") and not event.timestamp.seconds and not event.timestamp.nanos:
                event.timestamp.seconds = -1
                changed = True
    return request.SerializeToString() if changed else raw


def _columns(ipc_stream: bytes, origin: Origin) -> pa.Table:
    return arrow.numbered(arrow.normalised(arrow.read_stream(ipc_stream)), origin)


async def _either(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
