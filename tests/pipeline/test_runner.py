"""When runs happen: one at a time, on demand and by themselves, and what becomes of failures."""

import asyncio

import pytest

from penstock import failpoints
from penstock.errors import Conflict, Unavailable
from penstock.pipeline import runs, sessions, silver
from penstock.pipeline.batch import Batch
from penstock.pipeline.lag import Lag
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.runs import Run, State, Trigger
from penstock.pipeline.tenants import Counts
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.storage.version import Version
from tests.pipeline import model, random_events
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit


class Gate:
    """Holds every run in its first step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self._build = silver.build
        monkeypatch.setattr(silver, "build", self._wait)

    async def _wait(self, engine: Engine, batch: Batch, currency: str) -> Counts:
        self.reached.set()
        await self.open.wait()
        return await self._build(engine, batch, currency)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_a_second_run_joins_or_is_refused(runner: PipelineRunner, commit: Commit, gate: Gate) -> None:
    await commit(Sent())
    first = asyncio.create_task(runner.run())
    await gate.reached.wait()
    await commit(Sent())
    joined = asyncio.create_task(runner.run())
    with pytest.raises(Conflict) as refused:
        await runner.run(refuse=True)
    assert refused.value.reason == "RUN_IN_PROGRESS"
    gate.open.set()
    one, two = (await first)[0], (await joined)[0]
    assert (one.last_commit, two.first_commit) == (1, 2)
    assert await runner.run(refuse=True) == []


async def test_a_cancelled_run_shows_nothing_and_lets_the_next_run(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, gate: Gate
) -> None:
    await commit(Sent())
    seen: list[Run] = []
    task = asyncio.create_task(runner.run(on_progress=seen.append))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runner.busy  # its statement may still write, so the next run waits
    gate.open.set()
    run, of_sessions = await runner.run()
    assert (seen[-1].state, run.state, commit_log.gold.run) == (State.CANCELLED, State.SUCCEEDED, of_sessions.run)
    assert await runs.recent(engine, "default", 10) == [of_sessions, run, seen[-1]]
    assert (await engine.rows("SELECT DISTINCT run FROM silver_events")) == [{"run": run.run}]


async def test_passing_failures_are_tried_again(
    engine: Engine, runner: PipelineRunner, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 2

    def fail_twice(name: str) -> None:
        nonlocal failures
        if name == "pipeline.after_silver" and failures:
            failures -= 1
            raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")

    monkeypatch.setattr(failpoints, "reached", fail_twice)
    await commit(Sent())
    run, of_sessions = await runner.run()
    assert (run.state, run.retries, run.steps[0].rows_out) == (State.SUCCEEDED, 2, 1)
    assert await runs.recent(engine, "default", 10) == [of_sessions, run]


async def test_a_fault_is_recorded_and_raised(
    engine: Engine, runner: PipelineRunner, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(silver, "build", fail)
    await commit(Sent(), Sent())
    with pytest.raises(ZeroDivisionError):
        await runner.run()
    (run,) = await runs.recent(engine, "default", 10)
    assert (run.state, run.error, run.run, run.first_commit, run.last_commit) == (State.FAILED, "INTERNAL", 0, 1, 1)
    assert runner.current("default") is None


async def test_what_a_crash_left_is_removed_at_start(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, settings: Settings
) -> None:
    await commit(Sent(path="/a"))
    await runner.run()
    number = await commit(Sent(path="/b"))
    await silver.build(engine, Batch(10**9, 1, number, number, 1), "USD")
    restarted = PipelineRunner(engine, commit_log, settings)
    await restarted.open()
    assert [row["path"] for row in await engine.rows("SELECT path FROM silver_events")] == ["/a"]
    run = (await restarted.run())[0]
    assert run.steps[0].rows_out == 1


async def test_the_loop_follows_commits_and_survives_failures(
    engine: Engine, commit_log: CommitLog, settings: Settings, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, failures = silver.build, 2

    async def fail_twice(engine: Engine, batch: Batch, currency: str) -> Counts:
        nonlocal failures
        if failures:
            failures -= 1
            raise ZeroDivisionError("a bug")
        return await build(engine, batch, currency)

    monkeypatch.setattr(silver, "build", fail_twice)
    runner = PipelineRunner(engine, commit_log, settings.model_copy(update={"pipeline_interval_s": 0.05}))
    await runner.open()
    runner.start()
    for _ in range(3):
        await within(10, commit_log, await commit(Sent()))
    await runner.stop()
    recent = await runs.recent(engine, "default", 20)
    of_events = [run for run in recent if run.rows or run.state is State.FAILED]
    assert [run.state for run in of_events] == [*[State.SUCCEEDED] * 3, State.FAILED, State.FAILED]
    assert {run.trigger for run in recent} == {Trigger.LOOP}
    assert not runner.busy


async def test_the_loop_makes_sessions_beside_the_runs(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, reached, go_on = sessions.build, asyncio.Event(), asyncio.Event()

    async def wait(engine: Engine, version: Version, **which: int) -> None:
        reached.set()
        await go_on.wait()
        await build(engine, version, **which)

    monkeypatch.setattr(sessions, "build", wait)
    sent = [Sent(visitor_id="a"), Sent(visitor_id="a", event_time=at(60)), Sent(visitor_id="a", event_time=at(-60))]
    runner.start()
    await commit(sent[0])
    await reached.wait()
    for event in sent[1:]:
        await within(10, commit_log, await commit(event))
    assert await model.stored_sessions(engine, commit_log) == set()
    go_on.set()
    async with asyncio.timeout(10):
        while await model.stored_sessions(engine, commit_log) != model.sessions(sent):
            await commit_log.wait_beyond(commit_log.head)
    assert await model.stored_gold(engine, commit_log) == model.gold(sent)


async def within(seconds: float, log: CommitLog, number: int) -> None:
    """Waits until a commit is in gold."""
    async with asyncio.timeout(seconds):
        while log.gold.last_commit < number:
            await log.wait_beyond(log.head)


async def test_stop_finishes_the_batch_under_way(
    commit_log: CommitLog, runner: PipelineRunner, commit: Commit, gate: Gate
) -> None:
    await commit(Sent())
    await commit(Sent())
    task = asyncio.create_task(runner.run(rows_max=1))
    await gate.reached.wait()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    gate.open.set()
    await stopping
    with pytest.raises(Unavailable):
        await task
    assert commit_log.gold.last_commit == 1


async def test_lag_is_what_is_not_in_gold(runner: PipelineRunner, commit: Commit) -> None:
    assert (await runner.lag()).commits == 0
    await commit(Sent())
    await asyncio.sleep(0.05)
    await commit(Sent())
    lag = await runner.lag()
    assert lag.commits == 2
    assert 0.05 <= lag.seconds < 5
    await runner.run()
    assert await runner.lag() == Lag(0, 0.0)


async def test_one_type_ahead_of_the_others(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit
) -> None:
    sent: list[Sent] = []
    for events in random_events.commits(11):
        await commit(*events)
        sent += events
    ahead = await runner.run(event_type="view", rows_max=20)
    first = model.first_of_ids(sent)
    views = [event for event in first if model.kind(event) == "page_view"]
    assert sum(run.steps[0].rows_out for run in ahead if run.rows) == len(views)
    assert sum(run.rows for run in ahead) == sum(model.kind(event) == "page_view" for event in sent)
    assert await model.stored_gold(engine, commit_log) == model.gold(views)
    assert commit_log.gold.last_commit == 0
    await runner.run(rows_max=50)
    assert await model.stored_gold(engine, commit_log) == model.gold(first)
    assert await model.stored_sessions(engine, commit_log) == model.sessions(first)
