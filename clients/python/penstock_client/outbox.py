"""What a writer has sent and the server has not settled, and where the stream stands. No input or output here.

The server answers requests in their order. A named stream moves only by what it stores, so every batch that was sent
behind a refused one is refused too, with OFFSET_GAP. Hence one rule for all that must be sent again: stop, let the
answers to what is out come in, then begin anew with the first batch that is not settled. Offsets are given as batches
go out; so when a batch is refused for good, those behind it move up.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.events.v1 import events_service_pb2 as pb
from penstock_client.batch import Batch
from penstock_client.errors import (
    Error,
    Overloaded,
    RejectedRow,
    RowsRejected,
    ServerFault,
    StreamTakenOver,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class Flow:
    """What may be outstanding, and in one request; the defaults hold until the server has announced its own."""

    requests: int = 64
    bytes: int = 4 * 1024 * 1024
    request_rows: int = 10_000
    request_bytes: int = 4 * 1024 * 1024

    @classmethod
    def announced(cls, flow: pb.FlowControl) -> "Flow":
        """As the server said; a bound that it left out stays as it was by default."""
        default = cls()
        return cls(
            flow.max_outstanding_requests or default.requests,
            flow.max_outstanding_bytes or default.bytes,
            flow.max_request_rows or default.request_rows,
            flow.max_request_bytes or default.request_bytes,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A batch on its way, with the offset it was sent at."""

    batch: Batch
    offset: int | None
    size: int
    time: float  # on the clock of time.monotonic


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch, or its first rows, need not be sent again."""

    batch: Batch
    offset: int | None
    result: pb.AppendResult | None = None  # None: stored before, or refused
    error: Error | None = None  # refused for good


class Outbox:
    """Batches in their order; `named` streams have offsets."""

    def __init__(self, *, named: bool) -> None:
        self.named = named
        self.flow = Flow()
        self.stored_end = 0  # everything before it is settled
        self.refusal: Error | None = None  # why the server refused a batch for now: wait before sending again
        self._opened = False
        self._sent_end = 0  # no row at or behind it ever left this writer
        self._wire_end = 0  # the offset of the next row to go out
        self._pending: deque[Batch] = deque()
        self._pending_bytes = 0
        self._pending_rows = 0
        self._out: deque[Sent] = deque()
        self._out_bytes = 0
        self._cursor = 0  # how many of _pending are out
        self._rewinding = False

    # --- what the writer asks -----------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether everything is settled."""
        return not self._pending

    @property
    def full(self) -> bool:
        """Whether as much waits as the server lets be outstanding."""
        return len(self._pending) >= self.flow.requests or self._pending_bytes >= self.flow.bytes

    @property
    def pending_rows(self) -> int:
        """Rows not settled."""
        return self._pending_rows

    @property
    def next_offset(self) -> int:
        """The offset of the next row to be added, if none before it is refused."""
        return self.stored_end + self._pending_rows

    def settled_through(self, sequence: int) -> bool:
        """Whether every batch up to that sequence number is settled."""
        return not self._pending or self._pending[0].sequence > sequence

    def add(self, batch: Batch) -> None:
        """Puts a batch behind the others."""
        self._pending.append(batch)
        self._pending_bytes += batch.rows.size
        self._pending_rows += batch.rows.count

    # --- what the connection asks ---------------------------------------------------------------------------------

    @property
    def oldest_sent(self) -> float | None:
        """When the oldest unanswered batch went out; None when all are answered."""
        return self._out[0].time if self._out else None

    @property
    def sendable(self) -> bool:
        """Whether the next batch may go out now."""
        if self._rewinding or self._cursor >= len(self._pending):
            return False
        if not self._out:
            return True  # one batch is always let through, or a lowered bound could stop everything
        size = self._pending[self._cursor].rows.size
        return len(self._out) < self.flow.requests and self._out_bytes + size <= self.flow.bytes

    def take(self, now: float) -> Sent:
        """The next batch to go out; cut where it is more than one request may hold. Only when `sendable`."""
        batch = self._cut_to_size(self._pending[self._cursor])
        sent = Sent(batch, self._wire_end if self.named else None, batch.rows.size, now)
        self._cursor += 1
        self._wire_end += batch.rows.count
        self._sent_end = max(self._sent_end, self._wire_end)
        self._out.append(sent)
        self._out_bytes += sent.size
        return sent

    def disconnected(self) -> None:
        """What is out will not be answered."""
        self._out.clear()
        self._out_bytes = 0
        self.refusal = None
        self._restart()

    def opened(self, next_offset: int) -> Iterator[Settled]:
        """The stream is open on a new connection; yields what the server turns out to have."""
        if not self.named:
            return
        if not self._opened:
            self._opened = True
            self.stored_end = self._sent_end = self._wire_end = next_offset
            return
        yield from self._advance(next_offset)
        self._restart()

    def stored(self, result: pb.AppendResult) -> Iterator[Settled]:
        """The oldest batch that is out was stored; yields it, behind what that proves to be stored before it."""
        sent = self._answered()
        if sent.offset is not None:
            if result.offset != sent.offset:
                raise ServerFault(
                    f"a batch sent at {sent.offset} was answered at {result.offset}", reason="PROTOCOL_VIOLATED"
                )
            # A batch that was refused with the commit in doubt may have been stored: the next one then fits.
            yield from self._advance(sent.offset)
            self.stored_end += sent.batch.rows.count
        self._drop(sent.batch)
        self._rewound()
        yield Settled(sent.batch, sent.offset, result)

    def refused(self, frame: pb.AppendError, error: Error) -> Iterator[Settled]:
        """The oldest batch that is out was not stored, or was before; yields what that settles."""
        sent = self._answered()
        lowered = error.reason == "TOO_MANY_ROWS" and sent.batch.rows.count > self.flow.request_rows
        misplaced = error.reason in ("OFFSET_GAP", "OFFSET_OVERLAP")
        again = lowered or misplaced or isinstance(error, Unavailable | Overloaded)
        if error.reason == "OFFSET_ALREADY_STORED" and sent.offset is not None:
            yield from self._advance(max(self.stored_end, sent.offset + sent.batch.rows.count))
        elif again:
            if not self._rewinding or error.retry_after_s is not None:
                self.refusal = error  # of the others, a gap is only what follows from it
            self._rewinding = True
            if frame.HasField("expected_offset") and self.named:
                yield from self._advance(frame.expected_offset)
        else:
            self._rewinding = self.named
            self._drop(sent.batch)
            if isinstance(error, RowsRejected):
                error.rejected = tuple(RejectedRow(row.index, row.reason, row.message) for row in frame.rejected)
                error.events = sent.batch.rows.events
            yield Settled(sent.batch, sent.offset, error=error)
        self._rewound()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _cut_to_size(self, batch: Batch) -> Batch:
        rows = batch.rows
        bytes_max = min(self.flow.request_bytes, self.flow.bytes)
        fits = min(self.flow.request_rows, rows.count * bytes_max // rows.size if rows.size > bytes_max else rows.count)
        fits = max(fits, 1)
        if fits >= rows.count:
            return batch
        first, rest = batch.split(fits)
        self._pending[self._cursor] = rest
        self._pending.insert(self._cursor, first)
        self._pending_bytes += first.rows.size + rest.rows.size - rows.size
        return self._cut_to_size(first)

    def _answered(self) -> Sent:
        if not self._out:
            raise ServerFault("the server answered more requests than were sent", reason="PROTOCOL_VIOLATED")
        sent = self._out.popleft()
        self._out_bytes -= sent.size
        return sent

    def _advance(self, next_offset: int) -> Iterator[Settled]:
        """The server has everything before `next_offset`."""
        if next_offset < self.stored_end:
            raise ServerFault(
                f"the stream ends at {next_offset}, but rows up to {self.stored_end} were acknowledged",
                reason="ACKNOWLEDGED_ROWS_LOST",
            )
        if next_offset > self._sent_end:
            raise StreamTakenOver(
                f"the stream ends at {next_offset}, but this writer sent no row behind {self._sent_end}: another"
                " writer uses the same stream_id",
                reason="STREAM_TAKEN_OVER",
            )
        while self.stored_end < next_offset:
            batch, offset = self._pending[0], self.stored_end
            missing = next_offset - offset
            if missing < batch.rows.count:
                first, rest = batch.split(missing)
                self._pending[0] = rest
                self._pending_bytes += rest.rows.size - batch.rows.size
                self._pending_rows -= missing
                batch = first
            else:
                self._drop(batch)
            self.stored_end += batch.rows.count
            yield Settled(batch, offset)

    def _drop(self, batch: Batch) -> None:
        """Takes a batch out; in nearly every case it is the first."""
        if self._pending and self._pending[0] is batch:
            self._pending.popleft()
        elif batch in self._pending:
            self._pending.remove(batch)
        else:
            return  # its rows were found stored while it was out
        self._cursor = max(0, self._cursor - 1)
        self._pending_bytes -= batch.rows.size
        self._pending_rows -= batch.rows.count

    def _rewound(self) -> None:
        if self._rewinding and not self._out:
            self._restart()

    def _restart(self) -> None:
        self._cursor = 0
        self._wire_end = self.stored_end
        self._rewinding = False
