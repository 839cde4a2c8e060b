"""The service over real gRPC, on gold of a real engine."""

from collections.abc import AsyncIterator
from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.kpis.feature_export import FeatureExport
from penstock.kpis.features import FeatureReader
from penstock.kpis.feed import KpiFeed
from penstock.kpis.latency import LatencyReader
from penstock.kpis.moment import Moments
from penstock.kpis.outlooks import Outlooks
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.quality import QualityReader
from penstock.kpis.query import KpiQueries
from penstock.kpis.reader import KpiReader
from penstock.kpis.series import SeriesReader
from penstock.kpis.service import KpiService
from penstock.kpis.trends import TrendReader
from penstock.kpis.v1 import kpis_pb2, kpis_service_pb2
from penstock.kpis.v1.kpis_service_pb2 import (
    GetConversionTrendRequest,
    GetMetricsRequest,
    GetRevenueTrendRequest,
    ListKpisRequest,
    WatchMetricsRequest,
)
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub
from penstock.rpc.bind import Edge
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from penstock.workers import Workers
from tests.kpis.gold import NOON, Event, Gold
from tests.rpc.policies import open_policy

MINUTE = 60


@pytest.fixture
async def feed(reader: KpiReader, commit_log: CommitLog) -> KpiFeed:
    return KpiFeed(reader, commit_log)


