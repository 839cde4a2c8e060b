"""A double of the ingest server: the contract of StreamEvents over a list in memory, with faults on demand.

What a real server does under load, or as it dies, comes at its own time; here it comes when a test says so.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import pyarrow as pa
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from penstock_client.columns import as_events

METHODS = "penstock.events.v1.EventService"


@dataclass
class Faults:
    """What goes wrong, and when; each knob counts down and then is off."""

    drop_before_store: deque[int] = field(default_factory=deque)  # batches until the connection breaks, nothing stored
    drop_after_store: deque[int] = field(default_factory=deque)  # the same, the batch stored and not acknowledged
    store_only_rows: int = 0  # of the batch dropped after storing, only so many rows are stored
    overloaded: int = 0  # so many batches are refused with OVERLOADED
    doubtful: int = 0  # so many batches are stored but refused with STORAGE_UNAVAILABLE
    retry_delay_s: float = 0.01
    drain_after: int = 0  # batches until the server drains
    hold: asyncio.Event = field(default_factory=asyncio.Event)  # while cleared, nothing is answered
    refuse_opening: int = 0  # so many openings fail with UNAVAILABLE

    def __post_init__(self) -> None:
        self.hold.set()


@dataclass
class Stream:
    """A named stream."""

    events: list[events_pb2.Event] = field(default_factory=list)
    owner: object | None = None
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class ModelServer:
    """Serves on a free port of the loopback; an async context manager."""

    def __init__(self, **flow: int) -> None:
        self.faults = Faults()
        self.streams: dict[str, Stream] = {}
        self.default: list[events_pb2.Event] = []
        self.requests = 0
        self.outstanding_max = 0
        self.requests_sizes: list[int] = []
        self.connections = 0
        self.metadata: dict[str, str] = {}
        self.flow = {
            "max_outstanding_requests": 64,
            "max_outstanding_bytes": 4 << 20,
            "max_request_rows": 10_000,
            "max_request_bytes": 4 << 20,
            **flow,
        }
        self.change_flow_after = 0  # batches until `flow` is announced anew
        self.durability = events_pb2.DURABILITY_COMMITTED
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def stored(self, stream_id: str) -> list[str]:
        """The user_ids of a stream's rows, in order."""
        return [event.user_id for event in self.streams[stream_id].events]

    async def start(self) -> None:
        """Starts, or starts again on the same port with the same rows."""
        self._server = grpc.aio.server(
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20))
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self.StreamEvents, pb.AppendRequest.FromString, pb.AppendResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(METHODS, {"StreamEvents": handler})]
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Dies: open calls are cut off."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.hold.set()
        await self.stop()

    async def StreamEvents(
        self, requests: AsyncIterator[pb.AppendRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.AppendResponse]:
        """The rpc."""
        self.connections += 1
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        opening = await anext(aiter(requests))
        if self.faults.refuse_opening:
            self.faults.refuse_opening -= 1
            await _abort(context, status(code_pb2.UNAVAILABLE, "DRAINING"))
        if opening.min_durability > self.durability:
            await _abort(context, status(code_pb2.FAILED_PRECONDITION, "DURABILITY_NOT_OFFERED"))
        stream = self.streams.setdefault(opening.stream_id, Stream()) if opening.stream_id else None
        lost = asyncio.Event()
        if stream is not None:
            stream.lost.set()
            stream.lost = lost
        yield pb.AppendResponse(
            opened=pb.StreamOpened(
                stream_id=opening.stream_id,
                next_offset=len(stream.events) if stream else 0,
                durability=self.durability,
            ),
            flow_control=pb.FlowControl(**self.flow),
        )
        queue: asyncio.Queue[pb.AppendRequest | None] = asyncio.Queue()
        reader = asyncio.create_task(_fill(requests, queue))
        try:
            async for response in self._answers(queue, lost, stream, opening.row_policy, context):
                yield response
        finally:
            reader.cancel()

    async def _answers(
        self,
        queue: asyncio.Queue[pb.AppendRequest | None],
        lost: asyncio.Event,
        stream: Stream | None,
        policy: int,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.AppendResponse]:
        while True:
            taking = asyncio.create_task(queue.get())
            losing = asyncio.create_task(lost.wait())
            try:
                await asyncio.wait({taking, losing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                losing.cancel()
                if not taking.done() or lost.is_set():
                    taking.cancel()
            if lost.is_set():
                error = status(code_pb2.ABORTED, "STREAM_TAKEN_OVER")
                yield pb.AppendResponse(error=pb.AppendError(status=error))
                await _abort(context, error)
            request = await taking
            end = len(stream.events) if stream else 0
            if request is None:
                yield pb.AppendResponse(end=pb.StreamEnd(reason=pb.StreamEnd.END_REASON_CLIENT_DONE, next_offset=end))
                return
            # What a client has outstanding while nothing is answered is all that has arrived.
            await self.faults.hold.wait()
            self.outstanding_max = max(self.outstanding_max, queue.qsize() + 1)
            self.requests += 1
            self.requests_sizes.append(request.ByteSize())
            response = await self._answer(request, stream, policy, context)
            if self.change_flow_after and self.requests >= self.change_flow_after:
                self.change_flow_after = 0
                response.flow_control.CopyFrom(pb.FlowControl(**self.flow))
            yield response
            if self.faults.drain_after and self.requests >= self.faults.drain_after:
                self.faults.drain_after = 0
                end = len(stream.events) if stream else 0
                yield pb.AppendResponse(end=pb.StreamEnd(reason=pb.StreamEnd.END_REASON_DRAINING, next_offset=end))
                return

    async def _answer(
        self,
        request: pb.AppendRequest,
        stream: Stream | None,
        policy: int,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.AppendResponse:
        faults = self.faults
        events = rows_of(request)
        log = stream.events if stream is not None else self.default
        expected = len(log) if stream is not None else None
        if _counted_down(faults.drop_before_store):
            await _abort(context, status_pb2.Status(code=code_pb2.UNAVAILABLE, message="Socket closed"))
        if faults.overloaded:
            faults.overloaded -= 1
            return self._refused(request, expected, code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED")
        if len(events) > self.flow["max_request_rows"]:
            return self._refused(request, expected, code_pb2.INVALID_ARGUMENT, "TOO_MANY_ROWS")
        if expected is not None and request.HasField("offset") and request.offset != expected:
            return self._misplaced(request, len(events), expected)
        bad = [
            pb.RowError(index=i, reason="MISSING_EVENT_TYPE") for i, event in enumerate(events) if not event.event_type
        ]
        keep_good = policy == events_pb2.ROW_POLICY_KEEP_GOOD
        if bad and not keep_good:
            return self._refused(request, expected, code_pb2.INVALID_ARGUMENT, "ROWS_REJECTED", bad)
        dropped = _counted_down(faults.drop_after_store)
        log.extend(events[: faults.store_only_rows] if dropped and faults.store_only_rows else events)
        if dropped:
            await _abort(context, status_pb2.Status(code=code_pb2.UNAVAILABLE, message="Socket closed"))
        if faults.doubtful:
            faults.doubtful -= 1
            return self._refused(request, None, code_pb2.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        return pb.AppendResponse(
            append_result=pb.AppendResult(
                offset=expected or 0,
                accepted_rows=len(events) - len(bad),
                rejected=bad,
                durability=self.durability,
                commit=self.requests,
            )
        )

    def _misplaced(self, request: pb.AppendRequest, rows: int, expected: int) -> pb.AppendResponse:
        if request.offset > expected:
            return self._refused(request, expected, code_pb2.OUT_OF_RANGE, "OFFSET_GAP")
        if request.offset + rows <= expected:
            return self._refused(request, expected, code_pb2.ALREADY_EXISTS, "OFFSET_ALREADY_STORED")
        return self._refused(request, expected, code_pb2.OUT_OF_RANGE, "OFFSET_OVERLAP")

    def _refused(
        self,
        request: pb.AppendRequest,
        expected: int | None,
        code: int,
        reason: str,
        rejected: list[pb.RowError] | None = None,
    ) -> pb.AppendResponse:
        retry = code in (code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED)
        error = pb.AppendError(
            status=status(code, reason, self.faults.retry_delay_s if retry else None), rejected=rejected or []
        )
        if request.HasField("offset"):
            error.offset = request.offset
        if expected is not None:
            error.expected_offset = expected
        return pb.AppendResponse(error=error)


def rows_of(request: pb.AppendRequest) -> list[events_pb2.Event]:
    """The rows of a request, in either form."""
    if request.HasField("arrow_rows"):
        with pa.ipc.open_stream(request.arrow_rows.ipc_stream) as reader:
            return list(as_events(reader.read_all()))
    return list(request.event_rows.events)


def status(code: int, reason: str, retry_delay_s: float | None = None) -> status_pb2.Status:
    """A status with its details, as the server makes it."""
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="penstock")]
    if retry_delay_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=round(retry_delay_s * 1e9))))
    packed = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=code, message=f"the model says {reason}", details=packed)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: status_pb2.Status) -> None:
    code = next(each for each in grpc.StatusCode if each.value[0] == error.code)
    trailing = (("grpc-status-details-bin", error.SerializeToString()),) if error.details else ()
    await context.abort(code, error.message, trailing)


async def _fill(requests: AsyncIterator[pb.AppendRequest], queue: asyncio.Queue[pb.AppendRequest | None]) -> None:
    async for request in requests:
        queue.put_nowait(request)
    queue.put_nowait(None)


def _counted_down(countdowns: deque[int]) -> bool:
    """Whether the first countdown ends with this batch."""
    if not countdowns:
        return False
    countdowns[0] -= 1
    if countdowns[0] > 0:
        return False
    countdowns.popleft()
    return True
