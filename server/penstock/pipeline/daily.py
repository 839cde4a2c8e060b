"""Daily metrics: a day of each site, computed anew from silver and sessions, kept in place of what was kept before."""

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from string import Template

import pyarrow as pa

from penstock.errors import Conflict
from penstock.pipeline.cleanup import cleaned_before
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.payload import literal

TOP = 10


@dataclass(frozen=True, slots=True)
class Count:
    """How often something occurred."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class DailyMetrics:
    """One day of one site."""

    date: date
    site_id: str
    sessions: int
    visitors: int
    page_views: int
    bounce_rate: float | None  # sessions with at most one page view and no purchase, in all; None without sessions
    average_session_seconds: float | None
    orders: int
    gmv: Decimal  # of the purchases in `currency`
    currency: str  # that of most purchases; amounts in others are not added to it
    conversion_rate: float | None  # buyers in viewers; None when nobody viewed
    top_pages: tuple[Count, ...]
    sources: tuple[Count, ...]


# Of a session's rows the newest counts. It reaches furthest on both sides, so it is among those that overlap the day
# whenever an older one is.
_COMPUTE = Template(f"""
WITH
    events AS
    (
        SELECT
            site_id,
            currency,
            uniqExactStateIf(visitor, visitor != '') AS visitors,
            countIf(event_type = 'page_view') AS page_views,
            uniqExactStateIf(if(order_id != '', order_id, toString(event_id)), event_type = 'purchase') AS orders,
            countIf(event_type = 'purchase') AS purchases,
            sumIf(amount, event_type = 'purchase') AS gmv,
            uniqExactStateIf(visitor, event_type = 'purchase' AND visitor != '') AS buyers,
            uniqExactStateIf(visitor, event_type = 'page_view' AND visitor != '') AS viewers
        FROM silver_events
        WHERE tenant = {{tenant:String}} AND $events
            AND event_time >= {{day_start:DateTime64(6, 'UTC')}} AND event_time < {{day_end:DateTime64(6, 'UTC')}}
        GROUP BY site_id, currency
    ),
    sites AS
    (
        SELECT
            site_id,
            uniqExactMerge(visitors) AS visitor_count,
            sum(page_views) AS view_count,
            uniqExactMerge(orders) AS order_count,
            argMax((currency, gmv), (purchases, currency = {{currency:String}}, currency)) AS main,
            uniqExactMerge(buyers) AS buyer_count,
            uniqExactMerge(viewers) AS viewer_count
        FROM events
        GROUP BY site_id
    ),
    begun AS
    (
        SELECT *
        FROM
        (
            SELECT actor, session_id, site_id, start_time, end_time, page_views, utm_source, converted, deleted
            FROM sessions
            WHERE tenant = {{tenant:String}} AND $sessions
                AND start_time < {{day_end:DateTime64(6, 'UTC')}} AND end_time >= {{day_start:DateTime64(6, 'UTC')}}
            ORDER BY actor, session_id, run DESC
            LIMIT 1 BY actor, session_id
        )
        WHERE NOT deleted AND start_time >= {{day_start:DateTime64(6, 'UTC')}}
    ),
    visits AS
    (
        SELECT
            site_id,
            count() AS session_count,
            countIf(page_views <= 1 AND NOT converted) / count() AS bounce_rate,
            avg(dateDiff('microsecond', start_time, end_time)) / 1e6 AS mean_seconds
        FROM begun
        GROUP BY site_id
    ),
    pages AS
    (
        SELECT site_id, arraySort(each -> (-each.2, each.1), groupArray((path, n))) AS top
        FROM
        (
            SELECT site_id, path, count() AS n
            FROM silver_events
            WHERE tenant = {{tenant:String}} AND $events AND event_type = 'page_view' AND path != ''
                AND event_time >= {{day_start:DateTime64(6, 'UTC')}} AND event_time < {{day_end:DateTime64(6, 'UTC')}}
            GROUP BY site_id, path
            ORDER BY n DESC, path
            LIMIT {TOP} BY site_id
        )
        GROUP BY site_id
    ),
    origins AS
    (
        SELECT site_id, arraySort(each -> (-each.2, each.1), groupArray((utm_source, n))) AS top
        FROM
        (
            SELECT site_id, toString(utm_source) AS utm_source, count() AS n
            FROM begun
            GROUP BY site_id, utm_source
            ORDER BY n DESC, utm_source
            LIMIT {TOP} BY site_id
        )
        GROUP BY site_id
    )
