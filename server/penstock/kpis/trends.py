"""Trends: any metric by window, and where it goes. Those of conversion and revenue show more of each window."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import fmean

from penstock import limits
from penstock.kpis.answers import Answers
from penstock.kpis.catalog import Catalog, Metric, Unit
from penstock.kpis.formula import Formula
from penstock.kpis.moment import Moment
from penstock.kpis.newest import MINUTE
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.series import Sample, SeriesReader, Span
from penstock.kpis.trend import Trend, mann_kendall
from penstock.kpis.windows import (
    ConversionPoint,
    ConversionTrend,
    RevenuePoint,
    RevenueTrend,
    Scope,
)

CONVERSION_METRICS = ("purchase_users", "view_users", "conversion_rate")
REVENUE_METRICS = ("gmv", "orders")


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """A metric in one window."""

    start: datetime
    value: float | None


@dataclass(frozen=True, slots=True)
class MetricTrend:
    """Windows that have events, oldest first."""

    metric: Metric
    points: Sequence[MetricPoint]
    average: float | None  # mean of the windows' values
    valued: int  # windows with a value
    trend: Trend
    currency: str  # of amounts; empty for other units
    reason: str  # why there are no points; empty when there are


class TrendReader:
    """Reads trends; everything may raise Unavailable, TimedOut or Overloaded.

    Windows are the newest `limit` that have events, aligned to the epoch by their length.
    """

    def __init__(self, series: SeriesReader, catalogs: Catalogs, currency: str) -> None:
        self._series = series
        self._catalogs = catalogs
        self._currency = currency
        self._answers: Answers[MetricTrend] = Answers(limits.KPI_TREND_ANSWERS_MAX)
        self._conversion: Answers[ConversionTrend] = Answers(limits.KPI_TREND_ANSWERS_MAX)
        self._revenue: Answers[RevenueTrend] = Answers(limits.KPI_TREND_ANSWERS_MAX)

    async def trend(self, scope: Scope, metric: str, limit: int, at: Moment) -> MetricTrend:
        """Any metric. Raises NotFound (KPI_NOT_FOUND)."""
        catalog = await self._catalogs.of(scope.tenant)
        declared = catalog.metric(metric)
        # What the metric is made of is part of the question: a tenant's own may change under the same name.
        made_of: tuple[Formula, ...] = tuple(catalog.metrics[name].formula for name in catalog.made_of([metric]))

        async def read() -> MetricTrend:
            samples = await self._samples(catalog, [metric], scope, limit, at)
            points = [MetricPoint(sample.start, _float(sample.values[metric])) for sample in samples]
            values = [point.value for point in points if point.value is not None]
            return MetricTrend(
                declared,
                points,
                fmean(values) if values else None,
                len(values),
                await _course(values),
                self._currency if declared.unit is Unit.CURRENCY else "",
                "" if points else await self._series.reason(scope.tenant, scope.site_id, at.version),
            )

        return await self._answers.get(_version(at), (scope, limit, declared, made_of), read)

    async def conversion(self, scope: Scope, limit: int, at: Moment) -> ConversionTrend:
        """Conversion, with the numbers of users behind it."""

        async def read() -> ConversionTrend:
            catalog = await self._catalogs.of(scope.tenant)
            samples = await self._samples(catalog, CONVERSION_METRICS, scope, limit, at)
            points = [ConversionPoint(sample.start, **sample.values) for sample in samples]  # type: ignore[arg-type]
            rates = [point.conversion_rate for point in points if point.conversion_rate is not None]
            return ConversionTrend(
                points,
                fmean(rates) if rates else None,
                len(rates),
                await _course(rates),
                "" if points else await self._series.reason(scope.tenant, scope.site_id, at.version),
            )

        return await self._conversion.get(_version(at), (scope, limit), read)

    async def revenue(self, scope: Scope, limit: int, at: Moment) -> RevenueTrend:
        """GMV, with the orders behind it."""

        async def read() -> RevenueTrend:
            catalog = await self._catalogs.of(scope.tenant)
            samples = await self._samples(catalog, REVENUE_METRICS, scope, limit, at)
            points = [RevenuePoint(sample.start, **sample.values) for sample in samples]  # type: ignore[arg-type]
            total = sum((point.gmv for point in points), Decimal(0))
            return RevenueTrend(
                points,
                total,
                total / len(points) if points else None,
                await _course([float(point.gmv) for point in points]),
                self._currency,
                "" if points else await self._series.reason(scope.tenant, scope.site_id, at.version),
            )

        return await self._revenue.get(_version(at), (scope, limit), read)

    async def _samples(
        self, catalog: Catalog, metrics: Sequence[str], scope: Scope, limit: int, at: Moment
    ) -> list[Sample]:
        span = Span(scope.tenant, scope.site_id, timedelta(minutes=scope.minutes), limit, at.time)
        return await self._series.samples(catalog, metrics, span, at.version)


def _version(at: Moment) -> tuple[object, int]:
    """What an answer depends on besides its question: the minute bounds which window is the latest."""
    return at.seen, int(at.now) // MINUTE


def _float(value: float | Decimal | None) -> float | None:
    return None if value is None else float(value)


async def _course(values: Sequence[float]) -> Trend:
    # Short ones too, of which one takes 0.3 ms: the first of all imports SciPy.
    return await asyncio.to_thread(mann_kendall, values)
