"""Reads KPIs from gold, each answer as of one version of it.

Answers of the current version are kept in memory. A statement over gold costs the embedded engine 4 ms before it reads
a row, so an answer takes as few of them as it can. A cleanup makes no version of gold; what it removes is gone from
answers when the minute ends.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from statistics import fmean
from string import Template

from penstock import limits
from penstock.kpis.answers import Answers
from penstock.kpis.catalog import Catalog
from penstock.kpis.trend import mann_kendall
from penstock.kpis.windows import (
    ConversionPoint,
    ConversionTrend,
    Freshness,
    Latest,
    RevenuePoint,
    RevenueTrend,
    Scope,
    Snapshot,
    Window,
)
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Gold

MINUTE = 60
HOUR = 3600
END_OF_TIME = 4_294_967_220  # the last whole minute of ClickHouse's DateTime

WINDOW_METRICS = (
    "orders",
    "gmv",
    "refunds",
    "revenue_net",
    "average_order_value",
    "purchase_users",
    "view_users",
    "active_users",
    "conversion_rate",
    "page_views",
    "add_to_carts",
)
CONVERSION_METRICS = ("purchase_users", "view_users", "conversion_rate")
REVENUE_METRICS = ("gmv", "orders")

# Minutes are looked up in gold_events, which has the minutes of gold_kpis and no states: 5 ms where gold_kpis takes 11.
_NEWEST = """
SELECT toUnixTimestamp(minute) AS newest
FROM gold_events
WHERE tenant = {tenant:String} AND run <= {run:Int64} AND ({site_id:String} = '' OR site_id = {site_id:String})
    AND minute <= toDateTime({until:UInt32}, 'UTC')
ORDER BY minute DESC
LIMIT 1
"""
_WINDOW = Template("""
SELECT
    $metrics
FROM gold_kpis AS gold
WHERE gold.tenant = {tenant:String} AND gold.run <= {run:Int64}
    AND ({site_id:String} = '' OR gold.site_id = {site_id:String})
    AND gold.minute >= toDateTime({start:UInt32}, 'UTC') AND gold.minute < toDateTime({end:UInt32}, 'UTC')
""")
_RECENT = """
SELECT event_type, sum(events) AS occurred
FROM gold_events
WHERE tenant = {tenant:String} AND run <= {run:Int64} AND ({site_id:String} = '' OR site_id = {site_id:String})
    AND minute >= toDateTime({start:UInt32}, 'UTC') AND minute < toDateTime({end:UInt32}, 'UTC')
GROUP BY event_type
ORDER BY event_type
"""
# Windows are numbered by their length since the epoch.
_FIRST = """
SELECT min(number) AS first, count() AS windows
FROM
(
    SELECT DISTINCT intDiv(toUnixTimestamp(minute), {length:UInt32}) AS number
    FROM gold_events
    WHERE tenant = {tenant:String} AND run <= {run:Int64} AND ({site_id:String} = '' OR site_id = {site_id:String})
        AND minute >= toDateTime({since:UInt32}, 'UTC') AND minute <= toDateTime({until:UInt32}, 'UTC')
    ORDER BY number DESC
    LIMIT {limit:UInt32}
)
"""
_SERIES = Template("""
SELECT
    intDiv(toUnixTimestamp(gold.minute), {length:UInt32}) AS number,
    $metrics
FROM gold_kpis AS gold
WHERE gold.tenant = {tenant:String} AND gold.run <= {run:Int64}
    AND ({site_id:String} = '' OR gold.site_id = {site_id:String})
    AND gold.minute >= toDateTime({since:UInt32}, 'UTC') AND gold.minute <= toDateTime({until:UInt32}, 'UTC')
