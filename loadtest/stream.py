"""A client of StreamEvents that costs as little as a client can: bytes made before go out, acks are counted.

It is exactly-once as the contract has it: every request carries its offset, and every answer must be an
`append_result` for just that request.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import grpc

from loadtest.rows import Batches
from penstock.events.v1 import events_service_pb2 as pb

METHOD = "/penstock.events.v1.EventService/StreamEvents"
# A connection of its own for each channel: channels to one address share one otherwise.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
STREAMS_A_CONNECTION = 16
GIVE_UP_S = 1.0  # so long after its end a load at a fixed rate still sends what was due before


class Refused(Exception):
    """The server did not take a batch, which no benchmark expects."""


@dataclass(slots=True)
class Tally:
    """What was acknowledged."""

    rows: int = 0
    started: float = field(default_factory=time.perf_counter)
    finished: float = 0.0
    waits_s: list[float] = field(default_factory=list)  # of each batch, from when it was due until its ack
    not_sent: int = 0  # batches that were due, when the time ran out before the server took those before them

    @property
    def rows_per_s(self) -> float:
        """From the first send to the last ack."""
        return self.rows / (self.finished - self.started)


@dataclass(frozen=True, slots=True)
class Load:
    """What a stream sends, and how."""

    batches: Batches
    seconds: float
    rows_max: int = 50_000_000  # whichever comes first
    interval_s: float = 0.0  # between batches; 0: as fast as the server takes them
    phase_s: float = 0.0  # of the first batch, so that streams do not send in step
    ack_pause_s: float = 0.0  # a slow reader: so long it does nothing whenever it has caught up
    heeds_flow_control: bool = True  # or sends whatever HTTP/2 lets through


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch that awaits its ack."""

    due: float
    size: int
    offset: int


class Window:
    """Keeps a stream within the flow control that the server announced."""

    def __init__(self, announced: pb.FlowControl) -> None:
        self._requests_max = announced.max_outstanding_requests
        self._bytes_max = announced.max_outstanding_bytes
        self._requests = self._bytes = 0
        self._freed = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Waits until a request of `size` bytes may go out."""
        while self._requests and (self._requests >= self._requests_max or self._bytes + size > self._bytes_max):
            self._freed.clear()
            await self._freed.wait()
        self._requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """A request of `size` bytes is answered."""
        self._requests -= 1
        self._bytes -= size
        self._freed.set()


class Stream:
    """One open stream."""

    def __init__(self, call: grpc.aio.StreamStreamCall, opened: pb.AppendResponse) -> None:
        self._call = call
        self.offset = opened.opened.next_offset  # of the next row; all before it are acknowledged while nothing runs
        self._window = Window(opened.flow_control)
        self._number = 0

    async def run(self, load: Load, tally: Tally) -> None:
        """Sends by `load` and returns when all of it is acknowledged. Raises Refused."""
        sent: asyncio.Queue[_Sent | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(load, tally, sent))
            tasks.create_task(self._read(load, tally, sent))

    async def append(self, request: bytes, rows: int) -> None:
        """Sends one request and waits for its ack."""
        await self._call.write(request)
        self._checked(await self._call.read(), self.offset)
        self.offset += rows

    async def close(self) -> None:
        """Half-closes and reads the last frame."""
        await self._call.done_writing()
        while await self._call.read() is not grpc.aio.EOF:
            pass

    async def _send(self, load: Load, tally: Tally, sent: "asyncio.Queue[_Sent | None]") -> None:
        rows = load.batches.rows
        end = tally.started + load.seconds
        due = tally.started + load.phase_s
        for _ in range(load.rows_max // rows):
            if load.interval_s:
                # By the schedule, whatever became of the batch before: a stalled server must not look fast.
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            else:
                due = time.perf_counter()
            if due >= end:
                break
            if time.perf_counter() >= end + GIVE_UP_S:
                _charge(tally, due, end, load.interval_s)
                break
            request = load.batches.request(self._number, self.offset)
            if load.heeds_flow_control:
                await self._window.enter(len(request))
            sent.put_nowait(_Sent(due, len(request), self.offset))
            await self._call.write(request)
            self._number += 1
            self.offset += rows
            due += load.interval_s
        sent.put_nowait(None)

    async def _read(self, load: Load, tally: Tally, sent: "asyncio.Queue[_Sent | None]") -> None:
        while True:
            if load.ack_pause_s and sent.empty():
                await asyncio.sleep(load.ack_pause_s)
            batch = await sent.get()
            if batch is None:
                return
            acknowledged = self._checked(await self._call.read(), batch.offset)
            tally.rows += acknowledged  # not across the await, where the other streams count too
            tally.finished = time.perf_counter()
            tally.waits_s.append(tally.finished - batch.due)
            if load.heeds_flow_control:
                self._window.leave(batch.size)

    def _checked(self, frame: object, offset: int) -> int:
        """The rows that `frame` acknowledges."""
        if not isinstance(frame, pb.AppendResponse) or frame.WhichOneof("frame") != "append_result":
            raise Refused(f"the batch at {offset} was answered with {frame}")
        if frame.append_result.offset != offset or frame.append_result.rejected:
            raise Refused(f"the batch at {offset} was answered with {frame}")
        return frame.append_result.accepted_rows


@contextlib.asynccontextmanager
async def opened(target: str, names: Sequence[str]) -> AsyncIterator[list[Stream]]:
    """Opens a stream for each name."""
    async with contextlib.AsyncExitStack() as held:
        channels = [
            await held.enter_async_context(grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS))
            for _ in range(min(len(names), max(4, -(-len(names) // STREAMS_A_CONNECTION))))
        ]
        streams = [await _open(channels[i % len(channels)], name) for i, name in enumerate(names)]
        yield streams
        await asyncio.gather(*(stream.close() for stream in streams))


async def run_all(streams: Sequence[Stream], load: Load) -> Tally:
    """Runs `load` on each stream at once, their phases spread over the interval."""
    tally = Tally()
    before = sum(stream.offset for stream in streams)
    step = load.interval_s / len(streams)
    async with asyncio.TaskGroup() as tasks:
        for number, stream in enumerate(streams):
            tasks.create_task(stream.run(replace(load, phase_s=number * step), tally))
    if tally.rows != sum(stream.offset for stream in streams) - before:
        raise Refused(f"{tally.rows} rows were acknowledged, not as many as were sent")
    return tally


def _charge(tally: Tally, due: float, end: float, interval_s: float) -> None:
    """Counts what was due until `end` and never sent, with the least that it would have waited."""
    while due < end:
        tally.not_sent += 1
        tally.waits_s.append(time.perf_counter() - due)
        due += interval_s


async def _open(channel: grpc.aio.Channel, name: str) -> Stream:
    start = channel.stream_stream(METHOD, response_deserializer=pb.AppendResponse.FromString)
    call = start()
    await call.write(pb.AppendRequest(stream_id=name).SerializeToString())
    frame = await call.read()
    if not isinstance(frame, pb.AppendResponse) or frame.WhichOneof("frame") != "opened":
        raise Refused(f"stream {name} was answered with {frame}")
    return Stream(call, frame)
