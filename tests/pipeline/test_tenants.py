"""What the pipeline tells a tenant is the same whether or not others use the server, and none holds up another."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from penstock.access.v1 import access_pb2
from penstock.errors import Conflict, OutOfRange, Overloaded, TimedOut, Unavailable
from penstock.pipeline import runs, silver
from penstock.pipeline.batch import Batch
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.diff import DiffReader
from penstock.pipeline.forget import Forgetter
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.runs import State, Trigger
from penstock.pipeline.service import PipelineService
from penstock.pipeline.status import StatusReader
from penstock.pipeline.tenants import Counts
from penstock.pipeline.travel import DataReader
from penstock.pipeline.v1 import pipeline_pb2, pipeline_service_pb2
from penstock.rpc.call import Call
from penstock.rpc.operations import Operations
from penstock.rpc.principal import Kind, principal
from penstock.settings import Settings
from penstock.storage import deadline
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Engine
from tests.pipeline import forgetting, model
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit
from tests.waiting import until

pb = pipeline_service_pb2
A, B, NOBODY = "default", "other", "third"
OLD = at(-200 * 86_400)
KEEP = Retention(event_days=90, daily_days=730, keep_aggregates=False)
# What is of the machine, and the numbers that are the log's own.
_SHARED = {
    "startTime",
    "durationMs",
    "rowsPerSecond",
    "meanMs",
    "time",
    "lagSeconds",
    "run",
    "firstCommit",
    "lastCommit",
}


def call_of(tenant: str) -> Call:
    context = cast(grpc.aio.ServicerContext, SimpleNamespace())
    who = principal(Kind.USER, tenant, "somebody", [access_pb2.ROLE_OPERATOR])
    return Call("", "request", "127.0.0.1", "test", context, {}, who)


def said(message: Message) -> dict[str, Any]:
    """An answer without what is shared."""
    return cast(dict[str, Any], _own(MessageToDict(message)))


def _own(value: object) -> object:
    if isinstance(value, dict):
        return {name: _own(each) for name, each in value.items() if name not in _SHARED}
    return [_own(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def cleaner(engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings) -> Cleaner:
    return Cleaner(engine, commit_log, runner, settings)


@pytest.fixture
def service(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, cleaner: Cleaner
) -> PipelineService:
    return PipelineService(
        runner,
        Operations(),
        DailyCalculator(engine, commit_log, settings),
        cleaner,
        StatusReader(engine, commit_log, runner, cleaner),
        HistoryReader(engine, commit_log),
        DataReader(engine, commit_log),
        DiffReader(engine, commit_log),
    )


@pytest.fixture
def forgetter(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, cleaner: Cleaner
) -> Forgetter:
    return forgetting.forgetter(engine, commit_log, runner, settings, cleaner)


async def test_a_run_tells_each_tenant_of_its_own_rows(service: PipelineService, commit: Commit) -> None:
    one = Sent(visitor_id="a")
    await commit(one, Sent("purchase", visitor_id="a"), *(Sent(tenant=B, visitor_id=f"v{n}") for n in range(3)))
    await commit(one)
    nobodys = await service.RunPipeline(pb.RunPipelineRequest(), call_of(NOBODY))
    assert (list(nobodys.runs), nobodys.rows_processed) == ([], 0)
    of = {
        tenant: await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call_of(tenant))
        for tenant in (A, B, NOBODY)
    }
    events, sessions = of[A].recent_runs[1], of[A].recent_runs[0]
    assert [(step.name, step.rows_in, step.rows_out, step.duplicates) for step in (*events.steps, *sessions.steps)] == [
        ("silver", 3, 2, 1),
        ("gold_kpis", 2, 1, 0),
        ("gold_events", 2, 2, 0),
        ("gold_visits", 2, 1, 0),
        ("sessions", 2, 1, 0),
    ]
    (step, *_), (last,) = of[B].recent_runs[1].steps, of[B].recent_runs[0].steps
    assert (step.rows_in, step.rows_out, step.duplicates, last.rows_in, last.rows_out) == (3, 3, 0, 3, 3)
    # Who asked is told to nobody else.
    assert {run.trigger for run in (*of[A].recent_runs, *of[B].recent_runs)} == {pipeline_pb2.Run.TRIGGER_LOOP}
    assert not of[NOBODY].recent_runs
    await commit(Sent())
    ran = await service.RunPipeline(pb.RunPipelineRequest(), call_of(A))
    assert [run.trigger for run in ran.runs] == [pipeline_pb2.Run.TRIGGER_CALL] * 2
    assert ran.rows_processed == 1


async def answers(service: PipelineService, tenant: str) -> dict[str, Any]:
    """All that a tenant can read."""
    call = call_of(tenant)
    found = {"status": said(await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call))}
    for table in ("bronze", "silver", "gold", "sessions", "daily"):
        history = said(await service.ListVersions(pb.ListVersionsRequest(table=table), call))
        found[f"versions of {table}"] = history.get("versions", [])
        data = await service.ListData(pb.ListDataRequest(table=table), call)
        found[f"rows of {table}"] = {"rows": len(data.rows), "changed": data.HasField("time")}
    return found


def without_numbers(found: dict[str, Any]) -> dict[str, Any]:
    status = {name: each for name, each in found["status"].items() if name not in ("lastCommit", "processedCommit")}
    versions = {
        name: [{key: each for key, each in version.items() if key != "version"} for version in listed]
        for name, listed in found.items()
        if name.startswith("versions")
    }
    return {**found, "status": status, **versions}


@pytest.mark.parametrize("has_events", [False, True])
async def test_answers_are_the_same_whatever_another_tenant_does(
    service: PipelineService, commit: Commit, runner: PipelineRunner, has_events: bool
) -> None:
    theirs = [Sent("purchase", visitor_id=f"a{n}", event_time=OLD) for n in range(5)]
    mine = [Sent(tenant=B, visitor_id="b"), Sent(tenant=B, visitor_id="c", event_time=at(60))] if has_events else []
    if mine:
        await commit(*mine)
        await runner.run(trigger=Trigger.LOOP)
        await service.RunPipeline(pb.RunPipelineRequest(), call_of(B))
    alone = await answers(service, B)
    await commit(*theirs)
    await service.ProcessEventType(pb.ProcessEventTypeRequest(event_type="purchase"), call_of(A))
    assert without_numbers(await answers(service, B)) == without_numbers(alone)
    await service.RunPipeline(pb.RunPipelineRequest(), call_of(A))
    await service.CalculateDailyMetrics(pb.CalculateDailyMetricsRequest(target_date="2026-03-01"), call_of(A))
    await commit(replace(theirs[0], event_id=Sent().event_id))
    await service.Cleanup(pb.CleanupRequest(dry_run=False, purge=True), call_of(A))
    beside = await answers(service, B)
    assert without_numbers(beside) == without_numbers(alone)
    assert beside["status"].get("lastCommit") == alone["status"].get("lastCommit")
    assert all(table.get("bytes", 0) == 0 for table in beside["status"]["tables"])


async def test_the_time_of_a_version_is_that_of_the_tenants_own(
    service: PipelineService, commit: Commit, commit_log: CommitLog
) -> None:
    own = await commit(Sent(tenant=B))
    alone = await service.ListData(pb.ListDataRequest(table="bronze", version=own), call_of(B))
    numbers = [await commit(Sent()) for _ in range(3)]
    await service.RunPipeline(pb.RunPipelineRequest(), call_of(A))
    for number in numbers:
        beside = await service.ListData(pb.ListDataRequest(table="bronze", version=number), call_of(B))
        assert (beside.version, beside.time) == (number, alone.time)
        none = await service.ListData(pb.ListDataRequest(table="bronze", version=number), call_of(NOBODY))
        assert not none.HasField("time")
    ran = await service.ListData(pb.ListDataRequest(table="silver"), call_of(B))
    assert ran.time.ToNanoseconds() > alone.time.ToNanoseconds()
    again = await service.ListData(pb.ListDataRequest(table="silver", timestamp=ran.time), call_of(B))
    assert again.rows == ran.rows
    # Nor can it be found out by asking for times.
    assert commit_log.head_time is not None
    for time in (commit_log.head_time, await commit_log.time_of(numbers[1])):
        asked = pb.ListDataRequest(table="bronze", timestamp=time)
        shown = await service.ListData(asked, call_of(B))
        assert shown.version in (own, again.version)
        with pytest.raises(OutOfRange) as refused:
            await service.ListData(asked, call_of(NOBODY))
        assert refused.value.reason == "VERSION_NOT_FOUND"


async def test_one_type_is_brought_ahead_for_its_tenant_alone(
    engine: Engine, commit_log: CommitLog, service: PipelineService, commit: Commit
) -> None:
    events = [Sent("purchase", visitor_id="a"), Sent(visitor_id="a")]
    both = [*events, *(replace(event, tenant=B) for event in events)]
    await commit(*both)
    await commit(*both[:2])
    ran = await service.ProcessEventType(pb.ProcessEventTypeRequest(event_type="purchase"), call_of(B))
    assert [(run.state, run.last_commit) for run in ran.runs if run.last_commit] == [
        (pipeline_pb2.Run.STATE_SUCCEEDED, 1)
    ]
    assert ran.rows_processed == 1
    stored = await engine.rows("SELECT tenant, event_type FROM silver_events")
    assert [(row["tenant"], row["event_type"]) for row in stored] == [(B, "purchase")]
    await service.RunPipeline(pb.RunPipelineRequest(), call_of(A))
    assert await model.stored_gold(engine, commit_log) == model.gold(both)


async def test_only_who_runs_the_server_chooses_small_batches(service: PipelineService, commit: Commit) -> None:
    for _ in range(3):
        await commit(Sent(tenant=B), Sent())
    ran = await service.RunPipeline(pb.RunPipelineRequest(batch_size=1), call_of(B))
    assert [run.last_commit for run in ran.runs] == [3, 0]
    for _ in range(3):
        await commit(Sent(tenant=B), Sent())
    ran = await service.RunPipeline(pb.RunPipelineRequest(batch_size=1), call_of(A))
    assert len(ran.runs) == 4


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


async def test_a_run_of_others_refuses_nobody_and_nobody_stops_it(
    commit_log: CommitLog,
    service: PipelineService,
    runner: PipelineRunner,
    commit: Commit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    await commit(Sent())
    begun = await service.StartPipeline(pb.StartPipelineRequest(), call_of(B))
    await gate.reached.wait()
    assert not (await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call_of(B))).HasField("current_run")
    assert not begun.HasField("metadata")
    refuse = pb.RunPipelineRequest(on_conflict=pb.ON_CONFLICT_REFUSE)
    with pytest.raises(Conflict):
        await service.RunPipeline(refuse, call_of(A))
    waiting = asyncio.create_task(service.RunPipeline(refuse, call_of(B)))
    name = begun.name.removeprefix("operations/")
    assert (await service.CancelOperation(pb.CancelOperationRequest(id=name), call_of(B))).done
    gate.open.set()
    assert not (await waiting).runs
    assert commit_log.gold.last_commit == 1
    assert [run.state for run in await runs.recent(runner._engine, A, 9) if run.last_commit] == [State.SUCCEEDED]


async def test_why_a_run_failed_is_a_reason_and_no_text(
    service: PipelineService, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("INSERT … VALUES ('a secret')")

    monkeypatch.setattr(silver, "build", fail)
    await commit(Sent(), Sent(tenant=B))
    with pytest.raises(ZeroDivisionError):
        await service.RunPipeline(pb.RunPipelineRequest(), call_of(A))
    for tenant in (A, B):
        status = await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call_of(tenant))
        assert [(run.state, run.error) for run in status.recent_runs] == [(pipeline_pb2.Run.STATE_FAILED, "INTERNAL")]
    assert not (await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call_of(NOBODY))).recent_runs


async def test_a_batch_that_is_too_much_is_halved_until_it_passes(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, tried = silver.build, list[int]()

    async def bounded(engine: Engine, batch: Batch, currency: str) -> Counts:
        tried.append(batch.rows)
        if batch.rows > 3:
            raise Overloaded("no memory", reason="OVERLOADED")
        return await build(engine, batch, currency)

    monkeypatch.setattr(silver, "build", bounded)
    sent = [Sent(visitor_id="v", event_time=at(n)) for n in range(12)]
    for event in sent:
        await commit(event)
    made = await runner.run()
    assert tried[:3] == [12, 6, 3]
    assert all(run.state is State.SUCCEEDED for run in made)
    assert await model.stored_gold(engine, commit_log) == model.gold(sent)


def held(engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Deletions wait: that one began, and what lets them go on."""
    delete, reached, go_on = engine.delete_rows, asyncio.Event(), asyncio.Event()

    async def wait(*arguments: Any, **keywords: Any) -> None:
        reached.set()
        await go_on.wait()
        await delete(*arguments, **keywords)

    monkeypatch.setattr(engine, "delete_rows", wait)
    return reached, go_on


