"""Metrics as series of windows of one length, which is what trends, anomalies and forecasts look at.

Windows are aligned to the epoch by their length, and a series ends with the newest window that has events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock.kpis import rows
from penstock.kpis.catalog import Catalog, Metric, Need
from penstock.kpis.fields import Source
from penstock.kpis.formula import Aggregate, Comparison, Function, Value
from penstock.kpis.grain import MICROS, Even
from penstock.kpis.newest import MINUTE, NewestMinutes
from penstock.kpis.nothing import why_nothing
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.sources import Filter, Selection
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Version

# Counted in every series, because it tells which windows have events.
_EVENTS = Aggregate(Function.COUNT, Source.EVENTS)

# Minutes are looked up in gold_events, which has the minutes of gold_kpis and no states: 5 ms where gold_kpis takes 11.
# Windows are numbered by their length since the epoch.
_OLDEST = """
SELECT min(number) AS first, count() AS windows
FROM
(
    SELECT DISTINCT intDiv(toUnixTimestamp(minute), {{length:UInt32}}) AS number
    FROM gold_events
    WHERE tenant = {{tenant:String}} AND {visible} AND ({{site:String}} = '' OR site_id = {{site:String}})
        AND minute >= toDateTime({{since:UInt32}}, 'UTC') AND minute <= toDateTime({{until:UInt32}}, 'UTC')
    ORDER BY number DESC
    LIMIT {{limit:UInt32}}
)
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Which windows: the newest `limit` of `length`, of one site or with "" of all."""

    tenant: str
    site: str
    length: timedelta  # whole minutes
    limit: int
    until: datetime  # events in later minutes count only when there are no others: one skewed client must not hide now
    gaps: bool = False  # whether windows without events are among them, so that they follow each other


@dataclass(frozen=True, slots=True)
class Sample:
    """One window of some metrics."""

    start: datetime
    values: Mapping[str, Value]
    aggregates: Mapping[Aggregate, Value]
    running: Mapping[Aggregate, Value]
    empty: bool  # whether there were no events


@dataclass(frozen=True, slots=True)
class Point:
    """One window of a series."""

    start: datetime
    value: float | None  # None where the metric has none, such as a ratio without denominator
    numerator: float | None  # the two sides of a ratio; None of other metrics
    denominator: float | None
    empty: bool  # whether there were no events; counts and sums are 0 then


@dataclass(frozen=True, slots=True)
class Series:
    """One metric, windows oldest first."""

    metric: Metric
    length: timedelta
    points: Sequence[Point]
    reason: str  # why there are no points; empty when there are


class SeriesReader:
    """Reads series; everything may raise Unavailable, TimedOut or Overloaded."""

    def __init__(self, engine: Engine, catalogs: Catalogs, newest: NewestMinutes, currency: str) -> None:
        self._engine = engine
        self._catalogs = catalogs
        self._currency = currency
        self._newest = newest

    async def series(
        self,
        tenant: str,
        metric: str,
        length: timedelta,
        limit: int,
        site: str,
        version: Version,
        *,
        until: datetime,
        gaps: bool = True,
    ) -> Series:
        """The newest `limit` windows of a metric as of `version`; the rest as in `Span`.

        Raises NotFound (KPI_NOT_FOUND).
        """
        catalog = await self._catalogs.of(tenant)
        declared = catalog.metric(metric)
        samples = await self.samples(catalog, [metric], Span(tenant, site, length, limit, until, gaps), version)
        points = [_point(catalog, metric, sample) for sample in samples]
        return Series(declared, length, points, "" if points else await self.reason(tenant, site, version))

    async def reason(self, tenant: str, site: str, version: Version) -> str:
        """Why there are no windows."""
        return await reason(self._engine, tenant, site, version)

    async def samples(self, catalog: Catalog, metrics: Sequence[str], span: Span, version: Version) -> list[Sample]:
        """The windows of some metrics of the catalogue, oldest first."""
        newest = await self._newest.of(span.tenant, span.site, version, span.until.timestamp())
        if newest is None:
            return []
        seconds = int(span.length.total_seconds())
        last = newest // seconds
        need = catalog.need(metrics)
        first = max(0, last - span.limit + 1)
        read = await self._read(span, version, need, (first, last), newest)
        if not span.gaps and len(read) < span.limit and first > 0:
            before = await self._first(span, version, newest)
            if before < first:
                first = before
                read = await self._read(span, version, need, (first, last), newest)
        there = frozenset(read)
        if span.gaps:
            for number in range(min(read)[0], last - first + 1):
                read.setdefault((number, ()), {})
        selection = self._selection(span, version, (first, last), newest)
        running = await rows.read_running(self._engine, selection, need, read) if need.running else {}
        return [
            Sample(
                _time((first + key[0]) * seconds),
                catalog.values(metrics, aggregates, running.get(key, {})),
                aggregates,
                running.get(key, {}),
                empty=key not in there,
            )
            for key, aggregates in sorted(read.items())
        ]

    async def _read(
        self, span: Span, version: Version, need: Need, numbers: tuple[int, int], newest: int
    ) -> dict[rows.Key, rows.Values]:
        wanted = list(dict.fromkeys((*need.aggregates, *need.running, _EVENTS)))
        return await rows.read(self._engine, self._selection(span, version, numbers, newest), wanted)

    def _selection(self, span: Span, version: Version, numbers: tuple[int, int], newest: int) -> Selection:
        """The windows of these numbers, counted from the epoch, up to the newest minute."""
        first, last = numbers
        micros = int(span.length.total_seconds()) * MICROS
        return Selection(
            tenant=span.tenant,
            version=version,
            windows=Even(first * micros, micros, last - first + 1, (newest + MINUTE) * MICROS),
            dimensions=(),
            filters=(Filter("site", Comparison.IN, (span.site,)),) if span.site else (),
            currency=self._currency,
        )

    async def _first(self, span: Span, version: Version, newest: int) -> int:
        """The oldest of the newest `limit` windows with events, where some between them have none.

        Looks back twice as far as an unbroken series would reach, and over everything only where that is not enough.
        """
        back = newest - 2 * span.limit * int(span.length.total_seconds())
        found = await self._look(span, version, back, newest)
        if found["windows"] < span.limit and back > 0:
            found = await self._look(span, version, 0, newest)
        return int(found["first"])

    async def _look(self, span: Span, version: Version, since: int, until: int) -> Row:
        """The newest `limit` windows with events in minutes since <= m <= until: the first, and how many."""
        sql = _OLDEST.format(visible=version.visible("gold_events"))
        bounds = {"tenant": span.tenant, "site": span.site, "since": max(0, since), "until": until}
        length = {"length": int(span.length.total_seconds()), "limit": span.limit}
        return (await self._engine.rows(sql, {**bounds, **length}))[0]


def _point(catalog: Catalog, metric: str, sample: Sample) -> Point:
    numerator, denominator = catalog.sides(metric, sample.aggregates, sample.running)
    return Point(sample.start, _float(sample.values[metric]), _float(numerator), _float(denominator), sample.empty)


async def reason(engine: Engine, tenant: str, site: str, version: Version) -> str:
    """Why there are no windows."""
    return await why_nothing(engine, tenant, version, "no events of this site yet" if site else "no events yet")


def _float(value: Value) -> float | None:
    return None if value is None else float(value)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
