"""One commit: the engine parses, checks and stores the rows of many batches in one insert, then the log tells of it.

Bad rows are rare, so the insert takes the good rows, and the count of what was stored tells whether all were. Only if
not is the engine asked which rows were bad and why; then KEEP_GOOD batches keep the bad rows in the rejected table, and
if an ALL_OR_NOTHING batch has some, the commit is void and made again without that batch.
"""

import asyncio
import time
import uuid
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

from penstock import failpoints, limits
from penstock.errors import Overloaded, TimedOut, Unavailable
from penstock.events import arrow, bronze
from penstock.events.batch import BadRow, Batch, Origin, Raw, RawFormat, RowsRejected
from penstock.events.engine_schema import Stamp
from penstock.events.streams import StreamState
from penstock.events.v1 import events_service_pb2
from penstock.storage.commit_log import Advance, Entry, Transaction
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.isolation import Unstored
from penstock.storage.payload import Payload

T = TypeVar("T")

SUSPECT_S = 60.0  # a stream that sent a bad ALL_OR_NOTHING batch has its batches checked before the insert for so long
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
        """Whether bad rows leave the commit alone: by policy, or because there is neither another row nor an offset."""
        return self.batch.keep_good or (self.batch.rows == 1 and self.state is None)


@dataclass(slots=True)
class Group:
    """Batches of one origin that follow each other in their stream, so that the engine may read them as one.

    A message costs the engine about 50 µs whatever its size, so small batches are given to it together. Serialised
    messages join by being appended, their repeated fields too.
    """

    placed: list[Placed]
    starts: list[int]  # the first row of each in the group
    rows: int

    def message(self, index: int) -> tuple[bytes, ...]:
        """The group's bytes, the stamp behind them."""
        first = self.placed[0]
        origin = first.batch.origin
        stamp = Stamp(
            batch=index,
            tenant=origin.tenant,
            stream_id=origin.stream_id,
            first_offset=first.first_offset,
            row_count=self.rows,
            client_address=origin.client_address,
            user_agent=origin.user_agent,
        )
        return (*(each.batch.message for each in self.placed), stamp.SerializeToString())

    def find(self, row: int) -> tuple[Placed, int]:
        """The batch that a row of the group belongs to, and the row's place in it."""
        at = bisect_right(self.starts, row) - 1
        return self.placed[at], row - self.starts[at]


def grouped(placed: Sequence[Placed]) -> list[Group]:
    """The batches, in as few groups as they make."""
    groups: list[Group] = []
    last: dict[Origin, Group] = {}
    for each in placed:
        group = last.get(each.batch.origin)
        follows = group is not None and group.placed[0].first_offset + group.rows == each.first_offset
        if group is None or not follows or group.rows + each.batch.rows > limits.GROUP_ROWS_MAX:
            group = last[each.batch.origin] = Group([], [], 0)
            groups.append(group)
        group.placed.append(each)
        group.starts.append(group.rows)
        group.rows += each.batch.rows
    return groups


class Unaccounted(Exception):
    """Rows are neither stored nor bad: the engine reads a batch otherwise than this program does."""


class CommitWriter:
    """Writes commits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._suspects: dict[tuple[str, str], float] = {}  # streams that sent bad batches, until when

    async def store(self, placed: list[Placed], transaction: Transaction) -> bool:
        """Stores the batches and appends to the log; False when some were refused and the rest must be tried again.

        Raises Unstored, and what the engine raises.
        """
        try:
            if not await self._put(placed, transaction):
                return False
        except (Unavailable, Overloaded, TimedOut):
            raise
        except Exception as error:
            raise Unstored(str(error)) from error
        failpoints.reached("commit.before_log")
        await transaction.append(_entry(placed))
        failpoints.reached("commit.before_ack")
        return True

    async def _put(self, placed: list[Placed], transaction: Transaction) -> bool:
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
            if any(each.bad and not each.keeps_good for each in placed):
                self._refuse_bad(placed)
                return False
            if stored + bad != expected:
                await self._each_form(placed, transaction, self._insert_rest)
                stored = await self._count(placed, transaction.commit)
            if stored + bad != expected:
                raise Unaccounted(f"the engine stored {stored} of {expected} rows and finds fault with {bad}")
            await self._keep_rejected(placed, transaction)
        await self._note_replays(placed, transaction)
        return True

    def _refuse_bad(self, placed: Sequence[Placed]) -> None:
        now = time.monotonic()
        self._suspects = {key: until for key, until in self._suspects.items() if until > now}
        for each in placed:
            if each.bad and not each.keeps_good:
                origin = each.batch.origin
                self._suspects[origin.tenant, origin.stream_id] = now + SUSPECT_S
                each.batch.refuse(RowsRejected(each.bad))

    def _is_suspect(self, batch: Batch) -> bool:
        return self._suspects.get((batch.origin.tenant, batch.origin.stream_id), 0.0) > time.monotonic()

    async def _each_form(
        self,
        placed: Sequence[Placed],
        transaction: Transaction,
        run: Callable[[Payload, bool, Transaction], Awaitable[T]],
    ) -> list[tuple[list[Group], T]]:
        """Runs a statement over the batches that are messages, and over those that are columns."""
        results = []
        messages = grouped([each for each in placed if each.batch.columns is None])
        if messages:
            payload = bronze.message_payload([group.message(i) for i, group in enumerate(messages)])
            results.append((messages, await run(payload, False, transaction)))
        columns = [Group([each], [0], each.batch.rows) for each in placed if each.batch.columns is not None]
        if columns:
            payload = await asyncio.to_thread(_column_payload, columns)
            results.append((columns, await run(payload, True, transaction)))
        return results

    async def _insert(self, payload: Payload, columns: bool, transaction: Transaction) -> None:
        sql = bronze.filled(bronze.INSERT, columns=columns, commit=transaction.commit, time=transaction.time)
        await self._engine.insert_payload(sql, payload, lane=Lane.COMMIT)

    async def _insert_rest(self, payload: Payload, columns: bool, transaction: Transaction) -> None:
        commit, time = transaction.commit, transaction.time
        sql = bronze.filled(bronze.INSERT, columns=columns, commit=commit, time=time, rows=bronze.REST)
        await self._engine.insert_payload(sql, payload, lane=Lane.COMMIT)

    async def _verdicts(self, payload: Payload, columns: bool, transaction: Transaction) -> list[Row]:
        sql = bronze.filled(bronze.VERDICT, columns=columns, commit=transaction.commit, time=transaction.time)
        return await self._engine.query_payload(sql, payload, lane=Lane.COMMIT)

    async def _find_bad(self, placed: Sequence[Placed], transaction: Transaction) -> int:
        """Asks the engine which rows are bad; notes them at their batches and returns how many there are."""
        found = 0
        for groups, rows in await self._each_form(placed, transaction, self._verdicts):
            for row in rows:
                each, index = groups[row["batch"]].find(row["row"])
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


def _column_payload(groups: Sequence[Group]) -> Payload:
    first = [group.placed[0] for group in groups]
    stamped = [arrow.stamped(each.batch.columns, i, each.first_offset) for i, each in enumerate(first)]
    return bronze.column_payload(arrow.alike(stamped))


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
