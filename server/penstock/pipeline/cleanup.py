"""Removes what is older than its retention, and says exactly what.

Nothing is removed that is not in gold yet, and nothing that a run makes while a cleanup is under way: every condition
ends at the commit and the run that gold had when the cleanup began. So it needs no lock, and its counts are exact.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock.errors import Conflict
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane
from penstock.storage.payload import literal

# Runs that did one type ahead of the rest: their minutes stay for as long as some of their rows do.
_KEPT_RUNS = """
SELECT groupUniqArray(run) AS runs
FROM silver_events
WHERE tenant = {tenant:String} AND event_time < {cutoff:DateTime64(6, 'UTC')}
    AND run <= {run:Int64} AND commit > {last_commit:Int64}
"""

_UNPROCESSED = """
SELECT count() AS n
FROM bronze_events
WHERE tenant = {tenant:String} AND event_time < {cutoff:DateTime64(6, 'UTC')}
    AND commit > {last_commit:Int64} AND commit <= {head:Int64}
"""

_CUTOFF = """
SELECT max(JSONExtractString(detail, 'cutoff')) AS cutoff
FROM commits
WHERE operation = 'cleanup' AND JSONExtractString(detail, 'tenant') = {tenant:String}
"""


@dataclass(frozen=True, slots=True)
class Retention:
    """What a cleanup keeps."""

    event_days: int
    daily_days: int
    keep_aggregates: bool  # whether the KPI minutes of removed events stay


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cleanup is."""

    table: str
    done: int  # tables
    total: int


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleanup removed, or would."""

    dry_run: bool
    cutoff: datetime  # events before it went
    removed: Mapping[str, int]  # rows, by table
    kept_unprocessed: int  # rows old enough that are not in gold yet
    commit: int  # 0 when nothing was removed
    duration_ms: float


class Cleaner:
    """Runs one cleanup at a time."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log
        self._task: asyncio.Task[Cleaned] | None = None
        self.progress: Progress | None = None  # of the cleanup under way

    async def run(self, tenant: str, retention: Retention, *, dry_run: bool) -> Cleaned:
        """Removes what is too old, or with `dry_run` only counts it.

        Once begun, a cleanup is finished even when its caller goes away. Raises Conflict (RUN_IN_PROGRESS) when one is
        under way.
        """
        if dry_run:
            return await self._clean(tenant, retention, dry_run=True)
        self._log.check_leads()
        if self._task is not None and not self._task.done():
            raise Conflict("another cleanup is under way", reason="RUN_IN_PROGRESS")
        self._task = asyncio.create_task(self._clean(tenant, retention, dry_run=False))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends the cleanup under way behind the table it is at; doing it again removes the rest."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _clean(self, tenant: str, retention: Retention, *, dry_run: bool) -> Cleaned:
        started = time.perf_counter()
        now = datetime.now(UTC)
        # Whole minutes, so that no minute of gold loses some of its rows.
        cutoff = (now - timedelta(days=retention.event_days)).replace(second=0, microsecond=0)
        head = self._log.head
        conditions = await self._conditions(tenant, retention, now, cutoff)
        counts = {table: await self._count(table, condition) for table, condition in conditions.items()}
        bounds = self._bounds(tenant, cutoff)
        kept = await self._engine.rows(_UNPROCESSED, {**bounds, "head": head}, lane=Lane.PIPELINE)
        removed = {table: count for table, count in counts.items() if count}
        commit = 0
        if removed and not dry_run:
            commit = await self._remove(tenant, retention, cutoff, removed, conditions)
        took_ms = (time.perf_counter() - started) * 1e3
        return Cleaned(dry_run, cutoff, counts, int(kept[0]["n"]), commit, took_ms)

    async def _remove(
        self,
        tenant: str,
        retention: Retention,
        cutoff: datetime,
        removed: Mapping[str, int],
        conditions: Mapping[str, str],
    ) -> int:
        # The log says it first: whoever reads an older version must know of the gap from the moment it begins.
        async with self._log.transaction() as transaction:
            detail = {
                "tenant": tenant,
                "cutoff": _seconds(cutoff),
                "keep_aggregates": retention.keep_aggregates,
                "removed": dict(removed),
            }
            await transaction.append(Entry("cleanup", rows=sum(removed.values()), detail=detail))
        try:
            for done, table in enumerate(removed):
                self.progress = Progress(table, done, len(removed))
                await self._engine.delete_rows(table, conditions[table], lane=Lane.PIPELINE)
        finally:
            self.progress = None
        return transaction.commit

    async def _conditions(self, tenant: str, retention: Retention, now: datetime, cutoff: datetime) -> dict[str, str]:
        """What goes, by table, in the order of removal: silver last, because it says which ids and minutes go."""
        gold = self._log.gold
        mine = f"tenant = {literal(tenant)}"
        before = f"toDateTime64('{_seconds(cutoff)}', 6, 'UTC')"
        processed = f"commit <= {gold.last_commit}"
        made = f"run <= {gold.run}"
        silver = f"{mine} AND event_time < {before} AND {processed} AND {made}"
        conditions = {
            "silver_ids": f"{mine} AND {made} AND event_id IN (SELECT event_id FROM silver_events WHERE {silver})",
            "sessions": f"{mine} AND end_time < {before} AND {made}",
        }
        if not retention.keep_aggregates:
            found = await self._engine.rows(_KEPT_RUNS, self._bounds(tenant, cutoff), lane=Lane.PIPELINE)
            runs = "".join(f" AND run != {int(run)}" for run in sorted(found[0]["runs"]))
            minutes = f"{mine} AND minute < toDateTime('{_seconds(cutoff)}', 'UTC') AND {made}{runs}"
            conditions |= {"gold_kpis": minutes, "gold_events": minutes}
        last_day = (now - timedelta(days=retention.daily_days)).date().isoformat()
        return conditions | {
            "daily_metrics": f"{mine} AND date < toDate('{last_day}') AND commit <= {self._log.head}",
            "bronze_events": f"{mine} AND event_time < {before} AND {processed}",
            "silver_events": silver,
        }

    async def _count(self, table: str, condition: str) -> int:
        found = await self._engine.rows(f"SELECT count() AS n FROM {table} WHERE {condition}", lane=Lane.PIPELINE)
        return int(found[0]["n"])

    def _bounds(self, tenant: str, cutoff: datetime) -> dict[str, str | int]:
        gold = self._log.gold
        return {"tenant": tenant, "cutoff": _seconds(cutoff), "run": gold.run, "last_commit": gold.last_commit}


async def cleaned_before(engine: Engine, tenant: str) -> datetime | None:
    """Events of the tenant before this were removed by some cleanup; None when none was."""
    found = await engine.rows(_CUTOFF, {"tenant": tenant})
    text = found[0]["cutoff"]
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if text else None


def _seconds(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
