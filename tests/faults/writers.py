"""Clients that live through faults: each sends its plan, comes back after every break, and checks every answer.

They are written against the generated stubs, so that nothing of the SDK stands between the test and the server.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
from google.rpc import error_details_pb2

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1 import events_service_pb2_grpc as stubs
from tests.faults.journal import Journal
from tests.faults.plan import Batch, Plan

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
)
OPEN_S = 10.0
ANSWER_S = 40.0  # longer than the server itself tries to store a batch
PASSING = ("STORAGE_UNAVAILABLE", "OVERLOADED", "DRAINING")  # what was sent is not stored, and may be later
WINDOW = 12  # batches under way at once

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.AppendRequest, pb.AppendResponse]"


@dataclass(slots=True)
class Record:
    """What a writer sent and what it was promised, for the check at the end."""

    plan: Plan
    sent: int = 0  # batches before this one were sent at least once
    answered: int = 0  # batches before this one have their answer
    promised: int = 0  # rows of the stream before this offset are stored, the server said
    sealed: int | None = None  # the server said that nothing behind this offset is stored
    finished: bool = False  # all that was sent is answered, and the stream was closed in good order
    commits: dict[int, int] = field(default_factory=dict)  # of acknowledged batches, by index
    drains: int = 0  # connections that the server ended in good order because it stopped
    answers: int = 0  # frames that answered a batch, of whatever kind

    @property
    def sent_end(self) -> int:
        """The stream's next offset if all that was sent were stored."""
        return self.plan.batch(self.sent - 1).end if self.sent else 0


