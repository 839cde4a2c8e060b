"""What a user is: products by weight, for long and for now."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from penstock.recommendations.interactions import Doubles, Interaction

HISTORY_MAX = 300  # products; all (up to 735) instead of 300 changed NDCG@10 on MovieLens-100K from .1406 to .1409
SESSION_MAX = 20  # products; what comes after has a weight of 0.7^20, a thousandth
HISTORY_HALF_LIFE_DAYS = 90.0
# The k-th newest product counts 1/√k beside its age: a hundred products of one sitting have one age, and still the last
# ones say more (validation NDCG@10: .135 without, .139, .141, .139 with exponents of 0.25, 0.5, 0.75).
HISTORY_PLACE_EXPONENT = 0.5
SESSION_WEIGHT_MIN = 1e-6  # what has faded further is over: a view after an hour and a half, a purchase after a day
SESSION_ALPHA = 0.3  # of the moving average: each product counts 0.7 of the one after it. Best of .2, .25, .3


@dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """Interactions of one user, in any order; of those with the same time the later ones are the newer."""

    ids: tuple[str, ...]
    weights: Doubles  # signed, see interactions.Interaction
    times: Doubles  # seconds since 1970

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.weights) == len(self.times):
            raise ValueError("ids, weights and times are of one length")

    @classmethod
    def of(cls, rows: Iterable[Interaction]) -> "Touched":
        """From rows of one user."""
        kept = list(rows)
        return cls(
            tuple(row.product_id for row in kept),
            np.array([row.weight for row in kept], np.float64),
            np.array([row.time for row in kept], np.float64),
        )

    def __len__(self) -> int:
        return len(self.ids)


NOTHING = Touched((), np.empty(0), np.empty(0))


@dataclass(frozen=True, slots=True, eq=False)
class UserState:
    """What is known of a user. What they have seen is `seen` and all that they touched."""

    history: Touched = NOTHING  # stored, undecayed; more than HISTORY_MAX products are of no use but for what was seen
    session: Touched = NOTHING  # with the weights that the session's half-lives have left
    seen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Distinct products, the newest first, each with a weight, of which the greatest is 1 or -1."""

    ids: tuple[str, ...] = ()
    weights: Doubles = field(default_factory=lambda: np.empty(0))

    @property
    def likes(self) -> bool:
        """Whether anything in it is liked: of dislikes alone nothing follows that could be recommended."""
        return bool((self.weights > 0).any())


def long_term(history: Touched) -> Profile:
    """What a user has liked for long. Ages count from the user's own newest interaction: only proportions matter."""
    if not len(history):
        return Profile()
    age_days = (history.times.max() - history.times) / 86_400.0
    ids, weights = _by_product(history, history.weights * np.exp2(-age_days / HISTORY_HALF_LIFE_DAYS), HISTORY_MAX)
    return _profile(ids, weights * (1.0 + np.arange(len(ids))) ** -HISTORY_PLACE_EXPONENT)


def session(touched: Touched) -> Profile:
    """What a user does now: an exponential moving average over the session's products, the last touched first."""
    ids, weights = _by_product(touched, touched.weights, SESSION_MAX)
    if not len(ids) or np.abs(weights).max() < SESSION_WEIGHT_MIN:
        return Profile()
    return _profile(ids, weights * (1.0 - SESSION_ALPHA) ** np.arange(len(ids)))


def _profile(ids: tuple[str, ...], weights: Doubles) -> Profile:
    greatest = float(np.abs(weights).max(initial=0.0))
    return Profile(ids, weights / greatest) if greatest > 0 else Profile()


def _by_product(touched: Touched, weights: Doubles, most: int) -> tuple[tuple[str, ...], Doubles]:
    """The sum of each product's weights, for the `most` products that were touched last, the last one first."""
    sums: dict[str, float] = {}
    # A list beforehand: numbers of numpy, one by one, take five times as long.
    added = weights.tolist()
    for place in np.argsort(touched.times, kind="stable")[::-1].tolist():
        product = touched.ids[place]
        if product in sums:
            sums[product] += added[place]
        elif len(sums) < most:
            sums[product] = added[place]
    return tuple(sums), np.array(list(sums.values()), np.float64)
