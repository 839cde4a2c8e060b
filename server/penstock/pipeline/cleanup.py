"""Removes what is older than its retention, and says exactly what.

A removal is one row in the commit log. It says by which bounds rows are gone: from that version on every reader leaves
them out, all at once, and older versions still have them. They stay on disk for the travel time; then `purge` deletes
them. Nothing is removed that is not in gold yet: the bounds end at the commit and the run that gold had, and no run is
published while they are taken, so the counts are exact, and a session is never made of rows that are half gone.

The event ids of removed rows are known until the rows are deleted: an event that is sent again meanwhile is a
duplicate, afterwards it is new.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import TypeVar

import structlog

from penstock import limits
from penstock.errors import Conflict, PenstockError, TimedOut
from penstock.pipeline.purge import Progress, Purger
from penstock.pipeline.runner import FOLLOWER_INTERVAL_S, PipelineRunner
from penstock.pipeline.visits import QUARTER_S
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.deadline import detached, within
from penstock.storage.engine import Engine, Lane
from penstock.storage.removals import detail_of
from penstock.storage.version import Cut, Version

log = structlog.get_logger()

T = TypeVar("T")

SERVER = ""  # whose work it is that no tenant asked for

_GOLD = ("gold_kpis", "gold_events", "gold_visits")

# Runs that did one type ahead of the rest: their minutes stay for as long as some of their rows do.
_KEPT_RUNS = """
SELECT arraySort(groupUniqArray(run)) AS runs
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
class Cleaned:
    """What a cleanup removed, or would."""

    dry_run: bool
    cutoff: datetime  # events before it went
    removed: Mapping[str, int]  # rows, by table
    kept_unprocessed: int  # rows old enough that are not in gold yet
    commit: int  # 0 when nothing was removed
    purge_time: datetime | None  # when the rows go from disk; None when there are none to go
    oldest_version: int  # that can still be read
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Found:
    """What is too old."""

    cutoff: datetime
    counts: Mapping[str, int]
    cuts: tuple[Cut, ...]  # of the tables that have such rows
    kept_unprocessed: int