GROUP BY number
ORDER BY number
""")
# The log is of all tenants, and so is how far the pipeline came.
_OLDEST_UNPROCESSED = """
SELECT toUnixTimestamp64Micro(minOrNull(time)) AS oldest
FROM commits
WHERE commit > {processed:Int64} AND operation = 'append'
"""


@dataclass(frozen=True, slots=True)
class _Version:
    """What an answer depends on besides its question."""

    gold: Gold
    minute: int  # the current one, in seconds since the epoch: it bounds which window is the latest


class KpiReader:
    """Reads KPIs; everything may raise Unavailable, TimedOut or Overloaded."""

    def __init__(
        self,
        engine: Engine,
        log: CommitLog,
        settings: Settings,
        catalog: Catalog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._log = log
        self._currency = settings.currency
        self._catalog = catalog
        self._clock = clock
        self._latest: Answers[Latest] = Answers(limits.KPI_ANSWERS_MAX)
        self._conversion: Answers[ConversionTrend] = Answers(limits.KPI_TREND_ANSWERS_MAX)
        self._revenue: Answers[RevenueTrend] = Answers(limits.KPI_TREND_ANSWERS_MAX)
        self._oldest_unprocessed: Answers[float | None] = Answers(1)
        self._window_sql = _WINDOW.substitute(metrics=catalog.select(WINDOW_METRICS))
        self._conversion_sql = _SERIES.substitute(metrics=catalog.select(CONVERSION_METRICS))
        self._revenue_sql = _SERIES.substitute(metrics=catalog.select(REVENUE_METRICS))

    async def latest(self, scope: Scope) -> Latest:
        """The window of `scope.minutes` that ends with the newest minute that has events.

        Minutes ahead of this server's clock count only when there are no others: one skewed client must not hide
        what happens now.
        """
        version = self._version()
        return await self._latest.get(version, scope, lambda: self._read_latest(scope, version))

    async def snapshot(self, scope: Scope) -> Snapshot:
        """The latest window, and how fresh exactly that answer is at this moment."""
        latest = await self.latest(scope)
        return Snapshot(latest, await self.freshness(latest.gold))

    async def freshness(self, gold: Gold) -> Freshness:
        """How fresh `gold` is now; from memory unless there is a lag, and then one statement for each version."""
        lag_seconds = 0.0
        if self._log.last_append > gold.last_commit:
            processed = gold.last_commit
            oldest = await self._oldest_unprocessed.get(processed, None, lambda: self._read_oldest(processed))
            lag_seconds = max(0.0, self._clock() - oldest) if oldest is not None else 0.0
        return Freshness(gold.time, lag_seconds, gold.last_commit)

    async def conversion(self, scope: Scope, limit: int) -> ConversionTrend:
        """Conversion in the newest `limit` windows that have events, windows aligned to the epoch by their length."""
        version = self._version()
        key = (scope, limit)
        return await self._conversion.get(version, key, lambda: self._read_conversion(scope, limit, version))

    async def revenue(self, scope: Scope, limit: int) -> RevenueTrend:
        """Revenue in the newest `limit` windows that have events, windows aligned to the epoch by their length."""
        version = self._version()
        key = (scope, limit)
        return await self._revenue.get(version, key, lambda: self._read_revenue(scope, limit, version))

    def _version(self) -> _Version:
        return _Version(self._log.gold, int(self._clock()) // MINUTE * MINUTE)

    async def _read_latest(self, scope: Scope, version: _Version) -> Latest:
        newest = await self._newest_minute(scope, version)
        if newest is None:
            return Latest(None, {}, self._reason(scope, version.gold), version.gold)
        end = newest + MINUTE
        bounds = {**_of(scope, version.gold), "currency": self._currency, "end": end}
        window, recent = await asyncio.gather(
            self._engine.rows(self._window_sql, {**bounds, "start": max(0, end - scope.minutes * MINUTE)}),
            self._engine.rows(_RECENT, {**bounds, "start": max(0, end - HOUR)}),
        )
        return Latest(
            Window(
                _time(end - scope.minutes * MINUTE),
                _time(end),
                self._currency,
                **self._catalog.values(WINDOW_METRICS, window[0]),
            ),
            {row["event_type"]: row["occurred"] for row in recent},
            "",
            version.gold,
        )

    async def _newest_minute(self, scope: Scope, version: _Version) -> int | None:
        if not version.gold.run:
            return None
        for until in (version.minute, END_OF_TIME):
            found = await self._engine.rows(_NEWEST, {**_of(scope, version.gold), "until": until})
            if found:
                return int(found[0]["newest"])
        return None

    async def _read_conversion(self, scope: Scope, limit: int, version: _Version) -> ConversionTrend:
        rows = await self._series(self._conversion_sql, scope, limit, version)
        points = [ConversionPoint(_start(scope, row), **self._catalog.values(CONVERSION_METRICS, row)) for row in rows]
        rates = [point.conversion_rate for point in points if point.conversion_rate is not None]
        return ConversionTrend(
            points,
            fmean(rates) if rates else None,
            len(rates),
            await asyncio.to_thread(mann_kendall, rates),
            "" if points else self._reason(scope, version.gold),
        )

    async def _read_revenue(self, scope: Scope, limit: int, version: _Version) -> RevenueTrend:
        rows = await self._series(self._revenue_sql, scope, limit, version)
        points = [RevenuePoint(_start(scope, row), **self._catalog.values(REVENUE_METRICS, row)) for row in rows]
        total = sum((point.gmv for point in points), Decimal(0))
        return RevenueTrend(
            points,
            total,
            total / len(points) if points else None,
            await asyncio.to_thread(mann_kendall, [float(point.gmv) for point in points]),
            self._currency,
            "" if points else self._reason(scope, version.gold),
        )

    async def _series(self, sql: str, scope: Scope, limit: int, version: _Version) -> Sequence[Row]:
        """One row for each of the newest `limit` windows that have events, oldest first, by window `number`."""
        if not version.gold.run:
            return []
        for until in (version.minute, END_OF_TIME):
            since = await self._first_window(scope, limit, version.gold, until)
            if since is not None:
                length = scope.minutes * MINUTE
                bounds = {"currency": self._currency, "length": length, "since": since, "until": until}
                return await self._engine.rows(sql, {**_of(scope, version.gold), **bounds})
        return []

    async def _first_window(self, scope: Scope, limit: int, gold: Gold, until: int) -> int | None:
        """Where the oldest of the newest `limit` windows up to `until` starts; None when there is none.

        Looks back twice as far as an unbroken series would reach, and over everything only where that is not enough.
        """
        length = scope.minutes * MINUTE
        for since in (max(0, until - 2 * limit * length), 0):
            bounds = {"length": length, "limit": limit, "since": since, "until": until}
            found = (await self._engine.rows(_FIRST, {**_of(scope, gold), **bounds}))[0]
            if found["windows"] == limit or since == 0:
                return int(found["first"]) * length if found["windows"] else None
        raise AssertionError("the last look is over everything")

    async def _read_oldest(self, processed: int) -> float | None:
        oldest = (await self._engine.rows(_OLDEST_UNPROCESSED, {"processed": processed}))[0]["oldest"]
        return None if oldest is None else oldest / 1e6

    def _reason(self, scope: Scope, gold: Gold) -> str:
        if not gold.run and self._log.last_append:
            return "the first events are not processed yet"
        return "no events of this site yet" if scope.site_id and gold.run else "no events yet"


def _of(scope: Scope, gold: Gold) -> dict[str, str | int]:
    return {"tenant": scope.tenant, "site_id": scope.site_id, "run": gold.run}


def _start(scope: Scope, row: Row) -> datetime:
    return _time(row["number"] * scope.minutes * MINUTE)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
