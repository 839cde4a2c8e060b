"""Turns what has queued up from all connections into commits.

One task takes batches from the queue, as many as fit a commit, decides their offsets, lets the engine parse, check and
store their rows in one insert, and appends one row to the commit log. Only then are the batches answered. While a
commit is under way the next one fills, so commits grow with the load by themselves.

Bad rows are rare, so the insert takes the good rows and the count of what was stored tells whether all were. Only if
not is the engine asked which rows were bad and why; then KEEP_GOOD batches keep the bad rows in the rejected table, and
if an ALL_OR_NOTHING batch has some, the commit is void and made again without that batch.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

import pyarrow as pa
import structlog

from penstock import failpoints, limits
from penstock.errors import Overloaded, PenstockError, TakenOver, TimedOut, Unavailable
from penstock.events import arrow, bronze
from penstock.events.batch import BadRow, Batch, Raw, RawFormat, RowsRejected, Stored
from penstock.events.engine_schema import Stamp
from penstock.events.streams import Streams, StreamState, check_offset
from penstock.events.v1 import events_service_pb2
from penstock.storage.commit_log import Advance, CommitLog, Entry, Transaction
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.payload import Payload

log = structlog.get_logger()

T = TypeVar("T")

SUSPECT_S = 60.0  # a stream that sent a bad ALL_OR_NOTHING batch has its batches checked before the insert for so long
_IS_LOGGED = "SELECT count() AS logged FROM commits WHERE commit = {commit:Int64}"
_REJECTED_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("commit", pa.int64()),
        ("rejected_id", pa.string()),
        ("stream_id", pa.string()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("raw", pa.binary()),
        ("raw_format", pa.string()),
        ("ingest_time", pa.timestamp("us", "UTC")),
    ]
)
_REPLAYS_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("commit", pa.int64()),
        ("rejected_id", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(slots=True)
class Placed:
    """A batch in a commit: where its first row goes, and which of its rows turned out bad."""

    batch: Batch
    first_offset: int
    state: StreamState | None  # None: the default stream
    bad: list[BadRow] = field(default_factory=list)

    @property
    def keeps_good(self) -> bool:
        """Whether bad rows leave the others alone. Of a batch of one row there are no others."""
        return self.batch.keep_good or self.batch.rows == 1


@dataclass(slots=True)
class Totals:
    """What was done since the start."""

    accepted: int = 0
    rejected: int = 0
    commits: int = 0


class Committer:
    """The queue in front of the commit log, and the task behind it."""

    def __init__(self, engine: Engine, commit_log: CommitLog, streams: Streams) -> None:
        self._engine = engine
        self._log = commit_log
        self._streams = streams
        self._queue: deque[Batch] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Condition()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._suspects: dict[tuple[str, str], float] = {}  # streams that sent bad batches, until when
        self.totals = Totals()

    @property
    def queued_batches(self) -> int:
        """Batches that wait for a commit."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Their bytes, with those of the commit under way."""
        return self._queued_bytes

    def start(self) -> None:
        """Begins to commit."""
        self._task = asyncio.create_task(self._run(), name="committer")

    async def stop(self) -> None:
        """Commits and answers what is queued, takes nothing more, and ends."""
        self._closing = True
        self._filled.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def submit(self, batch: Batch) -> None:
        """Queues a batch, waiting for room; its outcome comes through `batch.done`.

        Raises Overloaded when there is no room for QUEUE_FULL_WAIT_S_MAX, Unavailable when the server stops.
        """
        if self._queued_bytes + batch.size > limits.QUEUE_BYTES_MAX and self._queued_bytes:
            await self._wait_for_room(batch)
        if self._closing:
            raise Unavailable("this server is stopping; reconnect", reason="DRAINING", retry_after_s=0.5)
        self._queued_bytes += batch.size
        self._queue.append(batch)
        self._filled.set()

    async def settled(self) -> None:
        """Waits until no commit is under way; batches that are queued but not begun do not count."""
        await self._idle.wait()

    async def _wait_for_room(self, batch: Batch) -> None:
        async with self._room:
            try:
                async with asyncio.timeout(limits.QUEUE_FULL_WAIT_S_MAX):
                    await self._room.wait_for(
                        lambda: (
                            self._closing
                            or not self._queued_bytes
                            or self._queued_bytes + batch.size <= limits.QUEUE_BYTES_MAX
                        )
                    )
            except TimeoutError:
                raise Overloaded(
                    "the ingest queue is full; send again later", reason="OVERLOADED", retry_after_s=1.0
                ) from None

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._filled.clear()
                await self._filled.wait()
                continue
            batches = self._take()
            self._idle.clear()
            try:
                await self._settle(batches)
            except Exception as error:
                # A fault of this program: say so to those who wait, and go on with the next.
                log.exception("commit failed", batches=len(batches))
                for batch in batches:
                    self._streams.doubt(batch.origin.tenant, batch.origin.stream_id)
                    if not batch.done.done():
                        batch.done.set_exception(error)
            finally:
                self._idle.set()
                self._queued_bytes -= sum(batch.size for batch in batches)
                async with self._room:
                    self._room.notify_all()

    def _take(self) -> list[Batch]:
        taken: list[Batch] = []
        rows = size = 0
        while self._queue:
            batch = self._queue[0]
            full = rows + batch.rows > limits.COMMIT_ROWS_MAX or size + batch.size > limits.COMMIT_BYTES_MAX
            if taken and full:
                break
            taken.append(self._queue.popleft())
            rows += batch.rows
            size += batch.size
        return taken

    async def _settle(self, batches: list[Batch]) -> None:
        """Tries until every batch is answered: stored, refused, or given up because storage stays away."""
        deadline = time.monotonic() + limits.COMMIT_RETRY_S_MAX
        wait_s = 0.05
        unsure: tuple[int, datetime, list[Placed]] | None = None  # an attempt whose log row may have been written
        while left := [batch for batch in batches if not batch.done.done()]:
            try:
                async with self._log.transaction() as transaction:
                    if unsure is not None and await self._is_logged(unsure[0]):
                        self._answer(unsure[2], unsure[0], unsure[1])
                        unsure = None
                        continue
                    placed, refused = await self._place(left)
                    unsure = (transaction.commit, transaction.time, placed)
                    stored = not placed or await self._store(placed, transaction)
                    unsure = None
                if stored:
                    for batch, error in refused:
                        batch.refuse(error)
            except (Unavailable, Overloaded, TimedOut) as error:
                for batch in left:
                    self._streams.doubt(batch.origin.tenant, batch.origin.stream_id)
                if time.monotonic() > deadline or self._closing:
                    for batch in left:
                        batch.refuse(error)
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 1.0)

    async def _is_logged(self, commit: int) -> bool:
        found = await self._engine.rows(_IS_LOGGED, {"commit": commit}, lane=Lane.COMMIT)
        return bool(found[0]["logged"])

    async def _place(self, batches: Sequence[Batch]) -> tuple[list[Placed], list[tuple[Batch, PenstockError]]]:
        """Decides each batch's offset, in order; those that cannot have theirs come back with why.

        They are told only after the commit, because what makes one a repetition may be a batch of this very commit.
        """
        placed: list[Placed] = []
        refused: list[tuple[Batch, PenstockError]] = []
        ends: dict[tuple[str, str], int] = {}
        for batch in batches:
            key = (batch.origin.tenant, batch.origin.stream_id)
            state = await self._streams.state(*key) if key[1] else None
            if state is not None and batch.owner is not None and state.owner is not batch.owner:
                refused.append((batch, taken_over(key[1])))
                continue
            end = ends.get(key, state.next_offset if state is not None else 0)
            error = check_offset(batch.offset, batch.rows, end) if state is not None else None
            if error is not None:
                refused.append((batch, error))
                continue
            placed.append(Placed(batch, end, state))
            ends[key] = end + batch.rows
        return placed, refused

    async def _store(self, placed: list[Placed], transaction: Transaction) -> bool:
        """Stores and answers the batches; False when some were refused and the others must be tried again."""
        failpoints.reached("commit.before_insert")
        suspects = [each for each in placed if not each.keeps_good and self._is_suspect(each.batch)]
        if suspects and await self._find_bad(suspects, transaction):
            self._refuse_bad(suspects)
            return False
        await self._each_form(placed, transaction, self._insert)
        expected = sum(each.batch.rows for each in placed)
        stored = await self._count(placed, transaction.commit)
        if stored != expected:
            bad = await self._find_bad(placed, transaction)
            if stored + bad != expected:
                _make_canonical(placed)
                return False
            if any(each.bad and not each.keeps_good for each in placed):
                self._refuse_bad(placed)
                return False
            await self._keep_rejected(placed, transaction)
        await self._note_replays(placed, transaction)
        failpoints.reached("commit.before_log")
        await transaction.append(_entry(placed))
        failpoints.reached("commit.before_ack")
        self._answer(placed, transaction.commit, transaction.time)
        return True

    def _answer(self, placed: Sequence[Placed], commit: int, when: datetime) -> None:
        for each in placed:
            batch, bad = each.batch, each.bad
            if each.state is not None:
                each.state.next_offset = each.first_offset + batch.rows
                each.state.commit = commit
            self.totals.accepted += batch.rows - len(bad)
            self.totals.rejected += len(bad)
            if bad and not batch.keep_good:
                batch.refuse(RowsRejected(bad))
            else:
                offset = each.first_offset if each.state is not None else 0
                batch.store(Stored(offset, batch.rows - len(bad), bad, commit, when))
        self.totals.commits += 1

    def _refuse_bad(self, placed: Sequence[Placed]) -> None:
        for each in placed:
            if each.bad and not each.keeps_good:
                origin = each.batch.origin
                self._suspects[origin.tenant, origin.stream_id] = time.monotonic() + SUSPECT_S
                each.batch.refuse(RowsRejected(each.bad))

    def _is_suspect(self, batch: Batch) -> bool:
        key = (batch.origin.tenant, batch.origin.stream_id)
        until = self._suspects.get(key)
        if until is not None and until < time.monotonic():
            del self._suspects[key]
            return False
        return until is not None

    async def _each_form(
        self,
        placed: Sequence[Placed],
        transaction: Transaction,
        run: Callable[[Payload, bool, Transaction], Awaitable[T]],
    ) -> list[T]:
        """Runs a statement over the batches that are messages, and over those that are columns."""
        results = []
        messages = [(i, each) for i, each in enumerate(placed) if each.batch.columns is None]
        if messages:
            payload = bronze.message_payload([(each.batch.message, _stamp(i, each)) for i, each in messages])
            results.append(await run(payload, False, transaction))
        columns = [(i, each) for i, each in enumerate(placed) if each.batch.columns is not None]
        if columns:
            payload = await asyncio.to_thread(_column_payload, columns)
            results.append(await run(payload, True, transaction))
        return results

    async def _insert(self, payload: Payload, columns: bool, transaction: Transaction) -> None:
        sql = bronze.filled(bronze.INSERT, columns=columns, commit=transaction.commit, time=transaction.time)
        await self._engine.insert_payload(sql, payload, lane=Lane.COMMIT)

    async def _verdicts(self, payload: Payload, columns: bool, transaction: Transaction) -> list[Row]:
        sql = bronze.filled(bronze.VERDICT, columns=columns, commit=transaction.commit, time=transaction.time)
        return await self._engine.query_payload(sql, payload, lane=Lane.COMMIT)

    async def _find_bad(self, placed: Sequence[Placed], transaction: Transaction) -> int:
        """Asks the engine which rows are bad; notes them at their batches and returns how many there are."""
        found = 0
        for rows in await self._each_form(placed, transaction, self._verdicts):
            for row in rows:
                each, index = placed[row["batch"]], row["row"]
                each.bad.append(each.batch.faults.get(index) or bronze.bad_row(index, row["reason"]))
                found += 1
        return found

    async def _count(self, placed: Sequence[Placed], commit: int) -> int:
        tenants = sorted({each.batch.origin.tenant for each in placed})
        found = await self._engine.rows(bronze.COUNT, {"tenants": tenants, "commit": commit}, lane=Lane.COMMIT)
        return int(found[0]["rows"])

    async def _keep_rejected(self, placed: Sequence[Placed], transaction: Transaction) -> None:
        rows = [
            {
                "tenant": each.batch.origin.tenant,
                "commit": transaction.commit,
                "rejected_id": str(uuid.uuid4()),
                "stream_id": each.batch.origin.stream_id,
                "offset": each.first_offset + bad.index,
                "reason": bad.reason,
                "message": bad.message,
                "raw": raw.data,
                "raw_format": raw.format.value,
                "ingest_time": transaction.time,
            }
            for each in placed
            if each.batch.keep_good and not each.batch.replays
            for bad, raw in zip(each.bad, _raws(each), strict=True)
        ]
        if rows:
            await self._engine.insert_arrow("rejected_events", pa.Table.from_pylist(rows, _REJECTED_SCHEMA))

    async def _note_replays(self, placed: Sequence[Placed], transaction: Transaction) -> None:
        rows = [
            {
                "tenant": each.batch.origin.tenant,
                "commit": transaction.commit,
                "rejected_id": rejected_id,
                "time": transaction.time,
            }
            for each in placed
            for index, rejected_id in enumerate(each.batch.replays)
            if index not in {bad.index for bad in each.bad}
        ]
        if rows:
            await self._engine.insert_arrow("rejected_replays", pa.Table.from_pylist(rows, _REPLAYS_SCHEMA))