SELECT
    sites.site_id AS site_id,
    session_count AS sessions,
    visitor_count AS visitors,
    view_count AS page_views,
    if(session_count = 0, NULL, bounce_rate) AS bounce_rate,
    if(session_count = 0, NULL, mean_seconds) AS average_session_seconds,
    order_count AS orders,
    main.2 AS gmv,
    main.1 AS currency,
    if(viewer_count = 0, NULL, buyer_count / viewer_count) AS conversion_rate,
    pages.top AS top_pages,
    origins.top AS sources
FROM sites
LEFT JOIN visits ON visits.site_id = sites.site_id
LEFT JOIN pages ON pages.site_id = sites.site_id
LEFT JOIN origins ON origins.site_id = sites.site_id
ORDER BY site_id
""")

_COUNTS = pa.list_(pa.struct([("name", pa.string()), ("count", pa.uint64())]))
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("date", pa.date32()),
        ("site_id", pa.string()),
        ("commit", pa.int64()),
        ("sessions", pa.uint64()),
        ("visitors", pa.uint64()),
        ("page_views", pa.uint64()),
        ("bounce_rate", pa.float64()),
        ("average_session_seconds", pa.float64()),
        ("orders", pa.uint64()),
        ("gmv", pa.decimal128(38, 6)),
        ("currency", pa.string()),
        ("conversion_rate", pa.float64()),
        ("top_pages", _COUNTS),
        ("sources", _COUNTS),
    ]
)


class DailyCalculator:
    """Computes daily metrics and keeps them."""

    def __init__(self, engine: Engine, log: CommitLog, settings: Settings) -> None:
        self._engine = engine
        self._log = log
        self._currency = settings.currency

    async def calculate(self, tenant: str, day: date) -> list[DailyMetrics]:
        """Computes the day from what is in gold now, keeps it, and returns it by site.

        Raises Conflict (EVENTS_REMOVED) when a cleanup took events of that day: what is left of them would replace the
        metrics of the whole day.
        """
        version = self._log.version
        visible = version.visible("silver_events"), version.visible("sessions")
        metrics = await self._computed(tenant, day, *visible)
        if metrics:
            await self._keep(tenant, day, metrics)
        return metrics

    async def replace(self, tenant: str, day: date, *, events: str, sessions: str) -> None:
        """Computes the day from those events and sessions alone for which the conditions, in SQL, hold.

        That takes the place of everything that was kept of the day, older versions' metrics too; without such events
        nothing is kept. Raises Conflict as `calculate`.
        """
        version = self._log.version
        metrics = await self._computed(
            tenant,
            day,
            f"{version.visible('silver_events')} AND {events}",
            f"{version.visible('sessions')} AND {sessions}",
        )
        before = self._log.head
        if metrics:
            before = await self._keep(tenant, day, metrics) - 1
        older = f"tenant = {literal(tenant)} AND date = toDate({literal(day.isoformat())}) AND commit <= {before}"
        await self._engine.delete_rows("daily_metrics", older, lane=Lane.PIPELINE)

    async def _computed(self, tenant: str, day: date, events: str, sessions: str) -> list[DailyMetrics]:
        start = datetime.combine(day, time(), UTC)
        cutoff = await cleaned_before(self._engine, tenant)
        if cutoff is not None and start < cutoff:
            raise Conflict(
                f"events before {cutoff.isoformat()} were removed; what is kept for {day.isoformat()} stands",
                reason="EVENTS_REMOVED",
            )
        found = await self._engine.rows(
            _COMPUTE.substitute(events=events, sessions=sessions),
            {
                "tenant": tenant,
                "day_start": start.strftime("%Y-%m-%d %H:%M:%S"),
                "day_end": (start + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S"),
                "currency": self._currency,
            },
            lane=Lane.PIPELINE,
        )
        return [_metrics(day, row) for row in found]

    async def _keep(self, tenant: str, day: date, metrics: list[DailyMetrics]) -> int:
        async with self._log.transaction() as transaction:
            rows = [asdict(each) | {"tenant": tenant, "commit": transaction.commit} for each in metrics]
            await self._engine.insert_arrow("daily_metrics", pa.Table.from_pylist(rows, _SCHEMA))
            detail = {"tenant": tenant, "date": day.isoformat()}
            await transaction.append(Entry("daily", rows=len(rows), detail=detail))
        return transaction.commit


def _metrics(day: date, row: Row) -> DailyMetrics:
    return DailyMetrics(
        **{
            **row,
            "date": day,
            "top_pages": tuple(Count(*each) for each in row["top_pages"]),
            "sources": tuple(Count(*each) for each in row["sources"]),
        }
    )
