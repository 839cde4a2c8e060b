"""Writes gold as the pipeline does, from events in Python, and computes in plain Python what must be read from it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any

import pyarrow as pa

from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import Engine

NOON = 1_760_443_200  # a whole minute, hour and day
_ids = count()

_RAW = """
CREATE TABLE IF NOT EXISTS test_events
(
    run Int64, tenant String, time Int64, site_id String, event_type String, visitor String, order_key String,
    amount Decimal(38, 6), currency String
)
ENGINE = Memory
"""
_BRONZE = "INSERT INTO bronze_events (tenant, commit) SELECT {tenant:String}, {commit:Int64}"
_KPIS = """
INSERT INTO gold_kpis
SELECT tenant, toStartOfMinute(toDateTime(time, 'UTC')) AS minute, site_id, currency, run,
    uniqExactStateIf(order_key, event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'), sumIf(amount, event_type = 'refund'),
    countIf(event_type = 'purchase'), countIf(event_type = 'page_view'), countIf(event_type = 'add_to_cart'), count(),
    uniqExactStateIf(visitor, event_type = 'purchase' AND visitor != ''),
    uniqExactStateIf(visitor, event_type = 'page_view' AND visitor != ''),
    uniqExactStateIf(visitor, event_type = 'add_to_cart' AND visitor != ''),
    uniqExactStateIf(visitor, visitor != '')
FROM test_events
WHERE run = {run:Int64}
GROUP BY tenant, minute, site_id, currency, run
"""
_EVENTS = """
INSERT INTO gold_events
SELECT tenant, toStartOfMinute(toDateTime(time, 'UTC')) AS minute, site_id, event_type, run, count()
FROM test_events
WHERE run = {run:Int64}
GROUP BY tenant, minute, site_id, event_type, run
"""
_VISITS = """
INSERT INTO gold_visits
SELECT tenant, toStartOfFifteenMinutes(toDateTime(time, 'UTC')) AS quarter, site_id, '', '', '', '', '', '', currency,
    if(visitor = '', 0, sipHash64(visitor)) AS visitor_key, run,
    uniqExactStateIf(order_key, event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'), sumIf(amount, event_type = 'refund'),
    countIf(event_type = 'purchase'), countIf(event_type = 'page_view'), countIf(event_type = 'add_to_cart'), count()
FROM test_events
WHERE run = {run:Int64}
GROUP BY tenant, quarter, site_id, currency, visitor_key, run
"""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of silver, as far as gold looks at it."""

    time: int
    event_type: str = "page_view"
    visitor: str = ""
    site_id: str = "shop"
    order_id: str = ""
    amount: Decimal = Decimal(0)
    currency: str = "USD"
    tenant: str = "default"
    event_id: int = field(default_factory=lambda: next(_ids))


class Gold:
    """Adds runs to the gold of `engine`."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log
        self._last_run = 0
        self._tenants: dict[int, list[str]] = {}  # of each run

    async def commit(self, *tenants: str) -> int:
        """A commit of events, of these tenants or the default one, that no run has read yet."""
        whose = tenants or ("default",)
        async with self._log.transaction() as transaction:
            for tenant in whose:
                await self._engine.execute(_BRONZE, {"tenant": tenant, "commit": transaction.commit})
            streams = [Advance(tenant, "", 0, 1, 1, 0) for tenant in whose]
            await transaction.append(Entry("append", rows=len(whose), streams=streams))
        return self._log.head

    async def write(self, events: Sequence[Event]) -> int:
        """Writes the rows of a run that nobody sees yet; its number."""
        self._last_run += 1
        self._tenants[self._last_run] = [*dict.fromkeys(event.tenant for event in events)]
        await self._engine.execute(_RAW)
        await self._engine.insert_arrow("test_events", _table(self._last_run, events))
        for statement in (_KPIS, _EVENTS, _VISITS):
            await self._engine.execute(statement, {"run": self._last_run})
        return self._last_run

    async def show(self, run: int) -> None:
        """Makes a run visible, as one that read all commits of events."""
        async with self._log.transaction() as transaction:
            streams = [Advance(tenant, "", 0, 0, 1, 0) for tenant in self._tenants[run]]
            await transaction.append(Entry("etl", run=run, last_commit=self._log.last_append, rows=1, streams=streams))

    async def run(self, events: Sequence[Event]) -> None:
        """A whole run."""
        await self.commit(*dict.fromkeys(event.tenant for event in events))
        await self.show(await self.write(events))


def expected(
    events: Iterable[Event], start: int, end: int, *, site_id: str = "", currency: str = "USD", tenant: str = "default"
) -> dict[str, Any]:
    """The metrics of a window, from the events themselves."""
    seen = [e for e in events if start <= e.time < end and e.tenant == tenant and (not site_id or e.site_id == site_id)]
    purchases = [e for e in seen if e.event_type == "purchase"]
    paid = [e for e in purchases if e.currency == currency]
    gmv = sum((e.amount for e in paid), Decimal(0))
    refunds = sum((e.amount for e in seen if e.event_type == "refund" and e.currency == currency), Decimal(0))
    buyers, viewers = _users(purchases), _users(e for e in seen if e.event_type == "page_view")
    paid_orders = len({_order(e) for e in paid})
    return {
        "orders": len({_order(e) for e in purchases}),
        "gmv": gmv,
        "refunds": refunds,
        "revenue_net": gmv - abs(refunds),
        "average_order_value": float(gmv / paid_orders) if paid_orders else None,
        "purchase_users": buyers,
        "view_users": viewers,
        "active_users": _users(seen),
        "conversion_rate": buyers / viewers if viewers else None,
        "page_views": sum(e.event_type == "page_view" for e in seen),
        "add_to_carts": sum(e.event_type == "add_to_cart" for e in seen),
    }


def counted(events: Iterable[Event], start: int, end: int, *, site_id: str = "") -> dict[str, int]:
    """Events by type in a span of time."""
    return Counter(e.event_type for e in events if start <= e.time < end and (not site_id or e.site_id == site_id))


def _order(event: Event) -> str:
    return event.order_id or f"event {event.event_id}"


def _users(events: Iterable[Event]) -> int:
    return len({event.visitor for event in events} - {""})


def _table(run: int, events: Sequence[Event]) -> pa.Table:
    return pa.table(
        {
            "run": pa.array([run] * len(events), pa.int64()),
            "tenant": [e.tenant for e in events],
            "time": pa.array([e.time for e in events], pa.int64()),
            "site_id": [e.site_id for e in events],
            "event_type": [e.event_type for e in events],
            "visitor": [e.visitor for e in events],
            "order_key": [_order(e) for e in events],
            "amount": pa.array([e.amount for e in events], pa.decimal128(38, 6)),
            "currency": [e.currency for e in events],
        }
    )