def taken_over(stream_id: str) -> TakenOver:
    """What the older of two connections to a stream is told."""
    return TakenOver(
        f"a newer connection opened stream {stream_id}; it owns the stream now", reason="STREAM_TAKEN_OVER"
    )


def _stamp(index: int, each: Placed) -> bytes:
    origin = each.batch.origin
    stamp = Stamp(
        batch=index,
        tenant=origin.tenant,
        stream_id=origin.stream_id,
        first_offset=each.first_offset,
        row_count=each.batch.rows,
        client_address=origin.client_address,
        user_agent=origin.user_agent,
    )
    return cast("bytes", stamp.SerializeToString())


def _column_payload(columns: Sequence[tuple[int, Placed]]) -> Payload:
    return bronze.column_payload(
        [arrow.stamped(each.batch.columns, each.batch.origin, i, each.first_offset) for i, each in columns]
    )


def _make_canonical(placed: Sequence[Placed]) -> None:
    """Writes the messages anew, as this program understands them, where the engine understood some otherwise.

    A message that repeats fields which must not repeat is read differently by different parsers.
    """
    for each in placed:
        if each.batch.message:
            parsed = events_service_pb2.AppendRequest.FromString(each.batch.message)
            each.batch.message = parsed.SerializeToString()


def _raws(each: Placed) -> list[Raw]:
    """The bad rows of a batch, as they came."""
    batch = each.batch
    if batch.raws is not None:
        return [batch.raws[bad.index] for bad in each.bad]
    if batch.columns is not None:
        events = [arrow.event(batch.columns, bad.index) for bad in each.bad]
    else:
        sent = events_service_pb2.AppendRequest.FromString(batch.message).event_rows.events
        events = [sent[bad.index] for bad in each.bad]
    return [Raw(event.SerializeToString(), RawFormat.PROTOBUF) for event in events]


def _entry(placed: Sequence[Placed]) -> Entry:
    """The log row: each stream once, however many batches it has in the commit."""
    advances: dict[tuple[str, str], Advance] = {}
    for each in placed:
        batch, bad = each.batch, len(each.bad)
        key = (batch.origin.tenant, batch.origin.stream_id)
        before = advances.get(key) or Advance(*key, each.first_offset, each.first_offset, 0, 0)
        advances[key] = Advance(
            *key,
            before.first_offset,
            each.first_offset + batch.rows,
            before.accepted + batch.rows - bad,
            before.rejected + bad,
        )
    streams = list(advances.values())
    return Entry(
        "append", rows=sum(s.accepted for s in streams), rejected=sum(s.rejected for s in streams), streams=streams
    )
