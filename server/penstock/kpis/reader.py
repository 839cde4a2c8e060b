"""Reads the latest KPIs from gold, each answer as of one version of it.

Answers are kept in memory. A statement over gold costs the embedded engine 4 ms before it reads a row, so an answer
takes as few of them as it can.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from penstock import limits
from penstock.kpis import rows
from penstock.kpis.answers import Answers
from penstock.kpis.catalog import Catalog
from penstock.kpis.formula import Comparison
from penstock.kpis.freshness import FreshnessReader
from penstock.kpis.grain import MICROS, Windows
from penstock.kpis.moment import Moment, Moments
from penstock.kpis.newest import MINUTE, NewestMinutes
from penstock.kpis.series import reason
from penstock.kpis.sources import Filter, Selection
from penstock.kpis.windows import Freshness, Latest, Scope, Shown, Snapshot, Window
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.storage.version import Gold, Version

HOUR = 3600

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

_RECENT = """
SELECT event_type, sum(events) AS occurred
FROM gold_events
WHERE tenant = {{tenant:String}} AND {visible} AND ({{site_id:String}} = '' OR site_id = {{site_id:String}})
    AND minute >= toDateTime({{start:UInt32}}, 'UTC') AND minute < toDateTime({{end:UInt32}}, 'UTC')
GROUP BY event_type
ORDER BY event_type
"""


class KpiReader:
    """Reads KPIs; everything may raise Unavailable, TimedOut or Overloaded."""

    def __init__(
        self,
        engine: Engine,
        log: CommitLog,
        settings: Settings,
        catalog: Catalog,
        newest: NewestMinutes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._log = log
        self._currency = settings.currency
        self._catalog = catalog
        self._aggregates = catalog.need(WINDOW_METRICS).aggregates
        self._newest = newest
        self._clock = clock
        self._moments = Moments(log, clock)
        self._latest: Answers[Latest] = Answers(limits.KPI_ANSWERS_MAX)
        self._snapshots: dict[Scope, Snapshot] = {}  # the same object while nothing changes
        self._freshness = FreshnessReader(engine, log, clock)

    async def latest(self, scope: Scope, at: Moment | None = None) -> Latest:
        """The window of `scope.minutes` that ends with the newest minute that has events, now or as of a moment.

        Minutes ahead of the clock count only when there are no others: one skewed client must not hide what happens
        now.
        """
        moment = at or self._moments.now()
        shown = Shown.of(moment.version, moment.now)
        return await self._latest.get(shown, scope, lambda: self._read_latest(scope, moment))

    async def snapshot(self, scope: Scope, at: Moment | None = None) -> Snapshot:
        """The latest window, and how fresh exactly that answer is at this moment."""
        moment = at or self._moments.now()
        latest = await self.latest(scope, moment)
        if moment.past:
            return Snapshot(latest, await self._freshness.then(scope.tenant, moment.version))
        return self._snapshot(scope, latest, await self._freshness.now(scope.tenant, latest.shown.gold))

    def moment(self) -> tuple[Version, int]:
        """What `newest` depends on: the version, the same object while nothing is committed, and the minute."""
        return self._log.version, int(self._clock()) // MINUTE

    def newest(self, scope: Scope) -> Snapshot | None:
        """What `snapshot` would tell now, and until `moment` is another; None where that would have to read, or a lag
        is part of it, which grows."""
        snapshot, version = self._snapshots.get(scope), self._log.version
        if snapshot is None or snapshot.latest.shown != Shown.of(version, self._clock()):
            return None
        return snapshot if snapshot.freshness == self._freshness.settled(scope.tenant, version.gold) else None

    def _snapshot(self, scope: Scope, latest: Latest, freshness: Freshness) -> Snapshot:
        snapshot = self._snapshots.get(scope)
        if snapshot is None or snapshot.latest is not latest or snapshot.freshness != freshness:
            snapshot = self._snapshots[scope] = Snapshot(latest, freshness)
            if len(self._snapshots) > limits.KPI_ANSWERS_MAX:
                del self._snapshots[next(iter(self._snapshots))]
        return snapshot

    async def freshness(self, tenant: str, gold: Gold) -> Freshness:
        """How fresh `gold` is for the tenant now."""
        return await self._freshness.now(tenant, gold)

    async def _read_latest(self, scope: Scope, at: Moment) -> Latest:
        version, shown = at.version, Shown.of(at.version, at.now)
        newest = await self._newest.of(scope.tenant, scope.site_id, version, at.now)
        if newest is None:
            why = await reason(self._engine, scope.tenant, scope.site_id, version)
            return Latest(None, {}, why, shown)
        end = newest + MINUTE
        start = max(0, end - scope.minutes * MINUTE)
        selection = Selection(
            tenant=scope.tenant,
            version=version,
            windows=Windows((start * MICROS, end * MICROS)),
            dimensions=(),
            filters=(Filter("site", Comparison.IN, (scope.site_id,)),) if scope.site_id else (),
            currency=self._currency,
        )
        hour = {**_of(scope), "start": max(0, end - HOUR), "end": end}
        found, recent = await asyncio.gather(
            rows.read(self._engine, selection, self._aggregates),
            self._engine.rows(_RECENT.format(visible=version.visible("gold_events")), hour),
        )
        values = self._catalog.values(WINDOW_METRICS, found.get((0, ()), {}))
        window = Window(_time(end - scope.minutes * MINUTE), _time(end), self._currency, **values)  # type: ignore[arg-type]
        return Latest(window, {row["event_type"]: row["occurred"] for row in recent}, "", shown)


def _of(scope: Scope) -> dict[str, str]:
    return {"tenant": scope.tenant, "site_id": scope.site_id}


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
