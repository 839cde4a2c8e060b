"""What writers send: made from a seed, so that anybody can say afterwards what must be stored.

A plan is an endless sequence of batches. Each row carries a name of its own in its properties, each batch the offset at
which it goes into the stream, and each bad row the reason for which the server must refuse it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from penstock.events.v1.events_pb2 import Event

NAME = "row"  # the property that holds a row's name

SHARED_IDS = 150
SITES = ("", "shop", "outlet")
TYPES = ("page_view", "pageview", "view", "add_to_cart", "purchase", "purchase", "refund", "login")
CURRENCIES = ("", "", "USD", "usd", "EUR")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and why it must be refused."""

    name: str
    event: Event
    reason: str = ""  # empty: the row is good


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: `index` counts in the plan, from 0; -1 is a probe, which no plan has and nothing may store."""

    index: int
    offset: int
    rows: tuple[Row, ...]
    keep_good: bool

    @property
    def bad(self) -> list[tuple[int, str]]:
        """Place and reason of each bad row."""
        return [(place, row.reason) for place, row in enumerate(self.rows) if row.reason]

    @property
    def fits(self) -> bool:
        """Whether the stream takes it, rows that are bad apart."""
        return self.keep_good or not any(row.reason for row in self.rows)

    @property
    def end(self) -> int:
        """The stream's next offset behind it."""
        return self.offset + len(self.rows) if self.fits else self.offset


class Plan:
    """The batches of one stream. The same seed, stream and start make the same batches."""

    def __init__(self, seed: int, stream_id: str, start: datetime, *, keep_good: bool, own_ids: bool = False) -> None:
        self.stream_id = stream_id
        self.keep_good = keep_good
        self._own_ids = own_ids  # every row has an event id, as at-least-once needs it
        self._random = random.Random(f"{seed}/{stream_id}")
        self._start = start
        shared = random.Random(f"{seed}/shared ids")
        self._ids = [_uuid(shared) for _ in range(SHARED_IDS)]
        self._batches: list[Batch] = []
        self._rows: list[Row] = []

    def batch(self, index: int) -> Batch:
        """The batch with that index."""
        while len(self._batches) <= index:
            self._extend()
        return self._batches[index]

    def row_at(self, offset: int) -> Row:
        """The row that belongs at an offset of the stream."""
        while len(self._rows) <= offset:
            self._extend()
        return self._rows[offset]

    def probe(self, offset: int, rows: tuple[Row, ...], count: int) -> Batch:
        """A batch that must not be stored: `rows`, and `count` rows more that nobody planned."""
        never = f"{self.stream_id}/never"
        more = Row(never, Event(event_type="login", properties={NAME: never}))
        return Batch(-1, offset, (*rows, *[more] * count), self.keep_good)

    def _extend(self) -> None:
        index = len(self._batches)
        offset = self._batches[-1].end if self._batches else 0
        count = self._size()
        spoilt = set()
        if self._random.random() < 0.15:
            spoilt = {self._random.randrange(count) for _ in range(self._random.randint(1, 3))}
        rows = tuple(self._row(f"{self.stream_id}/{index}/{place}", bad=place in spoilt) for place in range(count))
        made = Batch(index, offset, rows, self.keep_good)
        self._batches.append(made)
        if made.fits:
            self._rows += rows

    def _size(self) -> int:
        kind = self._random.random()
        if kind < 0.15:
            return 1
        return self._random.randint(2, 30) if kind < 0.95 else self._random.randint(100, 300)

    def _row(self, name: str, *, bad: bool) -> Row:
        row = self._good(name)
        if not bad:
            return row
        reason, spoil = self._random.choice(FLAWS)
        spoil(row.event, self._start)
        return Row(name, row.event, reason)

    def _good(self, name: str) -> Row:
        chance = self._random
        event = Event(
            event_id=self._event_id(),
            event_type=chance.choice(TYPES),
            user_id=f"user-{chance.randrange(40)}" if chance.random() < 0.5 else "",
            visitor_id=f"visitor-{chance.randrange(60)}" if chance.random() < 0.8 else "",
            session_id=f"session-{chance.randrange(30)}" if chance.random() < 0.3 else "",
            site_id=chance.choice(SITES),
            product_id=f"product-{chance.randrange(20)}",
            order_id=f"order-{chance.randrange(500)}" if chance.random() < 0.7 else "",
            currency=chance.choice(CURRENCIES),
            path=f"/page/{chance.randrange(10)}",
            properties={NAME: name},
        )
        if chance.random() < 0.9:
            cents = chance.randint(-500, 50_000)
            event.price = cents / 100 if chance.random() < 0.9 else (cents * 10_000 + 4_999) / 1_000_000
        if chance.random() < 0.5:
            event.quantity = chance.randint(-2, 9)
        if chance.random() < 0.95:
            event.timestamp.FromDatetime(self._start + self._age())
        return Row(name, event)

    def _age(self) -> timedelta:
        """Mostly the last half hour, so that minutes are shared; some come late, some from clocks that are ahead."""
        kind = self._random.random()
        if kind < 0.75:
            return timedelta(microseconds=self._random.randint(-1_800_000_000, 0))
        if kind < 0.95:
            return timedelta(microseconds=self._random.randint(-3 * 86_400_000_000, 0))
        return timedelta(microseconds=self._random.randint(0, 20 * 3_600_000_000))

    def _event_id(self) -> str:
        kind = self._random.random()
        if kind < 0.12:
            return self._random.choice(self._ids)
        if kind < 0.2 and self._rows:
            earlier = self._random.choice(self._rows)
            return (not earlier.reason and earlier.event.event_id) or _uuid(self._random)
        if kind < 0.25 and not self._own_ids:
            return ""
        return _uuid(self._random)


def _uuid(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))


def _set(**fields: object) -> Callable[[Event, datetime], None]:
    def spoil(event: Event, _: datetime) -> None:
        for name, value in fields.items():
            setattr(event, name, value)

    return spoil


def _too_old(event: Event, _: datetime) -> None:
    event.timestamp.FromDatetime(datetime(1999, 12, 31, tzinfo=UTC))


def _too_new(event: Event, start: datetime) -> None:
    event.timestamp.FromDatetime(start + timedelta(days=3))


def _too_many(event: Event, _: datetime) -> None:
    event.properties.update({f"key-{place}": "" for place in range(200)})


def _nameless(event: Event, _: datetime) -> None:
    event.properties[""] = "a property without a name"


# Every way in which a row can be bad, and the reason that must come back.
FLAWS: tuple[tuple[str, Callable[[Event, datetime], None]], ...] = (
    ("MISSING_EVENT_TYPE", _set(event_type="")),
    ("INVALID_EVENT_ID", _set(event_id="not a uuid")),
    ("INVALID_PRICE", _set(price=float("nan"))),
    ("INVALID_PRICE", _set(price=float("-inf"))),
    ("INVALID_PRICE", _set(price=1e12)),
    ("INVALID_CURRENCY", _set(currency="EURO")),
    ("FIELD_TOO_LONG", _set(user_id="ü" * 300)),
    ("FIELD_TOO_LONG", _set(url="/" * 5_000)),
    ("TIMESTAMP_TOO_OLD", _too_old),
    ("TIMESTAMP_IN_FUTURE", _too_new),
    ("TOO_MANY_PROPERTIES", _too_many),
    ("INVALID_PROPERTY", _nameless),
)
