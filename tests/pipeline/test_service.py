"""The service, from request to response, without gRPC between."""

import asyncio
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from penstock.errors import Conflict, InvalidInput
from penstock.pipeline import silver
from penstock.pipeline.batch import Batch
from penstock.pipeline.cleanup import Cleaner
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.diff import DiffReader
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.service import PipelineService
from penstock.pipeline.status import StatusReader
from penstock.pipeline.tenants import Counts
from penstock.pipeline.travel import DataReader
from penstock.pipeline.v1 import pipeline_pb2, pipeline_service_pb2
from penstock.rpc.call import Call
from penstock.rpc.operations import Operations
from penstock.rpc.principal import OPEN
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit
from tests.waiting import until

pb = pipeline_service_pb2


@pytest.fixture
def call() -> Call:
    context = cast(grpc.aio.ServicerContext, SimpleNamespace())
    return Call("", "request", "127.0.0.1", "test", context, {}, OPEN)


@pytest.fixture
def service(engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings) -> PipelineService:
    cleaner = Cleaner(engine, commit_log, runner, settings)
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


async def test_run_and_status(service: PipelineService, commit: Commit, call: Call) -> None:
    await commit(Sent("view", visitor_id="a"), Sent("search"))
    await commit(Sent(tenant="other"))
    await service.ProcessEventType(pb.ProcessEventTypeRequest(event_type="search"), call)
    before = await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call)
    assert (before.last_commit, before.processed_commit, before.lag_commits) == (1, 0, 1)
    assert before.lag_seconds > 0
    assert dict(before.unprocessed) == {"page_view": 1}
    ran = await service.RunPipeline(pb.RunPipelineRequest(batch_size=1), call)
    assert [len(run.steps) for run in ran.runs] == [4, 1]  # the other tenant's run is not shown
    assert ran.rows_processed == 2
    after = await service.GetPipelineStatus(pb.GetPipelineStatusRequest(run_limit=2), call)
    assert (after.processed_commit, after.lag_commits, after.lag_seconds) == (after.last_commit, 0, 0)
    assert not after.unprocessed
    assert [run.run for run in after.recent_runs] == [run.run for run in reversed(ran.runs)]
    assert {rate.name for rate in after.rates} == {"silver", "sessions", "gold_kpis", "gold_events", "gold_visits"}
    sizes = {table.name: table for table in after.tables}
    assert (sizes["bronze_events"].rows, sizes["silver_events"].rows, sizes["sessions"].rows) == (2, 2, 1)
    assert sizes["gold_kpis"].bytes > 0
    assert not after.HasField("current_run")


async def test_recent_sessions(service: PipelineService, commit: Commit, call: Call) -> None:
    await commit(
        Sent(visitor_id="a", event_time=at(60), path="/in", utm_source="mail", utm_medium="email", utm_campaign="x"),
        Sent("purchase", at(3600), session_id="long", price=Decimal(1)),
        Sent(visitor_id="b", event_time=at(99), site_id="blog"),
    )
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    await commit(Sent(visitor_id="a", event_time=at(0), path="/first"), Sent(session_id="long", event_time=at(-9)))
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    listed = (await service.ListRecentSessions(pb.ListRecentSessionsRequest(), call)).sessions
    assert listed[0].session_id == "long"
    assert [session.visitor for session in listed] == ["", "b", "a"]
    assert (listed[0].converted, listed[0].duration_seconds, listed[0].events) == (True, 3609, 2)
    assert (listed[2].landing_page, listed[2].exit_page) == ("/first", "/in")
    assert (listed[2].source, listed[2].medium, listed[2].campaign) == ("mail", "email", "x")
    latest = await service.ListRecentSessions(pb.ListRecentSessionsRequest(limit=1), call)
    assert [session.session_id for session in latest.sessions] == ["long"]
    blog = await service.ListRecentSessions(pb.ListRecentSessionsRequest(site_id="blog"), call)
    assert [session.visitor for session in blog.sessions] == ["b"]


async def test_an_operation_runs_the_pipeline(service: PipelineService, commit: Commit, call: Call) -> None:
    await commit(Sent(visitor_id="a"))
    request = pb.StartPipelineRequest(request_id="once")
    begun = await service.StartPipeline(request, call)
    await until(lambda: begun.done)
    done = await service.GetOperation(pb.GetOperationRequest(id=begun.name.removeprefix("operations/")), call)
    assert (await service.StartPipeline(request, call)).name == done.name == begun.name
    metadata, response = pipeline_pb2.Run(), pb.RunPipelineResponse()
    assert done.metadata.Unpack(metadata)
    assert done.response.Unpack(response)
    assert metadata.state == pipeline_pb2.Run.STATE_SUCCEEDED
    assert [run.state for run in response.runs] == [pipeline_pb2.Run.STATE_SUCCEEDED] * 2