@pytest.fixture
async def kpis(
    reader: KpiReader,
    feed: KpiFeed,
    catalogs: Catalogs,
    moments: Moments,
    trends: TrendReader,
    queries: KpiQueries,
    series: SeriesReader,
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    settings: Settings,
) -> AsyncIterator[KpiServiceStub]:
    server = grpc.aio.server()
    service = kpis_service_pb2.DESCRIPTOR.services_by_name["KpiService"]
    edge = Edge(trusted_proxies=[], policy=open_policy())
    features = FeatureReader(engine, settings)
    workers = Workers()
    implementation = KpiService(
        catalogs,
        reader,
        feed,
        moments=moments,
        trends=trends,
        queries=queries,
        outlooks=Outlooks(series, catalogs, workers),
        features=features,
        feature_export=FeatureExport(engine, features),
        quality=QualityReader(engine, commit_log, settings, reader.freshness),
        latency=LatencyReader(engine, commit_log),
    )
    server.add_generic_rpc_handlers([edge.handlers(service, implementation)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield KpiServiceStub(channel)
    await feed.close()
    await server.stop(1)
    await workers.close()


def bought(minute: int, visitor: str, amount: str) -> list[Event]:
    time = NOON + minute * MINUTE
    return [
        Event(time, "page_view", visitor),
        Event(time, "page_view", f"{visitor} only looks"),
        Event(time, "purchase", visitor, order_id=f"order {visitor}", amount=Decimal(amount)),
    ]


async def test_metrics(kpis: KpiServiceStub, gold: Gold) -> None:
    await gold.run(
        [*bought(0, "a", "19.99"), *bought(1, "b", "5.01"), Event(NOON + 60, "refund", "b", amount=Decimal(-2))]
    )
    minute = await kpis.GetMetrics(GetMetricsRequest())
    window = minute.latest_kpis
    assert (window.window_start.seconds, window.window_end.seconds) == (NOON + MINUTE, NOON + 2 * MINUTE)
    assert (window.orders, window.purchase_users, window.view_users, window.active_users) == (1, 1, 2, 2)
    assert (window.gmv, window.refunds, window.revenue_net, window.currency) == (5.01, -2, 3.01, "USD")
    assert (window.conversion_rate, window.average_order_value, window.page_views) == (0.5, 5.01, 2)
    assert minute.recent_events == {"page_view": 4, "purchase": 2, "refund": 1}
    assert minute.freshness.last_update.seconds > 0
    assert (minute.freshness.lag_seconds, minute.freshness.commit, minute.reason) == (0, 1, "")

    hour = await kpis.GetMetrics(GetMetricsRequest(window=Duration(seconds=3600)))
    assert (hour.latest_kpis.orders, hour.latest_kpis.gmv) == (2, 25)
    elsewhere = await kpis.GetMetrics(GetMetricsRequest(site_id="elsewhere"))
    assert not elsewhere.HasField("latest_kpis")
    assert elsewhere.reason == "no events of this site yet"


async def test_rates_without_a_denominator_are_absent(kpis: KpiServiceStub, gold: Gold) -> None:
    await gold.run([Event(NOON, "search", "a")])
    window = (await kpis.GetMetrics(GetMetricsRequest())).latest_kpis
    assert not window.HasField("conversion_rate")
    assert not window.HasField("average_order_value")
    trend = await kpis.GetConversionTrend(GetConversionTrendRequest())
    assert not trend.data[0].HasField("conversion_rate")
    assert not trend.summary.HasField("avg_conversion")


async def test_trends(kpis: KpiServiceStub, gold: Gold) -> None:
    await gold.run([event for minute in range(8) for event in bought(minute, f"{minute}", f"{minute + 1}")])
    revenue = await kpis.GetRevenueTrend(GetRevenueTrendRequest(limit=5))
    assert [point.gmv for point in revenue.data] == [4, 5, 6, 7, 8]
    assert (revenue.summary.total_gmv, revenue.summary.avg_gmv, revenue.summary.data_points) == (30, 6, 5)
    assert (revenue.summary.trend, revenue.summary.currency) == ("increasing", "USD")
    assert revenue.summary.p_value == pytest.approx(2 / 120)  # one order of five in 120, and its reverse

    conversion = await kpis.GetConversionTrend(GetConversionTrendRequest())
    assert [point.conversion_rate for point in conversion.data] == [0.5] * 8
    assert (conversion.summary.avg_conversion, conversion.summary.data_points) == (0.5, 8)
    assert (conversion.summary.trend, conversion.summary.p_value) == ("stable", 1)


async def test_no_data_is_an_answer(kpis: KpiServiceStub, gold: Gold) -> None:
    metrics = await kpis.GetMetrics(GetMetricsRequest())
    assert (metrics.reason, metrics.freshness.HasField("last_update")) == ("no events yet", False)
    revenue = await kpis.GetRevenueTrend(GetRevenueTrendRequest())
    assert (list(revenue.data), revenue.reason, revenue.summary.trend) == ([], "no events yet", "stable")
    assert not revenue.summary.HasField("avg_gmv")
    conversion = await kpis.GetConversionTrend(GetConversionTrendRequest())
    assert (list(conversion.data), conversion.reason) == ([], "no events yet")
    assert not conversion.summary.HasField("p_value")


@pytest.mark.parametrize("window", [Duration(seconds=90), Duration(seconds=60, nanos=1), Duration(seconds=59)])
async def test_a_window_that_is_not_of_whole_minutes_is_refused(kpis: KpiServiceStub, window: Duration) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await kpis.GetMetrics(GetMetricsRequest(window=window))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = rpc_status.from_call(raised.value).details
    found = error_details_pb2.BadRequest()
    assert any(detail.Unpack(found) for detail in details)
    assert [violation.field for violation in found.field_violations] == ["window"]


async def test_a_watch_from_its_first_frame_to_its_last(kpis: KpiServiceStub, feed: KpiFeed, gold: Gold) -> None:
    watch = kpis.WatchMetrics(WatchMetricsRequest(interval=Duration(nanos=100_000_000)))
    frames = aiter(watch)
    assert (await anext(frames)).metrics.reason == "no events yet"
    await gold.run(bought(0, "a", "1"))
    while (frame := await anext(frames)).HasField("heartbeat"):
        pass
    assert frame.metrics.latest_kpis.orders == 1
    assert (await anext(frames)).heartbeat.freshness.commit == 1
    await feed.close()
    *beats, last = [frame.WhichOneof("frame") async for frame in frames]
    assert (set(beats) <= {"heartbeat"}, last) == (True, "end")
    assert await watch.code() is grpc.StatusCode.OK


async def test_the_catalogue(kpis: KpiServiceStub) -> None:
    listed = {kpi.name: kpi for kpi in (await kpis.ListKpis(ListKpisRequest())).kpis}
    assert listed["gmv"].type == kpis_pb2.Kpi.TYPE_SUM
    assert listed["gmv"].unit == "currency"
    assert listed["conversion_rate"].expression == "purchase_users / view_users"
    assert listed["conversion_rate"].good_direction == kpis_pb2.Kpi.DIRECTION_UP
    assert all(kpi.label and kpi.description and kpi.type for kpi in listed.values())
