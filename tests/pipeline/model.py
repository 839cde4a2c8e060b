"""What silver, sessions and gold should be, computed in plain Python from the events as sent."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline.bronze import Sent

SILENCE = timedelta(minutes=30)
CANONICAL = {"pageview": "page_view", "view": "page_view"}


def kind(event: Sent) -> str:
    """The canonical type."""
    return CANONICAL.get(event.event_type, event.event_type)


def first_of_ids(sent: Iterable[Sent]) -> list[Sent]:
    """What silver keeps of events in the order of their commits."""
    return list({(event.tenant, event.event_id): event for event in reversed(list(sent))}.values())


class Seen(NamedTuple):
    """A session, as far as tests compare it."""

    tenant: str
    actor: str
    session_id: str
    site_id: str
    visitor: str
    start: datetime
    end: datetime
    page_views: int
    events: int
    landing_page: str
    exit_page: str
    source: str
    converted: bool


def sessions(events: Iterable[Sent]) -> set[Seen]:
    """The sessions of events without duplicates."""
    actors: dict[tuple[str, str], list[Sent]] = defaultdict(list)
    for event in events:
        if event.session_id:
            actors[event.tenant, f"s:{event.session_id}"].append(event)
        elif event.visitor:
            actors[event.tenant, f"v:{event.visitor}"].append(event)
    made: set[Seen] = set()
    for (tenant, actor), own in actors.items():
        for part in _parts(actor, sorted(own, key=lambda event: event.event_time)):
            made.add(_session(tenant, actor, part))
    return made


def _parts(actor: str, ordered: Sequence[Sent]) -> list[list[Sent]]:
    parts: list[list[Sent]] = []
    for event in ordered:
        if not parts or (actor.startswith("v:") and event.event_time - parts[-1][-1].event_time > SILENCE):
            parts.append([])
        parts[-1].append(event)
    return parts


def _session(tenant: str, actor: str, events: Sequence[Sent]) -> Seen:
    start = events[0].event_time
    pages = sorted((e.event_time, e.path) for e in events if kind(e) == "page_view" and e.path)
    sources = sorted((e.event_time, e.utm_source) for e in events if e.utm_source)
    micros = (start - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    return Seen(
        tenant=tenant,
        actor=actor,
        session_id=actor[2:] if actor.startswith("s:") else f"{actor[2:]}@{micros}",
        site_id=min(e.site_id for e in events if e.event_time == start),
        visitor=min((e.visitor for e in events if e.visitor), default=""),
        start=start,
        end=events[-1].event_time,
        page_views=sum(kind(e) == "page_view" for e in events),
        events=len(events),
        landing_page=pages[0][1] if pages else "",
        exit_page=pages[-1][1] if pages else "",
        source=sources[0][1] if sources else "",
        converted=any(kind(e) == "purchase" for e in events),
    )


@dataclass(slots=True)
class Minute:
    """One row of gold_kpis, merged."""

    orders: set[str] = field(default_factory=set)
    gmv: Decimal = Decimal(0)
    refunds: Decimal = Decimal(0)
    purchases: int = 0
    page_views: int = 0
    add_to_carts: int = 0
    events: int = 0
    purchase_users: set[str] = field(default_factory=set)
    view_users: set[str] = field(default_factory=set)
    cart_users: set[str] = field(default_factory=set)
    active_users: set[str] = field(default_factory=set)

    def add(self, event: Sent) -> None:
        """Counts one event."""
        amount = (event.price or Decimal(0)) * (1 if event.quantity is None else event.quantity)
        who = {event.visitor} - {""}
        self.events += 1
        self.active_users |= who
        match kind(event):
            case "purchase":
                self.orders.add(event.order_id or str(event.event_id))
                self.gmv += amount
                self.purchases += 1
                self.purchase_users |= who
            case "refund":
                self.refunds += amount
            case "page_view":
                self.page_views += 1
                self.view_users |= who
            case "add_to_cart":
                self.add_to_carts += 1
                self.cart_users |= who

    def figures(self) -> tuple[Decimal | int, ...]:
        """As gold() gives them."""
        return (
            *(len(self.orders), self.gmv, self.refunds, self.purchases, self.page_views, self.add_to_carts),
            *(self.events, len(self.purchase_users), len(self.view_users), len(self.cart_users)),
            len(self.active_users),
        )


Figures = dict[tuple[str, datetime, str, str], tuple[Decimal | int, ...]]


def gold(events: Iterable[Sent], currency: str = "USD") -> Figures:
    """gold_kpis of events without duplicates, by tenant, minute, site and currency."""
    minutes: dict[tuple[str, datetime, str, str], Minute] = defaultdict(Minute)
    for event in events:
        minute = event.event_time.replace(second=0, microsecond=0)
        minutes[event.tenant, minute, event.site_id, event.currency or currency].add(event)
    return {key: minute.figures() for key, minute in minutes.items()}


def visits(events: Iterable[Sent], currency: str = "USD") -> Figures:
    """gold_visits of events without duplicates, all visitors together, by tenant, quarter, site and currency."""
    quarters: dict[tuple[str, datetime, str, str], Minute] = defaultdict(Minute)
    for event in events:
        minute = event.event_time.minute - event.event_time.minute % 15
        quarter = event.event_time.replace(minute=minute, second=0, microsecond=0)
        quarters[event.tenant, quarter, event.site_id, event.currency or currency].add(event)
    return {key: quarter.figures() for key, quarter in quarters.items()}


async def stored_visits(engine: Engine, log: CommitLog) -> Figures:
    """gold_visits as a reader sees it."""
    rows = await engine.rows(
        """
        SELECT tenant, quarter, site_id, currency, uniqExactMerge(orders), sum(gmv), sum(refunds), sum(v.purchases),
            sum(v.page_views), sum(v.add_to_carts), sum(events), uniqExactIf(visitor, v.purchases > 0 AND visitor != 0),
            uniqExactIf(visitor, v.page_views > 0 AND visitor != 0),
            uniqExactIf(visitor, v.add_to_carts > 0 AND visitor != 0), uniqExactIf(visitor, visitor != 0)
        FROM gold_visits AS v WHERE $visible GROUP BY tenant, quarter, site_id, currency
        """.replace("$visible", log.version.visible("gold_visits"))
    )
    found: Figures = {}
    for row in rows:
        tenant, quarter, site_id, currency, *figures = row.values()
        found[tenant, _utc(quarter), site_id, currency] = tuple(figures)
    return found


async def stored_gold(engine: Engine, log: CommitLog, run: int | None = None) -> Figures:
    """gold_kpis as a reader sees it, or as of `run`."""
    rows = await engine.rows(
        """
        SELECT tenant, minute, site_id, currency, uniqExactMerge(orders), sum(gmv), sum(refunds), sum(purchases),
            sum(page_views), sum(add_to_carts), sum(events), uniqExactMerge(purchase_users),
            uniqExactMerge(view_users), uniqExactMerge(cart_users), uniqExactMerge(active_users)
        FROM gold_kpis WHERE $visible GROUP BY tenant, minute, site_id, currency
        """.replace("$visible", log.version.visible("gold_kpis") if run is None else f"run <= {run}")
    )
    found: Figures = {}
    for row in rows:
        tenant, minute, site_id, currency, *figures = row.values()
        found[tenant, _utc(minute), site_id, currency] = tuple(figures)
    return found


async def stored_events(engine: Engine, log: CommitLog) -> dict[tuple[str, datetime, str, str], int]:
    """gold_events as a reader sees it."""
    rows = await engine.rows(
        "SELECT tenant, minute, site_id, event_type, sum(events) AS n FROM gold_events"
        f" WHERE {log.version.visible('gold_events')} GROUP BY tenant, minute, site_id, event_type"
    )
    return {(row["tenant"], _utc(row["minute"]), row["site_id"], row["event_type"]): row["n"] for row in rows}


async def stored_sessions(engine: Engine, log: CommitLog) -> set[Seen]:
    """The sessions as a reader sees them."""
    rows = await engine.rows(
        """
        SELECT * FROM (
            SELECT * FROM sessions WHERE $visible
            ORDER BY tenant, actor, session_id, run DESC LIMIT 1 BY tenant, actor, session_id
        ) WHERE NOT deleted
        """.replace("$visible", log.version.visible("sessions"))
    )
    return {
        Seen(
            tenant=row["tenant"],
            actor=row["actor"],
            session_id=row["session_id"],
            site_id=row["site_id"],
            visitor=row["visitor"],
            start=_utc(row["start_time"]),
            end=_utc(row["end_time"]),
            page_views=row["page_views"],
            events=row["events"],
            landing_page=row["landing_page"],
            exit_page=row["exit_page"],
            source=row["utm_source"],
            converted=bool(row["converted"]),
        )
        for row in rows
    }


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC)