async def test_an_operation_is_refused_and_cancelled(
    service: PipelineService, commit: Commit, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    build = silver.build

    async def wait(engine: Engine, batch: Batch, currency: str) -> Counts:
        reached.set()
        await go_on.wait()
        return await build(engine, batch, currency)

    monkeypatch.setattr(silver, "build", wait)
    await commit(Sent())
    begun = await service.StartPipeline(pb.StartPipelineRequest(), call)
    await reached.wait()
    running = (await service.GetPipelineStatus(pb.GetPipelineStatusRequest(), call)).current_run
    assert (running.state, running.last_commit) == (pipeline_pb2.Run.STATE_RUNNING, 1)
    with pytest.raises(Conflict):
        await service.StartPipeline(pb.StartPipelineRequest(on_conflict=pb.ON_CONFLICT_REFUSE), call)
    cancel = pb.CancelOperationRequest(id=begun.name.removeprefix("operations/"))
    assert (await service.CancelOperation(cancel, call)).done
    go_on.set()


async def test_days(service: PipelineService, commit: Commit, call: Call) -> None:
    await commit(Sent("purchase", visitor_id="a", price=Decimal("1.5"), path="/"), Sent(visitor_id="a", path="/p"))
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    request = pb.CalculateDailyMetricsRequest(target_date="2026-03-01")
    (day,) = (await service.CalculateDailyMetrics(request, call)).metrics
    assert (day.date, day.gmv, day.currency, day.orders, day.conversion_rate) == ("2026-03-01", 1.5, "USD", 1, 1)
    assert [(page.name, page.count) for page in day.top_pages] == [("/p", 1)]
    assert not (await service.CalculateDailyMetrics(pb.CalculateDailyMetricsRequest(), call)).metrics
    with pytest.raises(InvalidInput):
        await service.CalculateDailyMetrics(pb.CalculateDailyMetricsRequest(target_date="2026-02-30"), call)


async def test_cleanup(service: PipelineService, commit: Commit, call: Call) -> None:
    old = at(-200 * 86_400)
    await commit(Sent(event_time=old, visitor_id="a"), Sent(event_time=old))
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    await commit(Sent(event_time=old))
    dry = await service.Cleanup(pb.CleanupRequest(), call)
    wet = await service.Cleanup(pb.CleanupRequest(dry_run=False), call)
    assert dict(dry.removed) == dict(wet.removed)
    assert (wet.oldest_version, dry.HasField("purge_time"), wet.HasField("purge_time")) == (1, False, True)
    purged = await service.Cleanup(pb.CleanupRequest(dry_run=False, purge=True), call)
    assert (purged.commit, purged.oldest_version, purged.HasField("purge_time")) == (0, wet.commit, False)
    assert (wet.removed["silver_events"], wet.removed["sessions"], wet.kept_unprocessed) == (2, 1, 1)
    assert (dry.commit, wet.commit > 0, dry.dry_run) == (0, True, True)


async def test_looking_back(service: PipelineService, commit: Commit, call: Call) -> None:
    await commit(Sent("purchase", user_id="a", price=Decimal("9.5"), quantity=2, path="/"))
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    old = (await service.ListVersions(pb.ListVersionsRequest(table="gold"), call)).current_version
    await commit(Sent("purchase", at(9), user_id="b", price=Decimal(1)))
    await service.RunPipeline(pb.RunPipelineRequest(), call)
    await service.CalculateDailyMetrics(pb.CalculateDailyMetricsRequest(target_date="2026-03-01"), call)
    history = await service.ListVersions(pb.ListVersionsRequest(table="gold"), call)
    assert [(each.operation, each.rows, each.trigger) for each in history.versions] == [
        ("etl", 1, pipeline_pb2.Run.TRIGGER_CALL)
    ] * 2
    assert (history.oldest_version, history.current_version) == (1, 7)

    async def rows(table: str, **asked: object) -> list[dict[str, object]]:
        answer = await service.ListData(pb.ListDataRequest(table=table, **asked), call)  # type: ignore[arg-type]
        found: list[dict[str, object]] = [MessageToDict(row) for row in answer.rows]
        assert all({*row} == {column.name for column in answer.columns} for row in found)
        return found

    (then,) = await rows("gold", version=old)
    (now,) = await rows("gold")
    assert (then["minute"], then["gmv"], then["orders"]) == ("2026-03-01T12:00:00Z", 19.0, 1)
    assert (now["gmv"], now["orders"], now["purchase_users"]) == (20.0, 2, 2)
    at_that_time = (await service.ListData(pb.ListDataRequest(table="gold", version=old), call)).time
    assert await rows("gold", timestamp=at_that_time) == [then]
    (event,) = await rows("silver", filter="amount > 9.5")
    assert (event["price"], event["quantity"], event["properties"]) == (9.5, 2, {})
    (day,) = await rows("daily")
    assert (day["date"], day["gmv"], day["conversion_rate"]) == ("2026-03-01", 20.0, None)
    assert day["sources"] == [{"name": "", "count": 2}]
    assert {row["converted"] for row in await rows("sessions")} == {True}
    found = await service.DiffVersions(pb.DiffVersionsRequest(table="gold", from_version=old), call)
    (window,) = found.windows
    gmv = window.metrics["gmv"]
    assert (gmv.before, gmv.after, gmv.difference) == (19.0, 20.0, 1.0)
    assert (found.summary.windows, found.summary.differences["gmv"]) == (1, 1.0)
    events = await service.DiffVersions(pb.DiffVersionsRequest(table="bronze", from_version=old), call)
    assert [(each.event_type, each.added, each.removed) for each in events.rows] == [("purchase", 1, 0)]
