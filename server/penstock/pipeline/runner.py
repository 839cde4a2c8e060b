"""Runs the pipeline: one run at a time, each of them visible as a whole or not at all.

A run writes silver and gold under a number of its own and then appends one row to the commit log, which makes all of it
visible. What a run wrote that did not come so far is removed before the next run begins, and at start. Where the next
run begins stands in that log row too. Sessions follow in runs of their own, see `sessionizer`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import structlog

from penstock import failpoints, limits
from penstock.errors import Conflict, PenstockError, Unavailable
from penstock.pipeline import gold, silver, visits
from penstock.pipeline.attempts import Attempts, since_ms
from penstock.pipeline.batch import Batch, next_batch
from penstock.pipeline.runs import Run, Step, Trigger
from penstock.pipeline.sessionizer import Sessionizer
from penstock.pipeline.versions import Versions
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.deadline import detached
from penstock.storage.engine import Engine

log = structlog.get_logger()

LOOP_RETRY_S_MAX = 30.0
FOLLOWER_INTERVAL_S = 1.0  # how often a server that does not write looks whether it does now

_LAG = """
SELECT count() AS commits, min(time) AS oldest
FROM commits
WHERE operation = 'append' AND commit > {processed:Int64} AND commit <= {head:Int64}
"""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far gold is behind the commits of events."""

    commits: int
    seconds: float  # age of the oldest commit that is not in gold; 0 when there is none


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request to the runner: what it asks for, and how to end it early."""

    trigger: Trigger
    rows_max: int
    event_type: str
    upto: int
    on_progress: Callable[[Run], None]
    stop: asyncio.Event


class PipelineRunner:
    """Brings commits of events into silver, gold and sessions: by itself, once started, and when asked."""

    def __init__(self, engine: Engine, log: CommitLog, settings: Settings) -> None:
        self._engine = engine
        self._log = log
        self._currency = settings.currency
        self._interval_s = settings.pipeline_interval_s
        self._versions = Versions(engine, log)
        self._sessionizer = Sessionizer(engine, log, self._versions)
        self._stopping = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._passes: set[asyncio.Task[list[Run]]] = set()
        self._current: Attempts | None = None

    async def open(self) -> None:
        """Removes what a crash left, where this process writes; the commit log must be open. Raises Unavailable."""
        async with self._versions.lock:
            if self._log.leads:
                await self._versions.clean()

    def start(self) -> None:
        """Starts to follow the commit log."""
        self._loops = [
            asyncio.create_task(self._follow(self._run_new), name="pipeline"),
            asyncio.create_task(self._follow(self._sessionize_new), name="pipeline-sessions"),
        ]

    async def stop(self) -> None:
        """Ends the loop; what is under way is finished first, up to the end of its batch."""
        self._stopping.set()
        await asyncio.gather(*self._passes, return_exceptions=True)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[Versions]:
        """Inside it no run is published, so what readers see of silver, sessions and gold stays as it is.

        Waits for the run under way. Who publishes a run of their own inside does it with the versions that it gives.
        """
        async with self._versions.lock:
            yield self._versions

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._versions.lock.locked()

    @property
    def current(self) -> Run | None:
        """The run under way; of one of events and one of sessions the former."""
        under_way = self._current or self._sessionizer.current
        return under_way.run if under_way is not None else None

    async def lag(self) -> Lag:
        """How far gold is behind; asks the database only when it is."""
        processed, head = self._log.gold.last_commit, self._log.last_append
        if head <= processed:
            return Lag(0, 0.0)
        row = (await self._engine.rows(_LAG, {"processed": processed, "head": head}))[0]
        age = datetime.now(UTC) - row["oldest"].replace(tzinfo=UTC)
        return Lag(int(row["commits"]), max(0.0, age.total_seconds()))

    def check_free(self) -> None:
        """Raises Conflict (RUN_IN_PROGRESS) when a run is under way."""
        if self.busy:
            raise Conflict("another run of the pipeline is under way", reason="RUN_IN_PROGRESS")

    async def run(
        self,
        *,
        trigger: Trigger = Trigger.CALL,
        rows_max: int = limits.PIPELINE_BATCH_ROWS,
        event_type: str = "",
        refuse: bool = False,
        on_progress: Callable[[Run], None] = lambda run: None,
    ) -> list[Run]:
        """Runs until everything that was committed before the call is in gold; the runs made.

        They are one for each batch, and where a call asked, one for the sessions. With `event_type` only rows of that
        type are done, and the next full run finds them done. When another run is under way: Conflict (RUN_IN_PROGRESS)
        with `refuse`, else waits for it. Cancelling ends the run at its next step, and nothing of that batch becomes
        visible. Raises Unavailable, TimedOut or Overloaded when trying again did not help; Unavailable (NOT_LEADER)
        at once when another server writes.
        """
        self._log.check_leads()
        if refuse:
            self.check_free()
        upto = self._log.last_append
        await self._versions.lock.acquire()
        stop = asyncio.Event()
        asked = _Asked(trigger, rows_max, silver.canonical_type(event_type), upto, on_progress, stop)
        # A task of its own, which holds the lock until it ends: a statement under way cannot be taken back, and must
        # not write beside the next run's.
        return await self._kept(self._run_locked(asked), stop)

    async def _kept(self, work: Coroutine[object, object, list[Run]], stop: asyncio.Event) -> list[Run]:
        task = detached(work)
        self._passes.add(task)
        task.add_done_callback(self._passes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks
            raise

    async def _run_locked(self, asked: _Asked) -> list[Run]:
        try:
            made = await self._run_batches(asked)
        finally:
            self._current = None
            self._versions.lock.release()
        if asked.trigger is Trigger.CALL:
            attempts = self._attempts(asked.trigger, asked.stop, asked.on_progress)
            sessions = await self._sessionizer.run(attempts)
            made += [sessions] if sessions else []
        return made

    async def _run_batches(self, asked: _Asked) -> list[Run]:
        made: list[Run] = []
        after = self._log.gold.last_commit
        while not self._stopping.is_set():
            attempts = self._attempts(asked.trigger, asked.stop, asked.on_progress)
            self._current = attempts
            run = await attempts.of(partial(self._attempt, asked, after))
            if run is None:
                return made
            made.append(run)
            after = run.last_commit
        raise Unavailable("the server is stopping", reason="SHUTTING_DOWN", retry_after_s=1.0)

    async def _attempt(self, asked: _Asked, after: int, attempts: Attempts) -> bool:
        await self._versions.clean()
        since = self._log.gold.last_commit
        version = self._versions.next()
        batch = await next_batch(
            self._engine,
            run=version.run,
            since=since,
            after=max(after, since),
            upto=asked.upto,
            rows_max=asked.rows_max,
            event_type=asked.event_type,
        )
        if batch is None:
            return False
        attempts.note(first_commit=batch.first_commit, last_commit=batch.last_commit, rows=batch.rows)
        attempts.check()
        try:
            made = await self._write(batch, attempts)
            failpoints.reached("pipeline.after_gold")
            counts = await self._versions.written(version)
            steps = (replace(step, rows_out=counts.get(step.name, step.rows_out)) for step in attempts.run.steps)
            attempts.note(steps=tuple(steps))
            failpoints.reached("pipeline.before_log")
            attempts.check()
            await self._versions.publish(version, _entry(batch, made, asked.trigger))
        except BaseException:
            self._versions.spoil()
            raise
        attempts.note(run=version.run)
        return True

    async def _write(self, batch: Batch, attempts: Attempts) -> int:
        """Writes all that the run makes; rows of silver."""
        started = time.perf_counter()
        rows_in = await silver.rows_read(self._engine, batch)
        made = await silver.build(self._engine, batch, self._currency)
        steps = [Step("silver", rows_in, made, rows_in - made, since_ms(started))]
        attempts.note(rows=rows_in, steps=tuple(steps))
        failpoints.reached("pipeline.after_silver")
        for name, build in (
            ("gold_kpis", gold.build_kpis),
            ("gold_events", gold.build_events),
            ("gold_visits", visits.build),
        ):
            attempts.check()
            started = time.perf_counter()
            if made:
                await build(self._engine, batch)
            steps.append(Step(name, made, 0, 0, since_ms(started)))
            attempts.note(steps=tuple(steps))
        return made

    def _attempts(self, trigger: Trigger, stop: asyncio.Event, on_progress: Callable[[Run], None]) -> Attempts:
        return Attempts(self._engine, trigger, stop=stop, last_try=self._stopping, on_progress=on_progress)

    async def _follow(self, work: Callable[[], Awaitable[float]]) -> None:
        """Does `work` again and again; it returns how many seconds to let go by from its beginning to its next."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                pause_s = await work() if self._log.leads else FOLLOWER_INTERVAL_S
                failures = 0
            except PenstockError as error:
                failures += 1
                log.warning("the pipeline did not run", error=error.message, failures=failures)
            except Exception:
                failures += 1
                log.exception("the pipeline failed", failures=failures)
            if failures:
                pause_s = min(LOOP_RETRY_S_MAX, self._interval_s * 2 ** min(failures, 10))
            await asyncio.sleep(max(0.0, started + pause_s - time.monotonic()))

    async def _run_new(self) -> float:
        if self._log.last_append <= self._log.gold.last_commit:
            await self._log.wait_beyond(self._log.head, FOLLOWER_INTERVAL_S)
            return 0.0
        await self.run(trigger=Trigger.LOOP)
        await self._log.checkpoint()
        return self._interval_s

    async def _sessionize_new(self) -> float:
        """One run of sessions at most takes up as much time as goes by until the next."""
        if self._sessionizer.seen == self._log.gold.run:
            await self._log.wait_beyond(self._log.head, FOLLOWER_INTERVAL_S)
            return 0.0
        stop = asyncio.Event()
        attempts = self._attempts(Trigger.LOOP, stop, lambda run: None)
        started = time.monotonic()

        async def work() -> list[Run]:
            run = await self._sessionizer.run(attempts)
            return [run] if run else []

        await self._kept(work(), stop)
        return max(self._interval_s, 2 * (time.monotonic() - started))


def _entry(batch: Batch, silver_rows: int, trigger: Trigger) -> Entry:
    if not batch.event_type:
        return Entry(
            "etl",
            run=batch.run,
            first_commit=batch.first_commit,
            last_commit=batch.last_commit,
            rows=silver_rows,
            detail={"trigger": trigger.value},
        )
    # One type done ahead does not move the place where the next full run begins.
    return Entry(
        "etl",
        run=batch.run,
        first_commit=batch.first_commit,
        last_commit=batch.since,
        rows=silver_rows,
        detail={"trigger": trigger.value, "event_type": batch.event_type, "through": batch.last_commit},
    )