class StreamWriter:
    """Writes a named stream, with many batches under way, exactly once."""

    def __init__(self, plan: Plan, target: str, journal: Journal, seed: int) -> None:
        self.record = Record(plan)
        self.connected = False  # a stream is open, and nothing said yet that it ends
        self.flowing = asyncio.Event()  # cleared, it sends nothing more for the time being
        self.flowing.set()
        self.resting = False  # it is told to send nothing, and no write is under way
        self._target = target
        self._journal = journal
        self._random = random.Random(f"{seed}/{plan.stream_id}/writer")
        self._closing = asyncio.Event()
        self._under_way: deque[Batch] = deque()
        self._answer = asyncio.Event()
        self._failing = False  # a batch could not be stored now
        self._end = 0  # where the server's end of the stream is, after the answers so far

    @property
    def name(self) -> str:
        """The stream's."""
        return self.record.plan.stream_id

    def close(self) -> None:
        """Lets it settle what it has sent, and then end."""
        self._closing.set()

    async def run(self) -> None:
        """Writes until it is closed and all is settled. Raises PromiseBroken."""
        while not self.record.finished:
            pause_s = self._random.uniform(0.01, 0.1)
            try:
                await self._connect()
            except (grpc.aio.AioRpcError, TimeoutError, ConnectionError, asyncio.InvalidStateError) as error:
                if nobody_there(error):
                    pause_s += 0.2
                else:
                    self._note("broken", error=short(error), under_way=len(self._under_way))
                if "a fault in the server" in short(error):
                    raise self._broken(short(error)) from error
            finally:
                self.connected = False
            await asyncio.sleep(pause_s)

    async def _connect(self) -> None:
        self._under_way.clear()
        self._failing = False
        async with grpc.aio.insecure_channel(self._target, options=OPTIONS) as channel:
            call: Call = stubs.EventServiceStub(channel).StreamEvents()
            policy = ev.ROW_POLICY_KEEP_GOOD if self.record.plan.keep_good else ev.ROW_POLICY_ALL_OR_NOTHING
            async with asyncio.timeout(OPEN_S):
                await call.write(pb.AppendRequest(stream_id=self.name, row_policy=policy))
                first = await call.read()
            if not isinstance(first, pb.AppendResponse):
                raise ConnectionError("the stream ended before it was opened")
            self._opened(first)
            self.connected = True
            sending = asyncio.create_task(self._send(call, self._first_to_send()))
            reading = asyncio.create_task(self._read(call))
            try:
                await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    # All is sent, or sending failed because the call ended. What was answered until then is to be read.
                    await asyncio.wait((reading,), timeout=ANSWER_S)
                (reading if reading.done() else sending).result()
            finally:
                self.connected = self.resting = False
                for task in (sending, reading):
                    task.cancel()
                await asyncio.gather(sending, reading, return_exceptions=True)
                call.cancel()

    def _opened(self, frame: pb.AppendResponse) -> None:
        """Everything promised must be there, whole batches, and nothing that was not sent."""
        record = self.record
        stands = frame.opened.next_offset
        self._note("opened", next_offset=stands, promised=record.promised, sent_end=record.sent_end)
        if frame.WhichOneof("frame") != "opened":
            raise self._broken(f"the first frame was {frame.WhichOneof('frame')}")
        if stands < record.promised:
            raise self._broken(f"rows up to {record.promised} were acknowledged, the stream goes on at {stands}")
        if stands > record.sent_end:
            raise self._broken(f"rows up to {record.sent_end} were sent, the stream goes on at {stands}")
        if record.sealed is not None and stands != record.sealed:
            raise self._broken(f"the stream was ended at {record.sealed} and goes on at {stands}")
        if stands and not any(record.plan.batch(index).end == stands for index in range(record.sent)):
            raise self._broken(f"the stream goes on at {stands}, in the middle of a batch")
        record.promised, record.sealed = stands, None
        self._end = stands

    def _first_to_send(self) -> int:
        """Where to go on: behind what is stored, or, as blindly as a careless client, behind what was answered."""
        record = self.record
        index = record.answered
        if self._random.random() < 0.5:
            while index < record.sent and record.plan.batch(index).end <= self._end:
                self._settle(record.plan.batch(index))
                index += 1
        return index

    async def _send(self, call: Call, index: int) -> None:
        record = self.record
        while not self._failing and (not self._closing.is_set() or index < record.sent):
            self.resting = not self.flowing.is_set()
            await self.flowing.wait()
            self.resting = False
            batch = record.plan.batch(index)
            index += 1
            record.sent = max(record.sent, index)
            await self._put(call, batch)
            if self._random.random() < 0.1:
                await self._put(call, self._probe(index))
            await asyncio.sleep(self._random.choice((0.0, 0.0, 0.01, 0.04)))
        if not self._failing:
            await call.done_writing()

    async def _put(self, call: Call, batch: Batch) -> None:
        while len(self._under_way) >= WINDOW:
            self._answer.clear()
            async with asyncio.timeout(ANSWER_S):
                await self._answer.wait()
        self._under_way.append(batch)
        self._note("send", batch=batch.index, offset=batch.offset, rows=len(batch.rows))
        await call.write(pb.AppendRequest(offset=batch.offset, event_rows=rows_of(batch)))

    def _probe(self, index: int) -> Batch:
        """Something that must not be stored, given that batches before `index` were sent: an earlier batch once more,
        one that overlaps the end, or one behind a gap."""
        plan = self.record.plan
        last = plan.batch(index - 1)
        kind = self._random.randrange(4)
        if kind == 0:
            return plan.probe(last.end + self._random.randint(1, 50), (), 3)
        if kind == 1 and last.fits:
            return plan.probe(last.offset, last.rows, 2)
        return plan.batch(self._random.randrange(index))

    async def _read(self, call: Call) -> None:
        while True:
            async with asyncio.timeout(ANSWER_S):
                frame = await call.read()
            if not isinstance(frame, pb.AppendResponse):
                raise ConnectionError(f"the stream ended without its last frame: {await call.code()}")
            if frame.WhichOneof("frame") == "end":
                self._ended(frame.end)
                if await call.read() is not grpc.aio.EOF or await call.code() is not grpc.StatusCode.OK:
                    raise self._broken("a frame or an error came behind the end frame")
                return
            if not self._under_way:
                if frame.WhichOneof("frame") == "error":
                    raise ConnectionError(f"the stream ends: {reason(frame.error)}")
                raise self._broken(f"an answer to nothing: {frame}")
            answer = self._take(self._under_way.popleft(), frame)
            self._answer.set()
            if self._failing and not self._under_way and answer != "DRAINING":
                raise ConnectionError(answer)

    def _ended(self, end: pb.StreamEnd) -> None:
        record = self.record
        self.connected = False
        draining = end.reason == pb.StreamEnd.END_REASON_DRAINING
        self._note("end", draining=draining, next_offset=end.next_offset, under_way=len(self._under_way))
        if end.next_offset != self._end:
            raise self._broken(f"the answers end at {self._end}, the end frame says {end.next_offset}")
        record.sealed = end.next_offset
        if draining:
            record.drains += 1
            return
        if self._under_way:
            raise self._broken(f"{len(self._under_way)} batches were never answered")
        record.finished = True

    def _take(self, batch: Batch, frame: pb.AppendResponse) -> str:
        """Holds one answer against the only one that is right; returns it in a word."""
        self.record.answers += 1
        expected = _expected(batch, self._end)
        found = reason(frame.error) if frame.WhichOneof("frame") == "error" else "STORED"
        self._note("answer", batch=batch.index, offset=batch.offset, answer=found)
        if found == "STREAM_TAKEN_OVER":
            raise ConnectionError(found)
        if found in PASSING:
            # Not stored, and so what was sent behind it is behind a gap. The stream goes on; this writer reads what is
            # still under way and then comes again.
            self._failing = True
            return found
        if found != expected:
            raise self._broken(
                f"batch {batch.index}, rows {batch.offset} to {batch.offset + len(batch.rows)}, where the stream stood"
                f" at {self._end}: {found} instead of {expected} ({frame.error.status.message})"
            )
        bad = frame.append_result.rejected if found == "STORED" else frame.error.rejected
        if found in ("STORED", "ROWS_REJECTED") and [(row.index, row.reason) for row in bad] != batch.bad:
            raise self._broken(f"batch {batch.index}: rejected {list(bad)} instead of {batch.bad}")
        if found == "STORED":
            self._stored(batch, frame.append_result)
        elif frame.error.expected_offset < self._end:
            raise self._broken(f"expected_offset {frame.error.expected_offset}, but {self._end} rows were acknowledged")
        if batch.index == self.record.answered and found != "OFFSET_GAP":
            self._settle(batch)
        return found

    def _stored(self, batch: Batch, result: pb.AppendResult) -> None:
        accepted = len(batch.rows) - len(batch.bad)
        if (result.offset, result.accepted_rows) != (batch.offset, accepted):
            raise self._broken(f"batch {batch.index}: {result} instead of {accepted} rows at {batch.offset}")
        self._end = batch.end
        self.record.promised = max(self.record.promised, batch.end)
        self.record.commits[batch.index] = result.commit

    def _settle(self, batch: Batch) -> None:
        self.record.answered = max(self.record.answered, batch.index + 1)

    def _note(self, what: str, **details: object) -> None:
        self._journal.note(self.name, what, **details)

    def _broken(self, promise: str) -> Exception:
        return self._journal.broken(self.name, promise)


def _expected(batch: Batch, end: int) -> str:
    """The right answer to a batch when the stream's next offset is `end`."""
    if batch.offset > end:
        return "OFFSET_GAP"
    if batch.offset == end:
        return "STORED" if batch.fits else "ROWS_REJECTED"
    return "OFFSET_ALREADY_STORED" if batch.offset + len(batch.rows) <= end else "OFFSET_OVERLAP"


def rows_of(batch: Batch) -> pb.EventRows:
    """As they are sent."""
    return pb.EventRows(events=[row.event for row in batch.rows])


def reason(error: pb.AppendError) -> str:
    """The reason in an error frame."""
    info = error_details_pb2.ErrorInfo()
    return info.reason if any(detail.Unpack(info) for detail in error.status.details) else f"no reason in {error}"


def nobody_there(error: BaseException) -> bool:
    """Between two servers, which lasts some seconds and is not worth hundreds of lines."""
    return isinstance(error, grpc.aio.AioRpcError) and "failed to connect" in (error.details() or "")


def short(error: BaseException) -> str:
    """An error in a line of the journal."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {(error.details() or '')[:200]}"
    return f"{type(error).__name__}: {error}"
