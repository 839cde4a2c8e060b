"""What silver, sessions and gold must hold, computed from the rows that were sent, in plain Python."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from penstock.events.v1.events_pb2 import Event

SILENCE_MICROS = 30 * 60 * 1_000_000
MINUTE_MICROS = 60 * 1_000_000
CURRENCY = "USD"  # the server's default


@dataclass(frozen=True, slots=True)
class Fact:
    """A row that was sent, and what only the server can know of it."""

    event: Event
    event_id: str
    commit: int
    stream_id: str
    offset: int
    received: int  # microseconds

    @property
    def time(self) -> int:
        """When it happened; microseconds."""
        given = self.event.timestamp
        return given.seconds * 1_000_000 + given.nanos // 1_000 if self.event.HasField("timestamp") else self.received

    @property
    def kind(self) -> str:
        """The canonical event type."""
        return "page_view" if self.event.event_type in ("pageview", "view") else self.event.event_type

    @property
    def visitor(self) -> str:
        """Whoever it was."""
        return self.event.user_id or self.event.visitor_id

    @property
    def price(self) -> Decimal | None:
        """To six decimals."""
        return Decimal(str(self.event.price)).quantize(Decimal("0.000001")) if self.event.HasField("price") else None

    @property
    def amount(self) -> Decimal:
        """Price times quantity."""
        return (self.price or Decimal(0)) * (self.event.quantity if self.event.HasField("quantity") else 1)

    @property
    def currency(self) -> str:
        """As given, else the server's."""
        return self.event.currency.upper() or CURRENCY

    @property
    def order(self) -> str:
        """The order that a purchase belongs to."""
        return self.event.order_id or self.event_id


@dataclass(slots=True)
class Kpis:
    """What gold says of some events."""

    gmv: Decimal = Decimal(0)
    refunds: Decimal = Decimal(0)
    orders: set[str] = field(default_factory=set)
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    users: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by kind; "" for all

    def add(self, fact: Fact) -> None:
        """Counts one event."""
        self.kinds[fact.kind] += 1
        if fact.visitor:
            self.users[fact.kind].add(fact.visitor)
            self.users[""].add(fact.visitor)
        if fact.kind == "purchase":
            self.gmv += fact.amount
            self.orders.add(fact.order)
        if fact.kind == "refund":
            self.refunds += fact.amount

    def totals(self) -> tuple[object, ...]:
        """GMV, refunds, orders, and the distinct users who bought, viewed, filled a cart, did anything."""
        users = (len(self.users[kind]) for kind in ("purchase", "page_view", "add_to_cart", ""))
        return (self.gmv, self.refunds, len(self.orders), *users)

    def counts(self) -> tuple[int, ...]:
        """Purchases, page views, add-to-carts, all events."""
        return (*(self.kinds[kind] for kind in ("purchase", "page_view", "add_to_cart")), sum(self.kinds.values()))


def silver(facts: Iterable[Fact]) -> dict[str, Fact]:
    """One fact an event id: the first in commit order."""
    first: dict[str, Fact] = {}
    for fact in sorted(facts, key=lambda each: (each.commit, each.stream_id, each.offset)):
        first.setdefault(fact.event_id, fact)
    return first


def kpis_by_minute(facts: Iterable[Fact]) -> dict[tuple[int, str, str], Kpis]:
    """KPIs by minute (seconds since 1970), site and currency."""
    found: dict[tuple[int, str, str], Kpis] = defaultdict(Kpis)
    for fact in facts:
        found[fact.time // MINUTE_MICROS * 60, fact.event.site_id, fact.currency].add(fact)
    return dict(found)


def kpis_by_currency(facts: Iterable[Fact]) -> dict[str, Kpis]:
    """KPIs over all time."""
    found: dict[str, Kpis] = defaultdict(Kpis)
    for fact in facts:
        found[fact.currency].add(fact)
    return dict(found)


def events_by_minute(facts: Iterable[Fact]) -> dict[tuple[int, str, str], int]:
    """Events by minute, site and canonical type."""
    found: dict[tuple[int, str, str], int] = defaultdict(int)
    for fact in facts:
        found[fact.time // MINUTE_MICROS * 60, fact.event.site_id, fact.kind] += 1
    return dict(found)


def sessions(facts: Iterable[Fact]) -> list[tuple[object, ...]]:
    """Actor, start, end, events, page views and whether something was bought, of each session, sorted."""
    actors: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.event.session_id:
            actors[f"s:{fact.event.session_id}"].append(fact)
        elif fact.visitor:
            actors[f"v:{fact.visitor}"].append(fact)
    found = []
    for actor, own in actors.items():
        own.sort(key=lambda fact: fact.time)
        found += [_session(actor, part) for part in _parts(own, whole=actor.startswith("s:"))]
    return sorted(found)


def _parts(facts: Sequence[Fact], *, whole: bool) -> list[Sequence[Fact]]:
    if whole:
        return [facts]
    starts = [0]
    starts += [i for i in range(1, len(facts)) if facts[i].time - facts[i - 1].time > SILENCE_MICROS]
    return [facts[start:end] for start, end in zip(starts, [*starts[1:], len(facts)], strict=True)]


def _session(actor: str, facts: Sequence[Fact]) -> tuple[object, ...]:
    views = sum(fact.kind == "page_view" for fact in facts)
    bought = any(fact.kind == "purchase" for fact in facts)
    return (actor, facts[0].time, facts[-1].time, len(facts), views, bought)
