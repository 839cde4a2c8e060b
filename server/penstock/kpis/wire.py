"""Between the contract's messages and the area's own data.

Counts are int32 in the contract, so that JSON shows numbers: 2,147,483,647 of a thing in one window, more than a month
at 800 a second. A window beyond that is refused by protobuf, never shown clamped.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import invalid_field
from penstock.kpis.feed import Ended, Failed, Frame, Heartbeat
from penstock.kpis.newest import MINUTE
from penstock.kpis.trends import MetricTrend
from penstock.kpis.v1 import kpis_pb2, kpis_service_pb2
from penstock.kpis.windows import ConversionTrend, Freshness, RevenueTrend, Scope, Snapshot, Window
from penstock.rpc.status import status_of

A = TypeVar("A")
M = TypeVar("M")

TREND_WINDOWS_DEFAULT = 60
WATCH_INTERVAL_S_DEFAULT = 5.0

Scoped: TypeAlias = (
    kpis_service_pb2.GetMetricsRequest
    | kpis_service_pb2.WatchMetricsRequest
    | kpis_service_pb2.GetConversionTrendRequest
    | kpis_service_pb2.GetRevenueTrendRequest
    | kpis_service_pb2.GetTrendRequest
)


def scope(tenant: str, request: Scoped) -> Scope:
    """What the request is about. Raises InvalidInput for a window that is not of whole minutes."""
    minutes = _minutes(request.window) if request.HasField("window") else 1
    return Scope(tenant, request.site_id, minutes)


def limit(
    request: (
        kpis_service_pb2.GetConversionTrendRequest
        | kpis_service_pb2.GetRevenueTrendRequest
        | kpis_service_pb2.GetTrendRequest
    ),
) -> int:
    """How many windows."""
    return request.limit or TREND_WINDOWS_DEFAULT


def interval_s(request: kpis_service_pb2.WatchMetricsRequest) -> float:
    """Least seconds between two frames."""
    if not request.HasField("interval"):
        return WATCH_INTERVAL_S_DEFAULT
    return request.interval.seconds + request.interval.nanos / 1e9


def metrics(snapshot: Snapshot) -> kpis_service_pb2.GetMetricsResponse:
    """The latest window and its freshness."""
    latest = snapshot.latest
    return kpis_service_pb2.GetMetricsResponse(
        latest_kpis=_window(latest.window) if latest.window else None,
        recent_events=latest.recent_events,
        freshness=_freshness(snapshot.freshness),
        reason=latest.reason,
    )


class Messages(Generic[A, M]):
    """The messages of the newest answers, each made once: making one costs more than looking its answer up.

    Whoever gets one does not change it.
    """

    def __init__(self, make: Callable[[A], M]) -> None:
        self._make = make
        self._known: OrderedDict[int, tuple[A, M]] = OrderedDict()

    def of(self, answer: A) -> M:
        """The message of an answer, which is known by being the same object."""
        known = self._known.get(id(answer))
        if known is None:  # while it is known it is held, so that nothing else can have its id
            known = self._known[id(answer)] = answer, self._make(answer)
            if len(self._known) > limits.KPI_ANSWERS_MAX:
                self._known.popitem(last=False)
        return known[1]


def watch_frame(frame: Frame) -> kpis_service_pb2.WatchMetricsResponse:
    """One frame of a watch."""
    match frame:
        case Snapshot():
            return kpis_service_pb2.WatchMetricsResponse(metrics=metrics(frame))
        case Heartbeat(freshness):
            beat = kpis_service_pb2.WatchHeartbeat(freshness=_freshness(freshness))
            return kpis_service_pb2.WatchMetricsResponse(heartbeat=beat)
        case Failed(error):
            return kpis_service_pb2.WatchMetricsResponse(error=status_of(error))
        case Ended():
            return kpis_service_pb2.WatchMetricsResponse(end=kpis_service_pb2.WatchEnd())


def conversion(series: ConversionTrend) -> kpis_service_pb2.GetConversionTrendResponse:
    """Conversion by window."""
    response = kpis_service_pb2.GetConversionTrendResponse
    return response(
        data=[
            response.Point(
                window_start=_timestamp(point.start),
                conversion_rate=point.conversion_rate,
                purchase_users=point.purchase_users,
                view_users=point.view_users,
            )
            for point in series.points
        ],
        summary=response.Summary(
            avg_conversion=series.average,
            trend=series.trend.course,
            data_points=series.rated,
            p_value=series.trend.p_value,
        ),
        reason=series.reason,
    )


def revenue(series: RevenueTrend) -> kpis_service_pb2.GetRevenueTrendResponse:
    """Revenue by window."""
    response = kpis_service_pb2.GetRevenueTrendResponse
    return response(
        data=[
            response.Point(window_start=_timestamp(point.start), gmv=float(point.gmv), orders=point.orders)
            for point in series.points
        ],
        summary=response.Summary(
            total_gmv=float(series.total),
            avg_gmv=None if series.average is None else float(series.average),
            trend=series.trend.course,
            data_points=len(series.points),
            p_value=series.trend.p_value,
            currency=series.currency,
        ),
        reason=series.reason,
    )


def trend(found: MetricTrend) -> kpis_service_pb2.GetTrendResponse:
    """A metric by window."""
    response = kpis_service_pb2.GetTrendResponse
    return response(
        data=[response.Point(window_start=_timestamp(point.start), value=point.value) for point in found.points],
        summary=response.Summary(
            average=found.average,
            trend=found.trend.course,
            data_points=found.valued,
            p_value=found.trend.p_value,
            unit=found.metric.unit,
            currency=found.currency,
        ),
        reason=found.reason,
    )


def _window(window: Window) -> kpis_pb2.KpiWindow:
    return kpis_pb2.KpiWindow(
        window_start=_timestamp(window.start),
        window_end=_timestamp(window.end),
        currency=window.currency,
        orders=window.orders,
        gmv=float(window.gmv),
        refunds=float(window.refunds),
        revenue_net=float(window.revenue_net),
        average_order_value=window.average_order_value,
        purchase_users=window.purchase_users,
        view_users=window.view_users,
        active_users=window.active_users,
        conversion_rate=window.conversion_rate,
        page_views=window.page_views,
        add_to_carts=window.add_to_carts,
    )


def _freshness(freshness: Freshness) -> kpis_pb2.Freshness:
    return kpis_pb2.Freshness(
        last_update=_timestamp(freshness.last_update) if freshness.last_update else None,
        lag_seconds=freshness.lag_seconds,
        commit=freshness.commit,
    )


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)


def _minutes(window: Duration) -> int:
    if window.seconds % MINUTE or window.nanos:
        raise invalid_field("window", "must be whole minutes")
    return window.seconds // MINUTE
