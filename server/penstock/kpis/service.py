"""KPI reads over gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from google.api.httpbody_pb2 import HttpBody

from penstock.kpis import wire, wire_catalog, wire_features, wire_outlooks, wire_quality, wire_query
from penstock.kpis.feature_export import FeatureExport
from penstock.kpis.features import FeatureReader
from penstock.kpis.feed import KpiFeed
from penstock.kpis.latency import LatencyReader
from penstock.kpis.moment import Moment, Moments
from penstock.kpis.outlooks import Outlooks
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.quality import QualityReader
from penstock.kpis.query import KpiQueries
from penstock.kpis.reader import KpiReader
from penstock.kpis.trends import TrendReader
from penstock.kpis.v1 import kpis_service_pb2 as pb
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
from penstock.kpis.windows import Scope
from penstock.rpc.at_once import InMemory
from penstock.rpc.call import Call
from penstock.storage.version import Version


class KpiService:
    """Serves `penstock.kpis.v1.KpiService` from gold."""

    def __init__(
        self,
        catalogs: Catalogs,
        reader: KpiReader,
        feed: KpiFeed,
        *,
        moments: Moments,
        trends: TrendReader,
        queries: KpiQueries,
        outlooks: Outlooks,
        features: FeatureReader,
        feature_export: FeatureExport,
        quality: QualityReader,
        latency: LatencyReader,
    ) -> None:
        self._catalogs = catalogs
        self._reader = reader
        self._metrics = wire.Messages(wire.metrics)
        self._conversion = wire.Messages(wire.conversion)
        self._revenue = wire.Messages(wire.revenue)
        self._trend = wire.Messages(wire.trend)
        self._feed = feed
        self._moments = moments
        self._trends = trends
        self._queries = queries
        self._outlooks = outlooks
        self._features = features
        self._feature_export = feature_export
        self._quality = quality
        self._latency = latency
        self.at_once = {"GetMetrics": InMemory(_asked, self._metrics_in_memory)}

    async def GetMetrics(self, request: GetMetricsRequest, call: Call) -> GetMetricsResponse:
        scope, at = wire.scope(call.tenant, request), await self._at(call, request)
        return self._metrics.of(await self._reader.snapshot(scope, at))

    def _metrics_in_memory(self, asked: "_Asked") -> bytes | None:
        moment = self._reader.moment()
        if asked.told_at == moment:  # nothing was committed since, and it is the same minute
            return asked.encoded
        newest = self._reader.newest(asked.scope)
        if newest is None:
            return None
        asked.told_at, asked.encoded = moment, self._metrics.of(newest).SerializeToString()
        return asked.encoded

    async def WatchMetrics(self, request: WatchMetricsRequest, call: Call) -> AsyncIterator[WatchMetricsResponse]:
        watch = self._feed.watch(wire.scope(call.tenant, request), wire.interval_s(request))
        async with contextlib.aclosing(watch) as frames:
            async for frame in frames:
                yield wire.watch_frame(frame)

    async def GetConversionTrend(self, request: GetConversionTrendRequest, call: Call) -> GetConversionTrendResponse:
        scope, at = wire.scope(call.tenant, request), await self._at(call, request)
        return self._conversion.of(await self._trends.conversion(scope, wire.limit(request), at))

    async def GetRevenueTrend(self, request: GetRevenueTrendRequest, call: Call) -> GetRevenueTrendResponse:
        scope, at = wire.scope(call.tenant, request), await self._at(call, request)
        return self._revenue.of(await self._trends.revenue(scope, wire.limit(request), at))

    async def GetTrend(self, request: pb.GetTrendRequest, call: Call) -> pb.GetTrendResponse:
        scope, at = wire.scope(call.tenant, request), await self._at(call, request)
        return self._trend.of(await self._trends.trend(scope, request.metric, wire.limit(request), at))

    async def QueryKpis(self, request: pb.QueryKpisRequest, call: Call) -> pb.QueryKpisResponse:
        page = wire_query.page(call.tenant, request)
        if page.first:
            at = await self._moments.of(call.tenant, page.version, None)
        else:
            at = await self._at(call, request)
            page = wire_query.first_page(page, at)
        asked = wire_query.query(call.tenant, request, page.now)
        answer = await self._queries.answer(asked, at.version)
        # A page of 10,000 rows takes 0.2 s to put into messages.
        return await asyncio.to_thread(wire_query.response, asked, answer, page, request.page_size)

    async def ListKpis(self, request: ListKpisRequest, call: Call) -> ListKpisResponse:
        return wire_catalog.catalog(await self._catalogs.of(call.tenant))

    async def GetKpi(self, request: pb.GetKpiRequest, call: Call) -> pb.GetKpiResponse:
        catalog = await self._catalogs.of(call.tenant)
        return pb.GetKpiResponse(kpi=wire_catalog.kpi(catalog, catalog.metric(request.name)))

    async def CreateKpi(self, request: pb.CreateKpiRequest, call: Call) -> pb.CreateKpiResponse:
        metric = await self._catalogs.create(call.tenant, wire_catalog.declaration(request.kpi))
        return pb.CreateKpiResponse(kpi=wire_catalog.kpi(await self._catalogs.of(call.tenant), metric))

    async def UpdateKpi(self, request: pb.UpdateKpiRequest, call: Call) -> pb.UpdateKpiResponse:
        change = partial(wire_catalog.changed, message=request.kpi, mask=request.update_mask)
        metric = await self._catalogs.update(call.tenant, request.kpi.name, change)
        return pb.UpdateKpiResponse(kpi=wire_catalog.kpi(await self._catalogs.of(call.tenant), metric))

    async def DeleteKpi(self, request: pb.DeleteKpiRequest, call: Call) -> pb.DeleteKpiResponse:
        await self._catalogs.delete(call.tenant, request.name)
        return pb.DeleteKpiResponse()

    async def _at(self, call: Call, request: wire_query.AsOf) -> Moment:
        """The moment that the request is about."""
        return await self._moments.of(call.tenant, request.as_of_version, wire_query.as_of(request))

    async def GetConversionAnomalies(
        self, request: pb.GetConversionAnomaliesRequest, call: Call
    ) -> pb.DetectAnomaliesResponse:
        return await self._judged(request, call)

    async def DetectAnomalies(self, request: pb.DetectAnomaliesRequest, call: Call) -> pb.DetectAnomaliesResponse:
        return await self._judged(request, call)

    async def _judged(self, request: wire_outlooks.AnomalyRequest, call: Call) -> pb.DetectAnomaliesResponse:
        at = await self._at(call, request)
        judged = await self._outlooks.anomalies(
            wire_outlooks.anomaly_target(call.tenant, request, at),
            method=wire_outlooks.method(request),
            sensitivity=wire_outlooks.sensitivity(request),
            threshold=wire_outlooks.threshold(request),
            limit=wire_outlooks.windows(request),
        )
        return await asyncio.to_thread(wire_outlooks.anomalies, judged)

    async def GetConversionForecast(
        self, request: pb.GetConversionForecastRequest, call: Call
    ) -> pb.GetConversionForecastResponse:
        target = wire_outlooks.forecast_target(call.tenant, request, await self._at(call, request))
        return wire_outlooks.conversion_forecast(await self._outlooks.forecast(target, wire_outlooks.HORIZON_DEFAULT))

    async def ForecastKpi(self, request: pb.ForecastKpiRequest, call: Call) -> pb.ForecastKpiResponse:
        target = wire_outlooks.forecast_target(call.tenant, request, await self._at(call, request))
        return wire_outlooks.forecast(await self._outlooks.forecast(target, wire_outlooks.horizon(request)))

    async def GetFeatures(self, request: pb.GetFeaturesRequest, call: Call) -> pb.GetFeaturesResponse:
        version = (await self._at(call, request)).version
        if request.user_id:
            return wire_features.features(await self._features.user(call.tenant, request.user_id, version))
        return wire_features.features(await self._features.aggregate(call.tenant, version))

    async def ExportFeatures(self, request: pb.ExportFeaturesRequest, call: Call) -> AsyncIterator[HttpBody]:
        since = wire_features.active_since(request)
        version = (await self._at(call, request)).version
        async with contextlib.aclosing(self._feature_export.pieces(call.tenant, version, since)) as pieces:
            async for piece in pieces:
                yield wire_features.piece(piece)

    async def GetDataQuality(self, request: pb.GetDataQualityRequest, call: Call) -> pb.GetDataQualityResponse:
        window = wire_quality.window(request)
        return wire_quality.quality(await self._quality.quality(call.tenant, request.site_id, window))

    async def GetLatency(self, request: pb.GetLatencyRequest, call: Call) -> pb.GetLatencyResponse:
        minutes = wire_quality.minutes(request)
        return wire_quality.latency(await self._latency.latency(call.tenant, request.site_id, minutes))


@dataclass(slots=True)
class _Asked:
    """What GetMetrics is asked for again and again, and what was told last."""

    scope: Scope
    told_at: tuple[Version, int] | None = None
    encoded: bytes = b""


def _asked(tenant: str, request: GetMetricsRequest) -> _Asked | None:
    past = request.as_of_version or request.HasField("as_of_time")
    return None if past else _Asked(wire.scope(tenant, request))
