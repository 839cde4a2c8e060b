"""The pipeline: asking for runs, looking at them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.json_format import MessageToDict

from penstock.pipeline.v1 import pipeline_service_pb2 as pb
from penstock.pipeline.v1.pipeline_pb2 import DailyMetrics, Session, Version
from penstock.pipeline.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from penstock_client.connection import Connection
from penstock_client.fields import instant
from penstock_client.operation import HEAVY_TIMEOUT_S, Operation, found, unpacked

VERSIONS = 100
DATA_ROWS = 500

OnConflict = Literal["join", "refuse"]
Table = Literal["bronze", "silver", "gold", "sessions", "daily"]
DiffTable = Literal["gold", "bronze", "silver"]
_ON_CONFLICT: dict[str, pb.OnConflict] = {"join": pb.ON_CONFLICT_JOIN, "refuse": pb.ON_CONFLICT_REFUSE}


def _result(packed: Packed) -> pb.RunPipelineResponse:
    return unpacked(pb.RunPipelineResponse, packed)


class PipelineClient:
    """`client.pipeline`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> PipelineServiceStub:
        return PipelineServiceStub(self._connection.channel)

    async def run(
        self, *, batch_size: int = 0, on_conflict: OnConflict = "join", timeout_s: float = HEAVY_TIMEOUT_S
    ) -> pb.RunPipelineResponse:
        """Brings everything committed before the call into gold. Raises RunInProgress with on_conflict="refuse"."""
        request = pb.RunPipelineRequest(batch_size=batch_size, on_conflict=_ON_CONFLICT[on_conflict])
        return await self._connection.call(self._stub.RunPipeline, request, pb.RunPipelineResponse, timeout_s)

    async def start(
        self, *, batch_size: int = 0, on_conflict: OnConflict = "join", request_id: str | None = None
    ) -> Operation[pb.RunPipelineResponse]:
        """The same in the background. The same `request_id` again gives the same operation."""
        request = pb.StartPipelineRequest(
            batch_size=batch_size,
            on_conflict=_ON_CONFLICT[on_conflict],
            request_id=request_id or str(uuid4()),
        )
        # With its request_id the call starts nothing twice, so it may be tried again.
        started = await self._connection.read(self._stub.StartPipeline, request, operations_pb2.Operation)
        return Operation(self._connection, started, _result)

    async def operation(self, operation_id: str) -> Operation[pb.RunPipelineResponse]:
        """A run that was started before. Raises NotFound."""
        return Operation(self._connection, await found(self._connection, operation_id), _result)

    async def process(
        self,
        event_type: str,
        *,
        batch_size: int = 0,
        on_conflict: OnConflict = "join",
        timeout_s: float = HEAVY_TIMEOUT_S,
    ) -> pb.RunPipelineResponse:
        """Brings one event type into gold ahead of the others."""
        request = pb.ProcessEventTypeRequest(
            event_type=event_type, batch_size=batch_size, on_conflict=_ON_CONFLICT[on_conflict]
        )
        return await self._connection.call(self._stub.ProcessEventType, request, pb.RunPipelineResponse, timeout_s)

    async def daily_metrics(
        self, day: date | None = None, *, timeout_s: float = HEAVY_TIMEOUT_S
    ) -> Sequence[DailyMetrics]:
        """Computes and keeps the metrics of a day (in UTC; yesterday by default), one for each site."""
        request = pb.CalculateDailyMetricsRequest(target_date=day.isoformat() if day is not None else "")
        answer = await self._connection.call(
            self._stub.CalculateDailyMetrics, request, pb.CalculateDailyMetricsResponse, timeout_s
        )
        return answer.metrics

    async def status(self, *, run_limit: int = 0) -> pb.GetPipelineStatusResponse:
        """How far the pipeline is behind, its last runs (10 by default), and how large the tables are."""
        request = pb.GetPipelineStatusRequest(run_limit=run_limit)
        return await self._connection.read(self._stub.GetPipelineStatus, request, pb.GetPipelineStatusResponse)

    async def sessions(self, *, limit: int = 0, site_id: str = "") -> Sequence[Session]:
        """The sessions that ended last (20 by default), newest first."""
        request = pb.ListRecentSessionsRequest(limit=limit, site_id=site_id)
        answer = await self._connection.read(self._stub.ListRecentSessions, request, pb.ListRecentSessionsResponse)
        return answer.sessions

    async def cleanup(
        self,
        *,
        retention_days: int = 0,
        daily_retention_days: int = 0,
        dry_run: bool = True,
        keep_aggregates: bool = False,
        purge: bool = False,
        timeout_s: float = HEAVY_TIMEOUT_S,
    ) -> pb.CleanupResponse:
        """Says how much is older than `retention_days` (90 by default), and with dry_run=False removes it.

        Older versions show it until the travel time is over; with `purge` it goes from disk at once, and they with it.
        """
        request = pb.CleanupRequest(
            retention_days=retention_days,
            daily_retention_days=daily_retention_days,
            dry_run=dry_run,
            keep_aggregates=keep_aggregates,
            purge=purge,
        )
        return await self._connection.call(self._stub.Cleanup, request, pb.CleanupResponse, timeout_s)

    async def history(self, table: Table, *, page_size: int = VERSIONS) -> AsyncIterator[Version]:
        """The versions that changed a table, newest first, page after page."""
        request = pb.ListVersionsRequest(table=table, limit=page_size)
        while True:
            page = await self._connection.read(self._stub.ListVersions, request, pb.ListVersionsResponse)
            for each in page.versions:
                yield each
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def data(
        self,
        table: Table,
        *,
        version: int = 0,
        timestamp: datetime | None = None,
        where: str = "",
        page_size: int = DATA_ROWS,
    ) -> AsyncIterator[dict[str, Any]]:
        """The rows of a table as they were at a version or time, else as they are now.

        `where` is the call's filter. Pages are all of one version. Times come as datetimes in UTC, dates as dates, ids
        as UUIDs, counts as ints, money as floats. Raises OutOfRange for a version that is not there, or no longer.
        """
        request = pb.ListDataRequest(
            table=table,
            version=version,
            timestamp=instant(timestamp) if timestamp is not None else None,
            filter=where,
            limit=page_size,
        )
        while True:
            page = await self._connection.read(self._stub.ListData, request, pb.ListDataResponse)
            readers = {column.name: _READERS.get(column.type) for column in page.columns}
            for row in page.rows:
                yield _row(MessageToDict(row), readers)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def diff(
        self,
        table: DiffTable = "gold",
        *,
        from_version: int = 0,
        from_timestamp: datetime | None = None,
        to_version: int = 0,
        to_timestamp: datetime | None = None,
        limit: int = 0,
        page_token: str = "",
    ) -> pb.DiffVersionsResponse:
        """What changed from one version to another, by default to the newest.

        Of gold the windows, newest first, 50 by default: `next_page_token` of the answer is the next page's.
        """
        request = pb.DiffVersionsRequest(
            table=table,
            from_version=from_version,
            from_timestamp=instant(from_timestamp) if from_timestamp is not None else None,
            to_version=to_version,
            to_timestamp=instant(to_timestamp) if to_timestamp is not None else None,
            limit=limit,
            page_token=page_token,
        )
        return await self._connection.read(self._stub.DiffVersions, request, pb.DiffVersionsResponse)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "uuid": UUID,
    "timestamp": datetime.fromisoformat,
    "date": date.fromisoformat,
    "integer": int,
}


def _row(values: dict[str, Any], readers: Mapping[str, Callable[[Any], Any] | None]) -> dict[str, Any]:
    """A row with the types of its columns, in their order."""
    return {
        name: values[name] if read is None or values[name] is None else read(values[name])
        for name, read in readers.items()
    }
