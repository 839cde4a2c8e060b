"""Control of the pipeline over gRPC."""

import asyncio
import time
from datetime import UTC, date, datetime, timedelta

from google.longrunning import operations_proto_pb2
from google.protobuf.message import Message

from penstock import limits
from penstock.errors import invalid_field
from penstock.pipeline import wire, wire_travel
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.diff import DiffReader
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.runs import Run
from penstock.pipeline.status import StatusReader
from penstock.pipeline.tables import TABLES
from penstock.pipeline.travel import DataReader
from penstock.pipeline.v1 import pipeline_service_pb2
from penstock.pipeline.v1.pipeline_service_pb2 import (
    CalculateDailyMetricsRequest,
    CalculateDailyMetricsResponse,
    CancelOperationRequest,
    CleanupRequest,
    CleanupResponse,
    DiffVersionsRequest,
    DiffVersionsResponse,
    GetOperationRequest,
    GetPipelineStatusRequest,
    GetPipelineStatusResponse,
    ListDataRequest,
    ListDataResponse,
    ListRecentSessionsRequest,
    ListRecentSessionsResponse,
    ListVersionsRequest,
    ListVersionsResponse,
    ProcessEventTypeRequest,
    RunPipelineRequest,
    RunPipelineResponse,
    StartPipelineRequest,
)
from penstock.rpc.call import Call
from penstock.rpc.operations import Operations, Report
from penstock.rpc.principal import DEFAULT_TENANT

RECENT_RUNS_DEFAULT = 10
RECENT_SESSIONS_DEFAULT = 20
BATCH_ROWS_MIN = 10_000  # of tenants other than the default one; a batch of so many takes some tenths of a second


