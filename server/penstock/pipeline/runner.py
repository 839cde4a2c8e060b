"""Runs the pipeline: one run at a time, each of them visible as a whole or not at all.

A run writes silver and gold under a number of its own and then appends one row to the commit log, which makes all of it
visible. What a run wrote that did not come so far is removed before the next run begins, and at start. Where the next
run begins stands in that log row too. Sessions follow in runs of their own, see `sessionizer`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial

import structlog

from penstock import failpoints, limits
from penstock.errors import Conflict, Overloaded, PenstockError, TimedOut, Unavailable
from penstock.pipeline import gold, silver, visits
from penstock.pipeline.asked import Asked
from penstock.pipeline.attempts import Attempts, since_ms
from penstock.pipeline.batch import Batch, next_batch
from penstock.pipeline.lag import Lag, read_lag
from penstock.pipeline.runs import Run, Step, Trigger
from penstock.pipeline.sessionizer import Sessionizer
from penstock.pipeline.tenants import Counts
from penstock.pipeline.versions import Versions
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.deadline import detached
from penstock.storage.engine import Engine

log = structlog.get_logger()

LOOP_RETRY_S_MAX = 30.0
FOLLOWER_INTERVAL_S = 1.0  # how often a server that does not write looks whether it does now


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
        self._rows_max = limits.PIPELINE_BATCH_ROWS  # less, while batches of so many were more than the database takes

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

    def current(self, tenant: str) -> Run | None:
        """The run under way that the tenant may see; of one of events and one of sessions the former."""
        under_way = (each.run.of(tenant) for each in (self._current, self._sessionizer.current) if each is not None)
        return next((run for run in under_way if run is not None), None)

    async def lag(self, tenant: str = "") -> Lag:
        """How far gold is behind, with all events or those of one tenant; asks the database only when it is."""
        return await read_lag(self._engine, self._log, tenant)

    def check_free(self, tenant: str = DEFAULT_TENANT) -> None:
        """Raises Conflict (RUN_IN_PROGRESS) when a run of events is under way that has rows of the tenant.

        One that has none is no matter of the tenant's: it is waited for.
        """
        if self._current is not None and self._current.run.of(tenant) is not None:
            raise Conflict("another run of the pipeline is under way", reason="RUN_IN_PROGRESS")

    async def run(
        self,
        *,
        trigger: Trigger = Trigger.CALL,
        caller: str = DEFAULT_TENANT,
        rows_max: int = limits.PIPELINE_BATCH_ROWS,
        event_type: str = "",
        tenant: str = "",
        refuse: bool = False,
        on_progress: Callable[[Run], None] = lambda run: None,
    ) -> list[Run]:
        """Runs until everything that was committed before the call is in gold; the runs made.

        They are one for each batch, and where a call asked, one for the sessions. With `event_type` only rows of that
        type are done, with `tenant` only that tenant's, and the next full run finds them done. When another run is
        under way that has rows of `caller`, the tenant that asks: Conflict (RUN_IN_PROGRESS) with `refuse`, else waits
        for it. Cancelling ends the run at its next step, and nothing of that batch becomes visible; of callers other
        than the default tenant, which may end only their own, it ends behind the batch. Raises Unavailable, TimedOut or
        Overloaded when trying again did not help; Unavailable (NOT_LEADER) at once when another server writes.
        """
        self._log.check_leads()
        if refuse:
            self.check_free(caller)
        upto = self._log.last_append
        await self._versions.lock.acquire()
        stop = asyncio.Event()
        by = caller if trigger is Trigger.CALL else ""
        asked = Asked(trigger, by, rows_max, silver.canonical_type(event_type), tenant, upto, on_progress, stop)
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

    async def _run_locked(self, asked: Asked) -> list[Run]:
        try:
            made = await self._run_batches(asked)
        finally:
            self._current = None
            self._versions.lock.release()
        if asked.trigger is Trigger.CALL:
            sessions = await self._sessionizer.run(self._attempts(asked))
            made += [sessions] if sessions else []
        return made

    async def _run_batches(self, asked: Asked) -> list[Run]:
        made: list[Run] = []
        after = self._log.gold.last_commit
        while not self._stopping.is_set():
            if asked.stop.is_set() and not asked.may_stop_inside:
                return made
            self._current = attempts = self._attempts(asked)
            run = await attempts.of(partial(self._attempt, asked, after))
            if run is None:
                return made
            made.append(run)
            after = run.last_commit
        raise Unavailable("the server is stopping", reason="SHUTTING_DOWN", retry_after_s=1.0)

    async def _attempt(self, asked: Asked, after: int, attempts: Attempts) -> bool:
        await self._versions.clean()
        since = self._log.gold.last_commit
        version = self._versions.next()
        batch = await next_batch(
            self._engine,
            run=version.run,
            since=since,
            after=max(after, since),
            upto=asked.upto,
            rows_max=min(asked.rows_max, self._rows_max),
            event_type=asked.event_type,
            tenant=asked.tenant,
        )
        if batch is None:
            return False
        attempts.note(
            first_commit=batch.first_commit, last_commit=batch.last_commit, rows=batch.rows, tenants=batch.tenants
        )
        attempts.check()
        try:
            made = await self._write(batch, attempts)
            failpoints.reached("pipeline.after_gold")
            counts = await self._versions.written(version)
            steps = attempts.run.steps
            attempts.note(steps=tuple(s.wrote(counts[s.name]) if s.name in counts else s for s in steps))
            failpoints.reached("pipeline.before_log")
            attempts.check()
            await self._versions.publish(version, asked.entry(batch, made))
        except BaseException as error:
            self._versions.spoil()
            self._note_size(batch, error)
            raise
        self._note_size(batch)
        attempts.note(run=version.run)
        return True

    def _note_size(self, batch: Batch, error: BaseException | None = None) -> None:
        """Learns how many rows the database takes at a time.

        Rows have properties of any size, so a batch of so many may be more than its memory holds, and would be each
        time that it is tried again. One commit always fits: it was written with less.
        """
        if isinstance(error, Overloaded | TimedOut):
            self._rows_max = max(1, min(batch.rows, self._rows_max) // 2)
            log.warning("a batch was more than the database takes", rows=batch.rows, next_rows_max=self._rows_max)
        elif error is None and self._rows_max < limits.PIPELINE_BATCH_ROWS:
            self._rows_max = min(2 * self._rows_max, limits.PIPELINE_BATCH_ROWS)

    async def _write(self, batch: Batch, attempts: Attempts) -> Counts:
        """Writes all that the run makes; rows of silver."""
        started = time.perf_counter()
        found = await silver.rows_read(self._engine, batch)
        rows_in = {tenant: found.get(tenant, 0) for tenant in batch.tenants}
        made = await silver.build(self._engine, batch, self._currency)
        steps = [Step.of_all("silver", rows_in, since_ms(started), rows_out=made, thins=True)]
        attempts.note(rows=sum(rows_in.values()), tenants=rows_in, steps=tuple(steps))
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
            steps.append(Step.of_all(name, {tenant: made.get(tenant, 0) for tenant in rows_in}, since_ms(started)))
            attempts.note(steps=tuple(steps))
        return made

    def _attempts(self, asked: Asked) -> Attempts:
        return Attempts(
            self._engine,
            asked.trigger,
            stop=asked.stop if asked.may_stop_inside else asyncio.Event(),
            last_try=self._stopping,
            on_progress=asked.on_progress,
            caller=asked.caller,
        )

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
        attempts = Attempts(
            self._engine, Trigger.LOOP, stop=stop, last_try=self._stopping, on_progress=lambda run: None
        )
        started = time.monotonic()

        async def work() -> list[Run]:
            run = await self._sessionizer.run(attempts)
            return [run] if run else []

        await self._kept(work(), stop)
        return max(self._interval_s, 2 * (time.monotonic() - started))
