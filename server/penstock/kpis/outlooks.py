"""Anomalies and forecasts of any metric: its series is read here and judged in the worker.

The window that is under way is left out, because half a window looks like a drop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from penstock import limits
from penstock.kpis import forecasts
from penstock.kpis.anomalies import Alert, Anomalies, Method, detect
from penstock.kpis.answers import Answers
from penstock.kpis.catalog import Direction, Metric, Unit
from penstock.kpis.expression import MetricType
from penstock.kpis.forecasts import Forecast, forecast
from penstock.kpis.moment import Moment
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.regular_series import FloatArray, Kind
from penstock.kpis.regular_series import Series as RegularSeries
from penstock.kpis.series import Point, Series, SeriesReader
from penstock.workers import Workers

PAST_WINDOWS = 2_000  # before the first window that is judged: what the methods learn from
_COUNTED = frozenset({MetricType.COUNT, MetricType.UNIQUE})


@dataclass(frozen=True, slots=True)
class Target:
    """Which series, and as of when."""

    tenant: str
    metric: str
    site: str  # empty: all
    length: timedelta
    at: Moment

    @property
    def until(self) -> datetime:
        """The last minute of the last window that is over."""
        seconds = int(self.length.total_seconds())
        return datetime.fromtimestamp(int(self.at.now) // seconds * seconds, UTC) - timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class JudgedSeries:
    """The windows of a metric, judged: `starts` are those of `anomalies.windows`."""

    metric: Metric
    starts: Sequence[datetime]
    anomalies: Anomalies
    reason: str  # why there are none, or none could be judged; empty otherwise


@dataclass(frozen=True, slots=True)
class ForecastSeries:
    """The windows ahead of a metric: `starts` are those of `forecast.points`."""

    metric: Metric
    starts: Sequence[datetime]
    forecast: Forecast
    reason: str  # why there are none, or only a simple forecast; empty otherwise


class Outlooks:
    """Judges and forecasts series. Raises NotFound (KPI_NOT_FOUND), Unavailable, TimedOut or Overloaded."""

    def __init__(self, reader: SeriesReader, catalogs: Catalogs, workers: Workers) -> None:
        self._reader = reader
        self._catalogs = catalogs
        self._workers = workers
        self._judged: Answers[JudgedSeries] = Answers(limits.KPI_TREND_ANSWERS_MAX)
        self._forecasts: Answers[ForecastSeries] = Answers(limits.KPI_TREND_ANSWERS_MAX)

    async def anomalies(
        self, target: Target, *, method: Method, sensitivity: float, threshold: float | None, limit: int
    ) -> JudgedSeries:
        """The newest `limit` whole windows, judged by what came before them.

        A value beyond `threshold` on the metric's bad side is an anomaly by itself; None: beyond the metric's own.
        """
        metric = await self._metric(target)
        alert = _alert(metric, threshold)

        async def judge() -> JudgedSeries:
            series = await self._series(target, limit + PAST_WINDOWS)
            judging = partial(detect, _regular(series), method, sensitivity, alert=alert, limit=limit)
            found = await self._workers.run(judging, timeout_s=limits.UNARY_DEADLINE_S, tenant=target.tenant)
            starts = [point.start for point in series.points][-limit:]
            return JudgedSeries(metric, starts, found, series.reason or found.reason)

        key = (*_question(target, metric), method, sensitivity, alert, limit)
        return await self._judged.get(target.at.seen, key, judge)

    async def forecast(self, target: Target, horizon: int) -> ForecastSeries:
        """The next `horizon` windows behind the newest whole one."""
        metric = await self._metric(target)

        async def look_ahead() -> ForecastSeries:
            series = await self._series(target, forecasts.PAST_MAX)
            ahead = await self._workers.run(
                forecast, _regular(series), horizon, timeout_s=limits.HEAVY_DEADLINE_S, tenant=target.tenant
            )
            last = series.points[-1].start if series.points else target.until
            starts = [last + step * target.length for step in range(1, len(ahead.points) + 1)]
            return ForecastSeries(metric, starts, ahead, series.reason or ahead.reason)

        return await self._forecasts.get(target.at.seen, (*_question(target, metric), horizon), look_ahead)

    async def _metric(self, target: Target) -> Metric:
        return (await self._catalogs.of(target.tenant)).metric(target.metric)

    async def _series(self, target: Target, limit: int) -> Series:
        return await self._reader.series(
            target.tenant, target.metric, target.length, limit, target.site, target.at.version, until=target.until
        )


def _question(target: Target, metric: Metric) -> tuple[object, ...]:
    """What an answer depends on besides the version: the metric as it is declared now, and which windows are over."""
    return target.tenant, target.site, target.length, target.until, metric


def _regular(series: Series) -> RegularSeries:
    values = _numbers([point.value for point in series.points])
    step_s = series.length.total_seconds()
    denominators = _numbers([point.denominator for point in series.points])
    rests = np.nan_to_num(denominators) if np.isfinite(denominators).any() else None
    return RegularSeries(values, step_s, _kind(series), rests)


def _kind(series: Series) -> Kind:
    metric = series.metric
    if metric.unit is Unit.RATIO and _is_share(series.points):
        return Kind.RATE
    if metric.type in _COUNTED:
        return Kind.COUNT
    # A metric that was never below 0 is taken to be one that cannot be.
    return Kind.AMOUNT if all(point.value is None or point.value >= 0 for point in series.points) else Kind.VALUE


def _is_share(points: Sequence[Point]) -> bool:
    """Whether numerators are of their denominators. Buyers by viewers need not be: one may buy without a page view."""
    sides = [(point.numerator, point.denominator) for point in points if point.value is not None]
    return bool(sides) and all(part is not None and whole is not None and 0 <= part <= whole for part, whole in sides)


def _alert(metric: Metric, threshold: float | None) -> Alert | None:
    level = metric.thresholds.warning if threshold is None else threshold
    return None if level is None else Alert(level, below=metric.good_direction is not Direction.DOWN)


def _numbers(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
