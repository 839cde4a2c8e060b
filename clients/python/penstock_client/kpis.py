"""KPIs."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.kpis.v1.kpis_pb2 import Kpi
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub
from penstock_client.connection import Connection


class KpisClient:
    """`client.kpis`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> KpiServiceStub:
        return KpiServiceStub(self._connection.channel)

    async def metrics(self, *, site_id: str = "", window: timedelta | None = None) -> pb.GetMetricsResponse:
        """The latest window (1 minute by default), the recent events by type, and how fresh both are."""
        request = pb.GetMetricsRequest(site_id=site_id, window=_duration(window))
        return await self._connection.read(self._stub.GetMetrics, request, pb.GetMetricsResponse)

    async def watch(
        self, *, site_id: str = "", window: timedelta | None = None, interval: timedelta | None = None
    ) -> AsyncIterator[pb.GetMetricsResponse]:
        """The same at once and then whenever it changes, at most once an `interval` (5 s by default).

        Connects again by itself, and then yields the metrics anew.
        """
        request = pb.WatchMetricsRequest(site_id=site_id, window=_duration(window), interval=_duration(interval))

        def start() -> Any:
            return self._stub.WatchMetrics(request, metadata=self._connection.metadata)

        async for frame in self._connection.follow(start, pb.WatchMetricsResponse):
            if frame.HasField("metrics"):
                yield frame.metrics

    async def conversion_trend(
        self, *, limit: int = 0, site_id: str = "", window: timedelta | None = None
    ) -> pb.GetConversionTrendResponse:
        """Conversion in the newest `limit` windows (60 by default), and where it goes."""
        request = pb.GetConversionTrendRequest(limit=limit, site_id=site_id, window=_duration(window))
        return await self._connection.read(self._stub.GetConversionTrend, request, pb.GetConversionTrendResponse)

    async def revenue_trend(
        self, *, limit: int = 0, site_id: str = "", window: timedelta | None = None
    ) -> pb.GetRevenueTrendResponse:
        """GMV in the newest `limit` windows (60 by default), and where it goes."""
        request = pb.GetRevenueTrendRequest(limit=limit, site_id=site_id, window=_duration(window))
        return await self._connection.read(self._stub.GetRevenueTrend, request, pb.GetRevenueTrendResponse)

    async def catalog(self) -> Sequence[Kpi]:
        """Every metric, by name."""
        return (await self._connection.read(self._stub.ListKpis, pb.ListKpisRequest(), pb.ListKpisResponse)).kpis


def _duration(length: timedelta | None) -> Duration | None:
    if length is None:
        return None
    made = Duration()
    made.FromTimedelta(length)
    return made
