"""Keeps one ingest stream open, over as many connections as it takes."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from penstock.events.v1 import events_service_pb2 as pb
from penstock_client.backoff import Backoff
from penstock_client.connection import Connection, pause
from penstock_client.errors import (
    AccessDenied,
    Conflict,
    Error,
    InvalidRequest,
    StreamTakenOver,
    Unavailable,
    from_rpc,
    from_status,
)
from penstock_client.outbox import Flow, Outbox, Settled
from penstock_client.signal import Signal

METHOD = "/penstock.events.v1.EventService/StreamEvents"
# More than the server itself waits for room in its queue and for its database; past it the connection is given up.
ANSWER_S_MAX = 90.0
WATCH_S = 1.0
END_S_MAX = 5.0  # for the server's last frame, when all is settled already

# Frames of these end the stream; of any other, only the batch.
_ENDING = frozenset(
    (
        "INVALID_STREAM_ID",
        "OFFSET_WITHOUT_STREAM",
        "DURABILITY_NOT_OFFERED",
        "STREAM_TAKEN_OVER",
        "FLOW_CONTROL_VIOLATED",
        "TOO_MANY_STREAMS",
        "DRAINING",
    )
)
_FINAL = (InvalidRequest, Conflict, StreamTakenOver, AccessDenied)
_FINAL_REASONS = frozenset(("PROTOCOL_VIOLATED", "ACKNOWLEDGED_ROWS_LOST", "UNIMPLEMENTED", "NOT_FOUND"))


class Session:
    """Sends what is in `outbox` and settles it with the server's answers."""

    def __init__(
        self,
        connection: Connection,
        opening: pb.AppendRequest,
        outbox: Outbox,
        signal: Signal,
        on_settled: Callable[[Settled], None],
        retry_total_s: float,
    ) -> None:
        self._connection = connection
        self._opening = opening
        self._outbox = outbox
        self._signal = signal
        self._on_settled = on_settled
        self._backoff = Backoff(retry_total_s)
        self._closing = False
        self._last_answer = 0.0
        self.opened = False
        self.connections = 0
        self.last_error: Error | None = None

    def finish(self) -> None:
        """Has `run` return once everything is settled."""
        self._closing = True
        self._last_answer = time.monotonic()
        self._signal.tell()

    async def run(self) -> None:
        """Runs until `finish`. Raises the Error that no further try can mend, or none did in time.

        A connection that breaks while nothing waits to be sent is made again only when something does.
        """
        while not (self._closing and self._outbox.empty and self.opened):
            try:
                await self._connect_once()
            except Error as error:
                if isinstance(error, _FINAL) or error.reason in _FINAL_REASONS:
                    raise
                self.last_error = error
                if self.opened and self._outbox.empty:
                    self._backoff.progressed()  # nothing waits: the bound counts from when something does
                else:
                    await pause(self._backoff, error)
            if self.opened:
                await self._signal.until(lambda: self._closing or not self._outbox.empty)

    async def _connect_once(self) -> None:
        call = self._connection.channel.stream_stream(
            METHOD, request_serializer=None, response_deserializer=pb.AppendResponse.FromString
        )(metadata=self._connection.metadata)
        self._outbox.disconnected()
        self._last_answer = time.monotonic()
        tasks = [asyncio.create_task(part(call)) for part in (self._read, self._write, self._watch)]
        try:
            await self._first_to_matter(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _first_to_matter(self, tasks: list[asyncio.Task[None]]) -> None:
        """Returns when the reader does; raises what any of them raises, as the reader tells it where it can."""
        reader, *others = tasks
        waiting = set(tasks)
        while not reader.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in others if task in done and (task.cancelled() or task.exception() is not None)]
            if failed and not reader.done():
                # A write into a broken call fails with less to say than the read beside it.
                await asyncio.wait({reader}, timeout=WATCH_S)
            if failed and not reader.done():
                raise _as_error(None if failed[0].cancelled() else failed[0].exception())
        if reader.cancelled() or reader.exception() is not None:
            raise _as_error(None if reader.cancelled() else reader.exception())

    async def _read(self, call: Any) -> None:
        drained = False
        while True:
            response: pb.AppendResponse = await call.read()
            if response is grpc.aio.EOF:
                break
            self._last_answer = time.monotonic()
            if response.HasField("flow_control"):
                self._outbox.flow = Flow.announced(response.flow_control)
            frame = response.WhichOneof("frame")
            if frame == "end":
                drained = True
            else:
                self._frame(response, frame)
            self._signal.tell()
        if not drained:
            raise Unavailable("the server ended the stream without a word", reason="STREAM_ENDED")
        if not self._outbox.empty:
            raise Unavailable("the server is stopping", reason="DRAINING")

    def _frame(self, response: pb.AppendResponse, frame: str | None) -> None:
        outbox = self._outbox
        if frame == "opened":
            settled = outbox.opened(response.opened.next_offset)
            self.opened = True
            self.connections += 1
        elif frame == "append_result":
            settled = outbox.stored(response.append_result)
        elif frame == "error":
            error = from_status(response.error.status)
            if error.reason in _ENDING:
                raise error
            settled = outbox.refused(response.error, error)
        else:
            return  # a frame of a later version, that this client need not know
        for each in settled:
            self._backoff.progressed()
            self._on_settled(each)

    async def _write(self, call: Any) -> None:
        outbox = self._outbox
        connection = self.connections
        await call.write(self._opening.SerializeToString())
        await self._signal.until(lambda: self.connections > connection)
        while not (self._closing and outbox.empty):
            if outbox.sendable:
                if outbox.refusal is not None:
                    refusal, outbox.refusal = outbox.refusal, None
                    await pause(self._backoff, refusal)
                sent = outbox.take(time.monotonic())
                await call.write(sent.batch.rows.request(sent.offset))
            else:
                await self._signal.until(lambda: outbox.sendable or (self._closing and outbox.empty))
        await call.done_writing()

    async def _watch(self, call: Any) -> None:
        """Gives up a connection that answers no more; keepalive finds only those that are dead."""
        connection = self.connections
        while True:
            await asyncio.sleep(WATCH_S)
            oldest = self._outbox.oldest_sent
            awaited = oldest is not None or self.connections == connection
            silent_s = time.monotonic() - max(oldest or 0.0, self._last_answer)
            if awaited and silent_s > ANSWER_S_MAX:
                raise Unavailable(f"the server did not answer for {ANSWER_S_MAX:.0f} s", reason="STALLED")
            if self._closing and self._outbox.empty and silent_s > END_S_MAX:
                raise Unavailable("the server did not end the stream", reason="STALLED")


def _as_error(error: BaseException | None) -> BaseException:
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc(error)
    if error is None or isinstance(error, asyncio.InvalidStateError | grpc.aio.UsageError):
        return Unavailable("the connection was lost", reason="CONNECTION_LOST")
    return error
