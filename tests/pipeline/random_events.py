"""Random events that meet each other: few people, few ids, an hour or two, some late, some sent twice."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from tests.pipeline.bronze import Sent, at

_TYPES = ("page_view", "pageview", "view", "add_to_cart", "purchase", "refund", "search")


def event(chance: random.Random) -> Sent:
    """One event."""
    has_price = chance.random() < 0.7
    return Sent(
        event_type=chance.choice(_TYPES),
        event_id=uuid.UUID(int=chance.getrandbits(128), version=4),
        # Coarse, so that silences of exactly 30 minutes and events of one moment occur.
        event_time=at(chance.randrange(-40, 40) * 300 + chance.choice((0, 0, 0.000001, 1))),
        tenant=chance.choice(("default", "default", "other")),
        user_id=chance.choice(("", "", "u1", "u2")),
        visitor_id=chance.choice(("", "a", "b", "c")),
        session_id=chance.choice(("", "", "", "x", "y")),
        site_id=chance.choice(("shop", "blog")),
        order_id=chance.choice(("", "o1", "o2", "o3")),
        price=Decimal(chance.randrange(-10_000, 1_000_000)) / 10_000 if has_price else None,
        quantity=chance.choice((None, 1, 3, -2)),
        currency=chance.choice(("", "USD", "EUR")),
        path=chance.choice(("", "/", "/a", "/b")),
        utm_source=chance.choice(("", "", "mail", "ads")),
    )


def commits(seed: int, count: int = 90) -> list[list[Sent]]:
    """`count` events and a tenth as many that take an earlier one's id, in random commits."""
    chance = random.Random(seed)
    sent = [event(chance) for _ in range(count)]
    for _ in range(count // 10):
        place = chance.randrange(len(sent))
        again = sent[chance.randrange(len(sent))]
        sent.insert(place, replace(event(chance), event_id=again.event_id, tenant=again.tenant))
        sent.insert(chance.randrange(len(sent)), again)
    return _split(chance, sent)


def _split(chance: random.Random, sent: Sequence[Sent]) -> list[list[Sent]]:
    parts: list[list[Sent]] = []
    rest = list(sent)
    while rest:
        size = chance.randrange(1, 40)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts
