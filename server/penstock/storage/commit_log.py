"""The commit log: one row a commit, and the four promises that rest on it.

1. A commit is all there or not at all: its rows carry its number, and readers look no further than the log's head.
2. A stream's next offset is known after any crash: it stands in the log, in the same row that makes the rows visible.
3. Every table can be read as of a commit: rows carry the commit or the run that made them, and the log says when.
4. The pipeline can stop and resume anywhere: how far it came is the log's last row of its kind.

One process writes the log of a database: the one that has its folder, or with a server behind a URL the one that holds
the lease. Numbers rise and are never used twice. A number whose log row was not written is void: its rows are deleted
before the next commit begins, and at start. Other processes follow the log and write nothing.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from penstock import limits
from penstock.errors import OutOfRange, PenstockError, Unavailable
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.lease import Lease
from penstock.storage.payload import literal
from penstock.storage.removals import OPERATIONS as REMOVING
from penstock.storage.removals import Removals, parsed
from penstock.storage.version import BY_COMMIT, Cut, Gold, Version

log = structlog.get_logger()

BY_RUN = ("silver_events", "silver_ids", "sessions", "gold_kpis", "gold_events", "gold_visits")
CHECKPOINT_EVERY_COMMITS = 2_000
VERSIONS_KNOWN_MAX = 1_000

_STATE = """
SELECT
    min(commit) AS first,
    max(commit) AS head,
    max(time) AS head_time,
    maxIf(commit, operation = 'append') AS last_append,
    maxIf(last_commit, operation = 'checkpoint') AS checkpoint,
    maxIf(commit, operation = 'etl' AND run > 0) AS gold_commit,
    argMaxIf(run, commit, operation = 'etl' AND run > 0) AS gold_run,
    argMaxIf(last_commit, commit, operation = 'etl' AND run > 0) AS gold_last_commit,
    argMaxIf(time, commit, operation = 'etl' AND run > 0) AS gold_time
FROM commits
"""
_AS_OF = """
WITH (SELECT max(commit) FROM commits WHERE commit <= {{head:Int64}} AND {condition}) AS version
SELECT
    version AS head,
    max(time) AS head_time,
    maxIf(commit, operation = 'etl' AND run > 0) AS gold_commit,
    argMaxIf(run, commit, operation = 'etl' AND run > 0) AS gold_run,
    argMaxIf(last_commit, commit, operation = 'etl' AND run > 0) AS gold_last_commit,
    argMaxIf(time, commit, operation = 'etl' AND run > 0) AS gold_time
FROM commits
WHERE commit <= version
"""
_REMOVED = f"""
SELECT commit, time, operation, detail
FROM commits
WHERE operation IN {REMOVING} AND commit <= {{head:Int64}}
ORDER BY commit
"""
_HEAD = "SELECT max(commit) AS head FROM commits"
_FIND = "SELECT epoch, toUnixTimestamp64Micro(time) AS micros FROM commits WHERE commit = {commit:Int64}"
_NEXT_OFFSET = """
SELECT max(next_offset) AS next_offset, max(last) AS commit
FROM
(
    SELECT max(s_next) AS next_offset, max(commit) AS last
    FROM commits ARRAY JOIN streams.tenant AS s_tenant, streams.stream_id AS s_stream, streams.next_offset AS s_next
    WHERE commit > {since:Int64} AND operation = 'append' AND has(streams.stream_id, {stream_id:String})
        AND s_tenant = {tenant:String} AND s_stream = {stream_id:String}
    UNION ALL
    SELECT max(next_offset) AS next_offset, max(commit) AS last
    FROM stream_checkpoints WHERE tenant = {tenant:String} AND stream_id = {stream_id:String}
)
"""
_FOLD = """
INSERT INTO stream_checkpoints (tenant, stream_id, next_offset, commit)
SELECT s_tenant, s_stream, max(s_next), max(commit)
FROM commits ARRAY JOIN streams.tenant AS s_tenant, streams.stream_id AS s_stream, streams.next_offset AS s_next
WHERE commit > {since:Int64} AND commit <= {upto:Int64} AND operation = 'append' AND s_stream != ''
GROUP BY s_tenant, s_stream
"""
# Bound parameters, which need the SELECT form, made this 2 to 4 ms longer (with fsync 12.0 instead of 7.7 ms, without
# 7.4 instead of 5.4). What did not help: String for LowCardinality, tuples for Nested (the part is Compact, one file
# for all columns; the six arrays cost 0.7 ms), no statistics, one thread, no parallel parsing.
_APPEND = "INSERT INTO commits VALUES ({values})"
# A server that lost its lease without noticing adds nothing, because the condition is read with the statement.
_APPEND_FENCED = "INSERT INTO commits SELECT {values} WHERE {fence}"


@dataclass(frozen=True, slots=True)
class Advance:
    """How far one commit moved one stream."""

    tenant: str
    stream_id: str  # empty: the default stream
    first_offset: int
    next_offset: int
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row of the log says; its number and time are the log's to give."""

    operation: str
    run: int = 0
    first_commit: int = 0
    last_commit: int = 0
    rows: int = 0
    rejected: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    streams: Sequence[Advance] = ()


class Transaction:
    """A commit under way: write rows with `commit` and `time`, then `append` the entry once."""

    def __init__(self, owner: "CommitLog", commit: int, time: datetime) -> None:
        self._log = owner
        self.commit = commit
        self.time = time

    async def append(self, entry: Entry) -> None:
        """Makes the commit visible."""
        await self._log._append(self.commit, self.time, entry)


class CommitLog:
    """The log, its head in memory, and those who wait for it to move."""

    def __init__(self, engine: Engine, lease: Lease | None = None) -> None:
        """`lease` decides who writes where several servers may; without one, this process does."""
        self._engine = engine
        self._lease = lease
        self._lock = asyncio.Lock()
        self._moved = asyncio.Condition()
        self._clean = False
        self._last_tried = 0
        self._last_time = datetime.fromtimestamp(0, UTC)
        self._checkpoint = 0
        self.epoch = -1  # of the lease under which this process made the log whole, 0 without a lease; -1: not yet
        self.first = 0  # the oldest commit; 0 before it
        self.head = 0  # the newest commit of any kind
        self.head_time: datetime | None = None
        self.last_append = 0  # the newest commit of events
        self.gold = Gold()
        self.removals = Removals()
        self._cuts: tuple[Cut, ...] = ()
        self._seen = Version(0, Gold())  # the version made last: the same object while nothing changes
        self._known: dict[int, Version] = {}  # older versions that were asked for, without their cuts

    @property
    def version(self) -> Version:
        """What readers see now."""
        seen = self._seen
        still = seen.commit == self.head and seen.time is self.head_time
        if not (still and seen.gold is self.gold and seen.cuts is self._cuts):
            seen = self._seen = Version(self.head, self.gold, self._cuts, self.head_time)
        return seen

    def oldest_version(self, tenant: str | None = None) -> int:
        """The oldest version of which every row is still on disk, of one tenant or of all; 0 in an empty log."""
        return max(self.first, self.removals.oldest_version(tenant))

    @property
    def leads(self) -> bool:
        """Whether this process may write."""
        return self._lease is None or self._lease.held

    def check_leads(self) -> None:
        """Raises Unavailable (NOT_LEADER) unless this process may write."""
        if self._lease is not None:
            self._lease.check()

    async def open(self) -> None:
        """Reads the head; where this process writes, removes what a crash left without a log row.

        Raises Unavailable.
        """
        async with self._lock:
            if self.leads:
                await self._recover()
            else:
                await self._read()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begins the next commit. Whatever goes wrong inside, the commit is found whole or removed before the next.

        Raises Unavailable (NOT_LEADER) when another server writes.
        """
        before = self.head
        try:
            async with self._lock:
                self.check_leads()
                if not (self._clean and self._is_current()):
                    await self._recover()
                self._last_tried = max(self._last_tried, self.head) + 1
                self._last_time = max(datetime.now(UTC), self._last_time + timedelta(microseconds=1))
                number = self._last_tried
                self._clean = False
                yield Transaction(self, number, self._last_time)
                # Where nothing was appended, what was written is removed before the next commit.
                self._clean = self.head == number
        finally:
            if self.head != before:
                await self._notify()

    async def wait_beyond(self, commit: int, timeout_s: float | None = None) -> bool:
        """Waits until the head is past `commit`; False when `timeout_s` went by first."""
        async with self._moved:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._moved.wait_for(lambda: self.head > commit)
            except TimeoutError:
                return False
        return True

    async def contains(self, commit: int, time: datetime) -> bool:
        """Whether the log has just this commit: of another server's with the same number, the time differs."""
        found = await self._engine.rows(_FIND, {"commit": commit}, lane=Lane.COMMIT)
        return any(row["micros"] == _micros(time) for row in found)

    async def time_of(self, commit: int) -> datetime | None:
        """When a commit was made; None when the log has no such commit."""
        found = await self._engine.rows(_FIND, {"commit": commit})
        if not found:
            return None
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(found[0]["micros"]))

    async def refresh(self) -> bool:
        """Catches up with what another server wrote; True when the head moved."""
        if self._nobody_else_writes():
            return False
        found = await self._engine.rows(_HEAD)
        if int(found[0]["head"]) == self.head:
            return False
        async with self._lock:
            before = self.head
            if not self._nobody_else_writes():
                await self._read()
        if self.head != before:
            await self._notify()
        return self.head != before

    async def follow(self) -> None:
        """Keeps up with the log where another server writes it, until cancelled."""
        while True:
            with contextlib.suppress(PenstockError):  # the engine has logged it; readers see what was known before
                await self.refresh()
            await asyncio.sleep(limits.FOLLOW_INTERVAL_S)

    async def as_of(
        self, *, commit: int | None = None, time: datetime | None = None, tenant: str | None = None
    ) -> Version:
        """What readers saw at a commit, or at a time: then, of the last commit at or before it.

        Raises OutOfRange: VERSION_NOT_FOUND for a commit that is not in the log, or a time before its first;
        VERSION_REMOVED when rows of it were deleted from disk, of `tenant`, or without one of any.
        """
        if commit is not None and commit > self.head:
            await self.refresh()
        if commit == self.head > 0:
            return self.version
        known = self._known.get(commit or 0)
        if known is None:
            known = await self._resolved(commit, time)
        oldest = self.oldest_version(tenant)
        if known.commit < oldest:
            raise OutOfRange(
                f"version {known.commit} can no longer be read, because rows of it were deleted; the oldest that can is"
                f" {oldest}",
                reason="VERSION_REMOVED",
                metadata={"oldest_version": str(oldest)},
            )
        return replace(known, cuts=self.removals.cuts(known.commit))

    async def _resolved(self, commit: int | None, time: datetime | None) -> Version:
        """The version at a commit or time, but for its cuts. What it shows of silver and gold never changes."""
        condition = "commit = {commit:Int64}" if time is None else "time <= {time:DateTime64(6, 'UTC')}"
        bounds = {"commit": commit} if time is None else {"time": _text(time)}
        found = (await self._engine.rows(_AS_OF.format(condition=condition), {**bounds, "head": self.head}))[0]
        version = int(found["head"])
        if not version:
            wanted = f"version {commit}" if time is None else f"version at or before {time.isoformat()}"
            raise OutOfRange(f"there is no {wanted}; the newest is {self.head}", reason="VERSION_NOT_FOUND")
        if len(self._known) >= VERSIONS_KNOWN_MAX:
            self._known.clear()
        self._known[version] = Version(version, _gold(found), time=_utc(found["head_time"]))
        return self._known[version]

    async def next_offset(self, tenant: str, stream_id: str) -> tuple[int, int]:
        """The offset of the stream's next row, and the last commit that moved it; (0, 0) for one never written."""
        found = await self._engine.rows(
            _NEXT_OFFSET, {"tenant": tenant, "stream_id": stream_id, "since": self._checkpoint}
        )
        return int(found[0]["next_offset"]), int(found[0]["commit"])

    async def checkpoint(self) -> bool:
        """Notes where streams stand, when the log has grown enough since the last time."""
        if self.last_append - self._checkpoint < CHECKPOINT_EVERY_COMMITS:
            return False
        self.check_leads()
        upto = self.last_append
        # Notes are facts whether or not the entry follows, so they need no commit of their own.
        await self._engine.execute(_FOLD, {"since": self._checkpoint, "upto": upto})
        async with self.transaction() as transaction:
            await transaction.append(Entry("checkpoint", last_commit=upto))
        self._checkpoint = upto
        return True

    async def delete_void(self, tables: Sequence[str], column: str, beyond: int) -> None:
        """Removes the rows of `tables` that no log row speaks for.

        Raises Unavailable (NOT_LEADER) when another server writes, or did since this one opened the log.
        """
        self.check_leads()
        if not self._is_current():
            raise Unavailable("the log is to be opened anew", reason="NOT_LEADER", retry_after_s=1.0)
        await self._engine.settle()
        await self._remove(tables, column, beyond)

    async def _remove(self, tables: Sequence[str], column: str, beyond: int) -> None:
        for table in tables:
            found = await self._engine.rows(
                f"SELECT count() AS n FROM {table} WHERE {column} > {{beyond:Int64}}", {"beyond": beyond}
            )
            if found[0]["n"]:
                log.warning("removing rows that were never committed", table=table, rows=found[0]["n"])
                # Only now does a failed insert cost more than its time: a mutation rewrites the parts it touches.
                await self._engine.delete_rows(table, f"{column} > {beyond}")

    async def _recover(self) -> None:
        """Makes the log and what hangs on it whole: afterwards there is nothing that it does not know of."""
        epoch = 0
        if self._lease is not None:
            # What this server began in the epoch and did not see the end of must not come later than what follows.
            if self._lease.epoch == self.epoch:
                await self._lease.advance()
            epoch = self._lease.epoch
            # Set here, not where the lease is taken: a transaction that began in an older epoch keeps to that one's.
            self._engine.set_fence(self._lease.condition(epoch))
        # Statements of whoever wrote before may still run, and would write behind the back of the next step.
        await self._engine.settle(everybody=epoch != self.epoch)
        await self._read()
        await self._remove(BY_COMMIT, "commit", self.head)
        self.check_leads()
        self.epoch = epoch
        self._clean = True

    def _is_current(self) -> bool:
        return self._lease is None or self._lease.epoch == self.epoch

    def _nobody_else_writes(self) -> bool:
        return self.leads and self._clean and self._is_current()

    async def _read(self) -> None:
        state = (await self._engine.rows(_STATE))[0]
        removals = Removals()
        for row in await self._engine.rows(_REMOVED, {"head": state["head"]}):
            removals = removals.then(row["commit"], _utc(row["time"]), row["operation"], parsed(row["detail"]))
        # Nothing is awaited between these, so that no reader sees a part of them.
        self.first = int(state["first"])
        self.head = int(state["head"])
        self.head_time = _utc(state["head_time"]) if self.head else None
        self._last_tried = max(self._last_tried, self.head)
        self._last_time = max(self._last_time, _utc(state["head_time"]))
        self.last_append = int(state["last_append"])
        self._checkpoint = int(state["checkpoint"])
        self.gold = _gold(state)
        self._set_removals(removals)

    def _set_removals(self, removals: Removals) -> None:
        self.removals = removals
        self._cuts = removals.cuts(self.head)

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _append(self, commit: int, time: datetime, entry: Entry) -> None:
        values = _values(commit, time, entry, self.epoch)
        if self._lease is None:
            await self._engine.execute(_APPEND.format(values=values), lane=Lane.COMMIT)
        else:
            self._lease.check()
            fence = self._lease.condition(self.epoch)
            await self._engine.execute(_APPEND_FENCED.format(values=values, fence=fence), lane=Lane.COMMIT)
            found = await self._engine.rows(_FIND, {"commit": commit}, lane=Lane.COMMIT)
            if [(row["epoch"], row["micros"]) for row in found] != [(self.epoch, _micros(time))]:
                raise Unavailable(
                    "another server took over before the commit was written", reason="NOT_LEADER", retry_after_s=1.0
                )
        self.first = self.first or commit
        self.head = commit
        self.head_time = time
        if entry.operation == "append":
            self.last_append = commit
        if entry.operation == "etl":
            self.gold = Gold(entry.run, entry.last_commit, commit, time)
        if entry.operation in REMOVING:
            self._set_removals(self.removals.then(commit, time, entry.operation, entry.detail))


def _values(commit: int, time: datetime, entry: Entry, epoch: int) -> str:
    """The row in SQL, in the order of the table's columns."""
    streams = entry.streams
    columns: list[str | int | list[str] | list[int]] = [
        commit,
        _text(time),
        entry.operation,
        entry.run,
        entry.first_commit,
        entry.last_commit,
        entry.rows,
        entry.rejected,
        epoch,
        json.dumps(entry.detail) if entry.detail else "",
        [s.tenant for s in streams],
        [s.stream_id for s in streams],
        [s.first_offset for s in streams],
        [s.next_offset for s in streams],
        [s.accepted for s in streams],
        [s.rejected for s in streams],
    ]
    return ", ".join(map(literal, columns))


def _gold(state: Row) -> Gold:
    if not state["gold_commit"]:
        return Gold()
    return Gold(state["gold_run"], state["gold_last_commit"], state["gold_commit"], _utc(state["gold_time"]))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _micros(time: datetime) -> int:
    return round((time - datetime.fromtimestamp(0, UTC)) / timedelta(microseconds=1))
