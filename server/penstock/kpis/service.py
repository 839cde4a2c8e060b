"""KPI reads over gRPC."""

import contextlib
from collections.abc import AsyncIterator

from penstock.kpis import wire
from penstock.kpis.catalog import Catalog
from penstock.kpis.feed import KpiFeed
from penstock.kpis.reader import KpiReader
from penstock.kpis.v1.kpis_service_pb2 import (
    GetConversionTrendRequest,
    GetConversionTrendResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    GetRevenueTrendRequest,
    GetRevenueTrendResponse,
    ListKpisRequest,
    ListKpisResponse,
    WatchMetricsRequest,
    WatchMetricsResponse,
)
from penstock.rpc.call import Call


class KpiService:
    """Serves `penstock.kpis.v1.KpiService` from gold."""

    def __init__(self, catalog: Catalog, reader: KpiReader, feed: KpiFeed) -> None:
        self._catalog = wire.catalog(catalog)
        self._reader = reader
        self._feed = feed

    async def GetMetrics(self, request: GetMetricsRequest, call: Call) -> GetMetricsResponse:
        return wire.metrics(await self._reader.snapshot(wire.scope(call.tenant, request)))

    async def WatchMetrics(self, request: WatchMetricsRequest, call: Call) -> AsyncIterator[WatchMetricsResponse]:
        watch = self._feed.watch(wire.scope(call.tenant, request), wire.interval_s(request))
        async with contextlib.aclosing(watch) as frames:
            async for frame in frames:
                yield wire.watch_frame(frame)

    async def GetConversionTrend(self, request: GetConversionTrendRequest, call: Call) -> GetConversionTrendResponse:
        return wire.conversion(await self._reader.conversion(wire.scope(call.tenant, request), wire.limit(request)))

    async def GetRevenueTrend(self, request: GetRevenueTrendRequest, call: Call) -> GetRevenueTrendResponse:
        return wire.revenue(await self._reader.revenue(wire.scope(call.tenant, request), wire.limit(request)))

    async def ListKpis(self, request: ListKpisRequest, call: Call) -> ListKpisResponse:
        return self._catalog