class Cleaner:
    """Runs one cleanup at a time, each tenant's in its turn, and by itself deletes from disk what is due."""

    def __init__(
        self,
        engine: Engine,
        log: CommitLog,
        runner: PipelineRunner,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._log = log
        self._runner = runner
        self._clock = clock
        self._purger = Purger(engine, log, timedelta(days=settings.travel_days), clock)
        self._turn = asyncio.Lock()
        self._whose: set[str] = set()  # that wait for their turn, or have it
        self._task: asyncio.Task[object] | None = None  # that has it, or had it last
        self._loop: asyncio.Task[None] | None = None

    @property
    def progress(self) -> Progress | None:
        """How far the deletion under way is."""
        return self._purger.progress

    async def run(self, tenant: str, retention: Retention, *, dry_run: bool, purge: bool = False) -> Cleaned:
        """Removes what is too old, or with `dry_run` only counts it; with `purge` deletes all that was removed at once.

        Once begun, a cleanup is finished even when its caller goes away. Raises as `alone`.
        """
        started = time.perf_counter()
        if dry_run:
            found = await self._find(tenant, retention)
            done = self._cleaned(tenant, found, 0, dry_run=True)
        else:
            self._log.check_leads()
            done = await self.alone(tenant, self._clean(tenant, retention, purge=purge))
        return replace(done, duration_ms=(time.perf_counter() - started) * 1e3)

    async def purge_due(self) -> None:
        """Ends purges that began, and deletes what was removed longer ago than the travel time. Raises as `alone`."""
        self._log.check_leads()
        await self.alone(SERVER, self._purger.purge_due())

    async def alone(self, whose: str, work: Coroutine[object, object, T]) -> T:
        """Does `work`, which removes rows of the tenant `whose`, to its end even when the caller goes away.

        Such work is done one after the other. Of one tenant a second is refused while the first waits or is under way:
        Conflict (RUN_IN_PROGRESS). What others do is waited for, in line; TimedOut when the caller's deadline passes
        before its turn.
        """
        if whose in self._whose:
            work.close()
            raise Conflict("another cleanup, or forgetting of a user, is under way", reason="RUN_IN_PROGRESS")
        self._whose.add(whose)
        try:
            await self._take_turn()
        except BaseException:
            self._whose.discard(whose)
            work.close()
            raise
        task = detached(work)
        task.add_done_callback(lambda done: self._give_turn(whose, done))
        self._task = task
        return await asyncio.shield(task)

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(within(limits.HEAVY_DEADLINE_S)):
                await self._turn.acquire()
        except TimeoutError:
            raise TimedOut("other work on what is stored went on for too long", reason="DEADLINE_EXCEEDED") from None

    def _give_turn(self, whose: str, done: asyncio.Task[T]) -> None:
        self._whose.discard(whose)
        self._turn.release()
        if not done.cancelled():
            done.exception()  # seen, should nobody wait for it any more

    def start(self) -> None:
        """Begins to look for what is due, now and from then on."""
        self._loop = asyncio.create_task(self._follow(), name="purge")

    async def stop(self) -> None:
        """Ends what is under way behind the table it is at; the next start ends it."""
        tasks: set[asyncio.Task[object]] = {each for each in (self._loop, self._task) if each is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _follow(self) -> None:
        while True:
            pause_s = limits.PURGE_INTERVAL_S
            try:
                if self._log.leads:
                    await self.purge_due()
                else:
                    pause_s = FOLLOWER_INTERVAL_S
            except PenstockError as error:
                log.warning("what cleanups removed was not deleted", error=error.message)
                pause_s = limits.PURGE_RETRY_S
            except Exception:
                log.exception("the deletion of what cleanups removed failed")
            await asyncio.sleep(pause_s)

    async def _clean(self, tenant: str, retention: Retention, *, purge: bool) -> Cleaned:
        async with self._runner.quiet():
            found = await self._find(tenant, retention)
            commit = await self._remove(tenant, retention, found) if found.cuts else 0
        if purge:
            await self._purger.purge_all(tenant)
        return self._cleaned(tenant, found, commit, dry_run=False)

    async def _find(self, tenant: str, retention: Retention) -> _Found:
        now, version = self._clock(), self._log.version
        cutoff = _cutoff(now, retention.event_days)
        bounds = {
            "tenant": tenant,
            "cutoff": cutoff.strftime("%Y-%m-%d %H:%M:%S"),
            "run": version.gold.run,
            "last_commit": version.gold.last_commit,
            "head": version.commit,
        }
        kept_runs: tuple[int, ...] = ()
        if not retention.keep_aggregates:
            kept_runs = tuple((await self._engine.rows(_KEPT_RUNS, bounds, lane=Lane.PIPELINE))[0]["runs"])
        last_day = datetime.combine((now - timedelta(days=retention.daily_days)).date(), time_of_day(), UTC)
        cuts = _cuts(tenant, version, cutoff, last_day, None if retention.keep_aggregates else kept_runs)
        counts = {cut.table: await self._count(cut, version) for cut in cuts}
        unprocessed = await self._engine.rows(_UNPROCESSED, bounds, lane=Lane.PIPELINE)
        return _Found(cutoff, counts, tuple(cut for cut in cuts if counts[cut.table]), int(unprocessed[0]["n"]))

    async def _count(self, cut: Cut, version: Version) -> int:
        sql = f"SELECT count() AS n FROM {cut.table} WHERE {cut.condition()} AND {version.visible(cut.table)}"
        return int((await self._engine.rows(sql, lane=Lane.PIPELINE))[0]["n"])

    async def _remove(self, tenant: str, retention: Retention, found: _Found) -> int:
        removed = {table: rows for table, rows in found.counts.items() if rows}
        detail = {
            "tenant": tenant,
            "cutoff": found.cutoff.strftime("%Y-%m-%d %H:%M:%S"),
            "keep_aggregates": retention.keep_aggregates,
            "removed": removed,
            "cuts": detail_of(found.cuts),
        }
        async with self._log.transaction() as transaction:
            await transaction.append(Entry("cleanup", rows=sum(removed.values()), detail=detail))
        return transaction.commit

    def _cleaned(self, tenant: str, found: _Found, commit: int, *, dry_run: bool) -> Cleaned:
        mine = next((each for each in self._log.removals.on_disk if commit and each.commit == commit), None)
        return Cleaned(
            dry_run=dry_run,
            cutoff=found.cutoff,
            removed=found.counts,
            kept_unprocessed=found.kept_unprocessed,
            commit=commit,
            purge_time=self._purger.due_time(mine) if mine else None,
            oldest_version=self._log.oldest_version(tenant),
        )


def _cutoff(now: datetime, days: int) -> datetime:
    """A quarter of an hour's beginning, so that no minute or quarter of gold loses some of its rows."""
    seconds = int((now - timedelta(days=days)).timestamp())
    return datetime.fromtimestamp(seconds - seconds % QUARTER_S, UTC)


def _cuts(
    tenant: str, version: Version, cutoff: datetime, last_day: datetime, kept_runs: tuple[int, ...] | None
) -> list[Cut]:
    """What goes as of a version; without `kept_runs`, nothing of gold."""
    gold = version.gold
    cuts = [
        Cut("bronze_events", tenant, cutoff, gold.last_commit),
        Cut("silver_events", tenant, cutoff, gold.run, processed=gold.last_commit),
        Cut("sessions", tenant, cutoff, gold.run),
        Cut("daily_metrics", tenant, last_day, version.commit),
    ]
    if kept_runs is not None:
        cuts += [Cut(table, tenant, cutoff, gold.run, kept_runs=kept_runs) for table in _GOLD]
    return cuts


async def cleaned_before(engine: Engine, tenant: str) -> datetime | None:
    """Events of the tenant before this were removed by some cleanup; None when none was."""
    found = await engine.rows(_CUTOFF, {"tenant": tenant})
    text = found[0]["cutoff"]
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if text else None
