"""Anomalies and forecasts between the contract's messages and the area's own data."""

from datetime import datetime, timedelta
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.errors import invalid_field
from penstock.kpis.anomalies import SENSITIVITY_DEFAULT, JudgedWindow, Method
from penstock.kpis.forecasts import Backtest, outlook
from penstock.kpis.forecasts import Point as Ahead
from penstock.kpis.moment import Moment
from penstock.kpis.outlooks import ForecastSeries, JudgedSeries, Target
from penstock.kpis.v1 import kpis_service_pb2 as pb

CONVERSION = "conversion_rate"
HOUR = timedelta(hours=1)
MINUTE_S = 60
WINDOWS_DEFAULT = 60
HORIZON_DEFAULT = 24

AnomalyRequest: TypeAlias = pb.GetConversionAnomaliesRequest | pb.DetectAnomaliesRequest
Asked: TypeAlias = AnomalyRequest | pb.GetConversionForecastRequest | pb.ForecastKpiRequest


def anomaly_target(tenant: str, request: AnomalyRequest, at: Moment) -> Target:
    """Which series to judge. Raises InvalidInput for a window that is not of whole minutes."""
    metric = request.metric if isinstance(request, pb.DetectAnomaliesRequest) else CONVERSION
    length = _length(request.window) if request.HasField("window") else timedelta(minutes=1)
    return Target(tenant, metric, request.site_id, length, at)


def method(request: AnomalyRequest) -> Method:
    """How windows are judged."""
    return Method(request.method or Method.AUTO)


def sensitivity(request: AnomalyRequest) -> float:
    """From 0 to 1."""
    return request.sensitivity if request.HasField("sensitivity") else SENSITIVITY_DEFAULT


def threshold(request: AnomalyRequest) -> float | None:
    """The level beyond which a value is an anomaly by itself; None for the metric's own."""
    return request.threshold if request.HasField("threshold") else None


def windows(request: AnomalyRequest) -> int:
    """How many windows."""
    return request.limit or WINDOWS_DEFAULT


def anomalies(found: JudgedSeries) -> pb.DetectAnomaliesResponse:
    """The windows, judged."""
    return pb.DetectAnomaliesResponse(
        data=[_judged(start, each) for start, each in zip(found.starts, found.anomalies.windows, strict=True)],
        metric=found.metric.name,
        method=found.anomalies.method,
        method_reason=found.anomalies.method_reason,
        anomalies=found.anomalies.anomalies,
        reason=found.reason,
    )


def forecast_target(
    tenant: str, request: pb.GetConversionForecastRequest | pb.ForecastKpiRequest, at: Moment
) -> Target:
    """Which series to forecast. Raises InvalidInput for a window that is not of whole minutes."""
    if isinstance(request, pb.GetConversionForecastRequest):
        return Target(tenant, CONVERSION, request.site_id, HOUR, at)
    length = _length(request.window) if request.HasField("window") else HOUR
    return Target(tenant, request.metric, request.site_id, length, at)


def horizon(request: pb.ForecastKpiRequest) -> int:
    """How many windows ahead."""
    return request.horizon or HORIZON_DEFAULT


def forecast(ahead: ForecastSeries) -> pb.ForecastKpiResponse:
    """The windows ahead."""
    said = ahead.forecast
    return pb.ForecastKpiResponse(
        data=[_ahead(start, point) for start, point in zip(ahead.starts, said.points, strict=True)],
        metric=ahead.metric.name,
        method=said.method,
        backtest=_backtest(said.backtest) if said.backtest is not None else None,
        data_points=said.data_points,
        reason=ahead.reason,
    )


def conversion_forecast(ahead: ForecastSeries) -> pb.GetConversionForecastResponse:
    """The next hour, and where conversion goes."""
    said = outlook(ahead.forecast)
    return pb.GetConversionForecastResponse(
        forecasted_next_hour=said.next_value if said else None,
        hourly_trend=said.change_a_window if said else None,
        trend_direction=said.direction if said else "stable",
        lower=said.lower if said else None,
        upper=said.upper if said else None,
        method=ahead.forecast.method,
        data_points=ahead.forecast.data_points,
        reason=ahead.reason,
    )


def _judged(start: datetime, window: JudgedWindow) -> pb.DetectAnomaliesResponse.Point:
    return pb.DetectAnomaliesResponse.Point(
        window_start=_timestamp(start),
        value=window.value,
        expected=window.expected,
        lower=window.lower,
        upper=window.upper,
        score=window.score if window.value is not None and window.expected is not None else None,
        status=window.status,
        why=window.why,
    )


def _ahead(start: datetime, point: Ahead) -> pb.ForecastKpiResponse.Point:
    return pb.ForecastKpiResponse.Point(
        window_start=_timestamp(start),
        value=point.value,
        lower_80=point.lower_80,
        upper_80=point.upper_80,
        lower_95=point.lower_95,
        upper_95=point.upper_95,
    )


def _backtest(past: Backtest) -> pb.ForecastKpiResponse.Backtest:
    return pb.ForecastKpiResponse.Backtest(
        mase=past.mase,
        naive_mase=past.naive_mase,
        smape=past.smape,
        coverage_80=past.coverage_80,
        coverage_95=past.coverage_95,
        windows=past.windows,
        season_length=past.season_length,
    )


def _length(window: Duration) -> timedelta:
    if window.seconds % MINUTE_S or window.nanos:
        raise invalid_field("window", "must be whole minutes")
    return timedelta(seconds=window.seconds)


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp(seconds=int(moment.timestamp()))
