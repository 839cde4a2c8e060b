"""A small world: a shop with two kinds of buyers, and its catalogue in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.interactions import Floats, Interaction, Interactions
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.training import TrainingBounds, train
from penstock.recommendations.user import Touched

DAY = 86_400.0
NOW = 1_700_000_000.0
TEA = tuple(f"tea-{place:02}" for place in range(12))
COFFEE = tuple(f"coffee-{place:02}" for place in range(12))
SMALL = TrainingBounds(factors=8)


@dataclass
class Shop:
    """A `Catalogue` of products with texts; those in `out` are not allowed."""

    texts: Mapping[str, Floats]  # the newest last
    out: set[str] = field(default_factory=set)
    few: bool = True  # whether `matches` ever answers

    def allowed(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        return np.array([each in self.texts and each not in self.out for each in ids], np.bool_)

    def matches(self, most: int) -> Sequence[str] | None:
        found = [each for each in self.texts if each not in self.out]
        return found if self.few and len(found) <= most else None

    def text_vectors(self, ids: Sequence[str]) -> Floats:
        size = len(next(iter(self.texts.values()))) if self.texts else 4
        return np.stack([self.texts.get(each, np.zeros(size, np.float32)) for each in ids])

    def nearest_by_text(self, vector: Floats, limit: int) -> Sequence[str]:
        found = [each for each in self.texts if each not in self.out and self.texts[each].any()]
        return sorted(found, key=lambda each: -float(self.texts[each] @ vector))[:limit]

    def newest(self, limit: int) -> Sequence[str]:
        return [each for each in reversed(list(self.texts)) if each not in self.out][:limit]


def shop(*more: str, out: Sequence[str] = (), few: bool = True) -> Shop:
    """Teas, coffees, and `more`, the newest: texts say what is tea and what is coffee, and a little of each product."""
    drawn = np.random.default_rng(7)
    texts: dict[str, Floats] = {}
    for each in (*TEA, *COFFEE, *more):
        text = drawn.normal(0, 0.2, 6)
        text[0 if each.startswith("tea") else 1] += 1.0
        texts[each] = (text / np.linalg.norm(text)).astype(np.float32)
    return Shop(texts, set(out), few)


def purchases(users: int = 40, each: int = 8, seed: int = 1) -> list[Interaction]:
    """Half of the users buy teas, the others coffees, one a day; the first ones of each kind most often."""
    drawn = np.random.default_rng(seed)
    share = 1.0 / np.arange(2, len(TEA) + 2)
    rows: list[Interaction] = []
    for user in range(users):
        kind = TEA if user % 2 == 0 else COFFEE
        for day, place in enumerate(drawn.choice(len(kind), each, replace=False, p=share / share.sum())):
            rows.append(Interaction(f"user-{user:02}", kind[place], 1.0, NOW + day * DAY + user))
    return rows


def learnt(rows: Sequence[Interaction] | None = None, bounds: TrainingBounds = SMALL) -> BehaviourModel:
    """A model of these, or of the small world."""
    return train(Interactions.of(purchases() if rows is None else rows), bounds)


def touched(*ids: str, weight: float = 1.0) -> Touched:
    """One a minute, the last one now."""
    times = NOW - 60.0 * np.arange(len(ids), dtype=np.float64)[::-1]
    return Touched(ids, np.full(len(ids), weight), times)