class PipelineService:
    """Serves `penstock.pipeline.v1.PipelineService`."""

    def __init__(
        self,
        runner: PipelineRunner,
        operations: Operations,
        daily: DailyCalculator,
        cleaner: Cleaner,
        status: StatusReader,
        history: HistoryReader,
        data: DataReader,
        diff: DiffReader,
    ) -> None:
        self._runner = runner
        self._operations = operations
        self._daily = daily
        self._cleaner = cleaner
        self._status = status
        self._history = history
        self._data = data
        self._diff = diff

    async def RunPipeline(self, request: RunPipelineRequest, call: Call) -> RunPipelineResponse:
        runs = await self._runner.run(
            caller=call.tenant,
            rows_max=_rows(call.tenant, request.batch_size),
            refuse=_refuses(request.on_conflict),
        )
        return wire.done(runs, call.tenant, _since_ms(call.started))

    async def StartPipeline(self, request: StartPipelineRequest, call: Call) -> operations_proto_pb2.Operation:
        tenant = call.tenant

        async def work(report: Report) -> Message:
            started = time.perf_counter()

            def progress(run: Run) -> None:
                if (own := run.of(tenant)) is not None:
                    report(wire.run(own))

            runs = await self._runner.run(
                caller=tenant,
                rows_max=_rows(tenant, request.batch_size),
                refuse=_refuses(request.on_conflict),
                on_progress=progress,
            )
            return wire.done(runs, tenant, _since_ms(started))

        known = self._operations.of_request(tenant, request.request_id)
        if known is not None:
            return known
        if _refuses(request.on_conflict):
            self._runner.check_free(tenant)
        return self._operations.start(tenant, request.request_id, work)

    async def ProcessEventType(self, request: ProcessEventTypeRequest, call: Call) -> RunPipelineResponse:
        runs = await self._runner.run(
            caller=call.tenant,
            rows_max=_rows(call.tenant, request.batch_size),
            event_type=request.event_type,
            tenant=call.tenant,
            refuse=_refuses(request.on_conflict),
        )
        return wire.done(runs, call.tenant, _since_ms(call.started))

    async def CalculateDailyMetrics(
        self, request: CalculateDailyMetricsRequest, call: Call
    ) -> CalculateDailyMetricsResponse:
        metrics = await self._daily.calculate(call.tenant, _day(request.target_date))
        return CalculateDailyMetricsResponse(metrics=[wire.daily_metrics(each) for each in metrics])

    async def GetPipelineStatus(self, request: GetPipelineStatusRequest, call: Call) -> GetPipelineStatusResponse:
        return wire.status(await self._status.read(call.tenant, request.run_limit or RECENT_RUNS_DEFAULT))

    async def ListRecentSessions(self, request: ListRecentSessionsRequest, call: Call) -> ListRecentSessionsResponse:
        sessions = await self._status.recent_sessions(
            call.tenant, request.limit or RECENT_SESSIONS_DEFAULT, request.site_id
        )
        return ListRecentSessionsResponse(sessions=[wire.session(each) for each in sessions])

    async def Cleanup(self, request: CleanupRequest, call: Call) -> CleanupResponse:
        retention = Retention(
            event_days=request.retention_days or limits.RETENTION_DAYS_DEFAULT,
            daily_days=request.daily_retention_days or limits.DAILY_RETENTION_DAYS_DEFAULT,
            keep_aggregates=request.keep_aggregates,
        )
        # Only a field that says so removes anything.
        dry_run = request.dry_run if request.HasField("dry_run") else True
        return wire.cleaned(await self._cleaner.run(call.tenant, retention, dry_run=dry_run, purge=request.purge))

    async def ListVersions(self, request: ListVersionsRequest, call: Call) -> ListVersionsResponse:
        page = await self._history.page(
            call.tenant,
            request.table,
            limit=request.limit,
            page_token=request.page_token,
        )
        return wire_travel.history(page)

    async def ListData(self, request: ListDataRequest, call: Call) -> ListDataResponse:
        page = await self._data.page(
            call.tenant,
            TABLES[request.table],
            wire_travel.moment(request, "version", "timestamp"),
            asked=request.filter,
            limit=request.limit,
            page_token=request.page_token,
        )
        return await asyncio.to_thread(wire_travel.data, page)

    async def DiffVersions(self, request: DiffVersionsRequest, call: Call) -> DiffVersionsResponse:
        found = await self._diff.compare(
            call.tenant,
            TABLES[request.table],
            wire_travel.moment(request, "from_version", "from_timestamp"),
            wire_travel.moment(request, "to_version", "to_timestamp"),
            limit=request.limit,
            page_token=request.page_token,
        )
        return await asyncio.to_thread(wire_travel.diff, found)

    async def GetOperation(self, request: GetOperationRequest, call: Call) -> operations_proto_pb2.Operation:
        return self._operations.get(call.tenant, request.id)

    async def CancelOperation(self, request: CancelOperationRequest, call: Call) -> operations_proto_pb2.Operation:
        return await self._operations.cancel(call.tenant, request.id)


def _rows(tenant: str, batch_size: int) -> int:
    """Rows a batch: a run writes to every table and to the log, so small ones are for who runs the server to choose."""
    rows = batch_size or limits.PIPELINE_BATCH_ROWS
    return rows if tenant == DEFAULT_TENANT else max(rows, BATCH_ROWS_MIN)


def _refuses(on_conflict: pipeline_service_pb2.OnConflict) -> bool:
    return on_conflict == pipeline_service_pb2.ON_CONFLICT_REFUSE


def _day(target_date: str) -> date:
    if not target_date:
        return datetime.now(UTC).date() - timedelta(days=1)
    try:
        day = date.fromisoformat(target_date)
    except ValueError:
        raise invalid_field("target_date", "must be a day of the calendar, YYYY-MM-DD") from None
    first = datetime.fromtimestamp(limits.EVENT_TIME_SECONDS_MIN, UTC).date()
    last = (datetime.now(UTC) + timedelta(seconds=limits.EVENT_FUTURE_SECONDS_MAX)).date()
    if not first <= day <= last:
        raise invalid_field("target_date", f"must lie between {first} and {last}, where events can be")
    return day


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