async def test_cleanups_and_forgettings_of_tenants_wait_for_each_other(
    engine: ClickHouseEngine,
    service: PipelineService,
    runner: PipelineRunner,
    cleaner: Cleaner,
    forgetter: Forgetter,
    commit: Commit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await commit(*(Sent(tenant=tenant, user_id="u", event_time=OLD) for tenant in (A, B, NOBODY)))
    await runner.run()
    reached, go_on = held(engine, monkeypatch)
    first = asyncio.create_task(cleaner.run(A, KEEP, dry_run=False, purge=True))
    await reached.wait()
    mine, others = [
        await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call_of(tenant)) for tenant in (A, B)
    ]
    assert (mine.HasField("current_cleanup"), others.HasField("current_cleanup")) == (True, False)
    second = asyncio.create_task(cleaner.run(B, KEEP, dry_run=False))
    third = asyncio.create_task(forgetter.forget(NOBODY, "u"))
    await asyncio.sleep(0.05)
    assert not second.done()
    assert not third.done()
    for work in (cleaner.run(B, KEEP, dry_run=False), forgetter.forget(NOBODY, "u")):
        with pytest.raises(Conflict) as refused:
            await work
        assert refused.value.reason == "RUN_IN_PROGRESS"
    go_on.set()
    assert (await first).removed["silver_events"] == (await second).removed["silver_events"] == 1
    assert (await third).removed["silver_events"] == 1


