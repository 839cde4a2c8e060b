"""Turns what has queued up from all connections into commits.

One task takes batches from the queue, as many as fit a commit, decides their offsets, lets the engine parse, check and
store their rows in one insert, and appends one row to the commit log. Only then are the batches answered. While a
commit is under way the next one fills, so commits grow with the load by themselves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from penstock import limits
from penstock.errors import Overloaded, PenstockError, TakenOver, TimedOut, Unavailable
from penstock.events.batch import Batch, RowsRejected, Stored
from penstock.events.commit import CommitWriter, Placed
from penstock.events.isolation import Isolation
from penstock.events.streams import Streams, StreamState, check_offset
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.storage.shares import Shares

log = structlog.get_logger()


@dataclass(slots=True)
class Totals:
    """What was done since the start."""

    accepted: int = 0
    rejected: int = 0
    commits: int = 0


class Meter(Protocol):
    """Is told what was done."""

    def committed(self, rows: int, size: int) -> None:
        """A commit of so many rows and bytes is durable."""
        ...

    def acknowledged(self, seconds: float) -> None:
        """A batch was answered so long after it had come."""
        ...


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A commit that was tried."""

    placed: Sequence[Placed]
    commit: int
    time: datetime


class Committer:
    """The queue in front of the commit log, and the task behind it."""

    def __init__(self, engine: Engine, commit_log: CommitLog, streams: Streams, meter: Meter | None = None) -> None:
        """`meter` is told of each commit and of each answer."""
        self._meter = meter
        self._engine = engine
        self._writer = CommitWriter(engine)
        self._log = commit_log
        self._streams = streams
        self._isolation = Isolation(self._commit)
        self._queue: deque[Batch] = deque()
        self._bytes = Shares(limits.QUEUE_BYTES_MAX, limits.QUEUE_TENANT_BYTES_MAX)
        self._filled = asyncio.Event()
        self._room = asyncio.Condition()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.totals = Totals()
        self._totals_of: dict[str, Totals] = {}

    @property
    def queued_batches(self) -> int:
        """Batches that wait for a commit."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Their bytes, with those of the commit under way."""
        return self._bytes.taken

    def totals_of(self, tenant: str) -> Totals:
        """What was done for the tenant."""
        return self._totals_of.get(tenant) or Totals()

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
        """Queues a batch, waiting until its tenant may have so much queued; its outcome comes through `batch.done`.

        Raises Overloaded when there is no room for QUEUE_FULL_WAIT_S_MAX, Unavailable when the server stops.
        """
        batch.queued_at = time.perf_counter()
        if self._closing or not self._bytes.take(batch.origin.tenant, batch.size):
            await self._wait_for_room(batch)
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
                        lambda: self._closing or self._bytes.take(batch.origin.tenant, batch.size)
                    )
            except TimeoutError:
                raise Overloaded(
                    "the ingest queue is full; send again later", reason="OVERLOADED", retry_after_s=1.0
                ) from None
        if self._closing:
            raise Unavailable("this server is stopping; reconnect", reason="DRAINING", retry_after_s=0.5)

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
                await self._isolation.settle(batches)
            except Exception as error:
                # A fault of this program: say so to those who wait, and go on with the next.
                log.exception("commit failed", batches=len(batches))
                for batch in batches:
                    self._streams.doubt(batch.origin.tenant, batch.origin.stream_id)
                    batch.refuse(error)
            finally:
                self._idle.set()
                for batch in batches:
                    self._bytes.give_back(batch.origin.tenant, batch.size)
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

    async def _commit(self, batches: Sequence[Batch]) -> None:
        """Tries until every batch is answered: stored, refused, or given up because storage stays away.

        Raises Unstored with those that are not, none of which is stored.
        """
        deadline = time.monotonic() + limits.COMMIT_RETRY_S_MAX
        wait_s = 0.05
        unsure: _Attempt | None = None  # one whose log row may have been written
        while left := [batch for batch in batches if not batch.done.done()]:
            try:
                epoch = self._log.epoch
                if unsure is None:
                    placed, refused = await self._place(left)
                    if not placed:
                        _tell(refused)
                        return
                async with self._log.transaction() as transaction:
                    if unsure is not None and await self._log.contains(unsure.commit, unsure.time):
                        self._answer(unsure)
                        unsure = None
                        continue
                    if unsure is not None or self._log.epoch != epoch:
                        placed, refused = await self._place(left)
                    if not placed:
                        _tell(refused)
                        return
                    unsure = _Attempt(placed, transaction.commit, transaction.time)
                    stored = await self._writer.store(placed, transaction)
                if stored:
                    self._answer(unsure)
                    _tell(refused)
                unsure = None
            except (Unavailable, Overloaded, TimedOut) as error:
                for batch in left:
                    self._streams.doubt(batch.origin.tenant, batch.origin.stream_id)
                if time.monotonic() > deadline or self._closing:
                    for batch in left:
                        batch.refuse(error)
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 1.0)

    async def _place(self, batches: Sequence[Batch]) -> tuple[list[Placed], list[tuple[Batch, PenstockError]]]:
        """Decides each batch's offset, in order; those that cannot have theirs come back with why.

        They are told only after the commit, because what makes one a repetition may be a batch of this very commit.
        """
        placed: list[Placed] = []
        refused: list[tuple[Batch, PenstockError]] = []
        ends: dict[tuple[str, str], int] = {}
        states: dict[tuple[str, str], StreamState | None] = {}
        for batch in batches:
            key = (batch.origin.tenant, batch.origin.stream_id)
            if key not in states:
                states[key] = await self._streams.state(*key) if key[1] else None
            state = states[key]
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

    def _answer(self, done: _Attempt) -> None:
        for tenant in {each.batch.origin.tenant for each in done.placed}:
            self._totals_of.setdefault(tenant, Totals()).commits += 1
        for each in done.placed:
            batch, bad = each.batch, each.bad
            if each.state is not None:
                each.state.next_offset = each.first_offset + batch.rows
                each.state.commit = done.commit
            for totals in (self.totals, self._totals_of[batch.origin.tenant]):
                totals.accepted += batch.rows - len(bad)
                totals.rejected += len(bad)
            if bad and not batch.keep_good:
                batch.refuse(RowsRejected(bad))
            else:
                offset = each.first_offset if each.state is not None else 0
                batch.store(Stored(offset, batch.rows - len(bad), bad, done.commit, done.time))
        self.totals.commits += 1
        self._measure([each.batch for each in done.placed])

    def _measure(self, batches: Sequence[Batch]) -> None:
        if self._meter is None:
            return
        now = time.perf_counter()
        self._meter.committed(sum(each.rows for each in batches), sum(each.size for each in batches))
        for each in batches:
            self._meter.acknowledged(now - each.queued_at)


def _tell(refused: Sequence[tuple[Batch, PenstockError]]) -> None:
    for batch, error in refused:
        batch.refuse(error)


def taken_over(stream_id: str) -> TakenOver:
    """What the older of two connections to a stream is told."""
    return TakenOver(
        f"a newer connection opened stream {stream_id}; it owns the stream now", reason="STREAM_TAKEN_OVER"
    )