async def test_a_turn_is_waited_for_until_the_deadline(
    engine: ClickHouseEngine, cleaner: Cleaner, runner: PipelineRunner, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(*(Sent(tenant=tenant, event_time=OLD) for tenant in (A, B)))
    await runner.run()
    reached, go_on = held(engine, monkeypatch)
    first = asyncio.create_task(cleaner.run(A, KEEP, dry_run=False, purge=True))
    await reached.wait()

    async def in_a_hurry() -> None:
        deadline.keep_to(asyncio.get_running_loop().time() + 0.1)
        await cleaner.run(B, KEEP, dry_run=False)

    with pytest.raises(TimedOut):
        await asyncio.create_task(in_a_hurry())
    go_on.set()
    await first
    assert (await cleaner.run(B, KEEP, dry_run=False)).removed["bronze_events"] == 1


async def test_who_is_nowhere_is_forgotten_without_holding_up_anybody(
    commit_log: CommitLog, runner: PipelineRunner, forgetter: Forgetter, commit: Commit
) -> None:
    await commit(Sent(user_id="u"), Sent(tenant=B, user_id="w"))
    await runner.run()
    head, gold = commit_log.head, commit_log.gold
    async with runner.quiet():
        done = await forgetter.forget(B, "u")
    assert (set(done.removed.values()), set(done.remaining.values()), done.linked_visitor_ids) == ({0}, {0}, [])
    assert (commit_log.head, commit_log.gold) == (head, gold)
    assert set((await forgetter.forget(B, "w")).removed) == set(done.removed) | {"gold_visits"}


def failing_for(
    engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch, tenant: str, error: Callable[[], Exception]
) -> None:
    """Deletions of a tenant's rows fail."""
    delete = engine.delete_rows

    async def fail(table: str, condition: str, **keywords: Any) -> None:
        if f"'{tenant}'" in condition:
            raise error()
        await delete(table, condition, **keywords)

    monkeypatch.setattr(engine, "delete_rows", fail)


@pytest.mark.parametrize(
    "error", [lambda: Unavailable("gone", reason="STORAGE_UNAVAILABLE"), lambda: ValueError("bug")]
)
async def test_a_forgetting_that_fails_holds_up_no_other(
    engine: ClickHouseEngine,
    runner: PipelineRunner,
    forgetter: Forgetter,
    commit: Commit,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
) -> None:
    await commit(*(Sent(tenant=tenant, user_id="u") for tenant in (A, B, NOBODY)))
    await runner.run()
    failing_for(engine, monkeypatch, A, error)
    with pytest.raises((Unavailable, ValueError)):
        await forgetter.forget(A, "u")
    assert (await forgetter.forget(B, "u")).removed["silver_events"] == 1
    await forgetter.resume()  # which the server does before it starts
    assert (await forgetter.forget(NOBODY, "u")).removed["silver_events"] == 1
    assert [row["tenant"] for row in await engine.rows("SELECT tenant FROM silver_events")] == [A]
    monkeypatch.undo()
    await forgetter.resume()
    assert await engine.rows("SELECT tenant FROM silver_events") == []


async def test_a_purge_that_fails_holds_up_no_other(
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    cleaner: Cleaner,
    commit: Commit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await commit(*(Sent(tenant=tenant, event_time=OLD) for tenant in (A, B, NOBODY)))
    await runner.run()
    failing_for(engine, monkeypatch, A, lambda: Unavailable("gone", reason="STORAGE_UNAVAILABLE"))
    with pytest.raises(Unavailable):
        await cleaner.run(A, KEEP, dry_run=False, purge=True)
    assert (await cleaner.run(B, KEEP, dry_run=False, purge=True)).removed["silver_events"] == 1
    await cleaner.run(NOBODY, KEEP, dry_run=False)
    monkeypatch.setattr(cleaner._purger, "_travel", cleaner._purger._travel * 0)
    with pytest.raises(Unavailable):
        await cleaner.purge_due()
    assert [removal.tenant for removal in commit_log.removals.on_disk] == [A]
    monkeypatch.undo()
    await cleaner.purge_due()
    assert commit_log.removals.on_disk == ()


async def test_a_cancelled_wait_gives_up_its_place(cleaner: Cleaner) -> None:
    go_on = asyncio.Event()

    async def work() -> bool:
        return await go_on.wait()

    first = asyncio.create_task(cleaner.alone(A, work()))
    await asyncio.sleep(0)
    second = asyncio.create_task(cleaner.alone(B, work()))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.wait({second})
    third = asyncio.create_task(cleaner.alone(B, work()))
    await until(lambda: B in cleaner._whose)
    go_on.set()
    assert await first
    assert await third
