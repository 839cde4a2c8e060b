"""How good recommendations are: what users did next, held out, and looked for in what was recommended to them.

Full ranking, no sampled candidates, products that the user had already left out: other protocols give greater figures
that cannot be compared (Krichene and Rendle: On Sampled Metrics for Item Recommendation, 2020).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.recommendations.interactions import Codes, Doubles, Interactions
from penstock.recommendations.user import Touched

CUTS = (10, 20)

# A user, what they did before (in the order of time), how many are wanted: the recommended products, the best first.
Recommender: TypeAlias = Callable[[str, Touched, int], Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What may be learnt from, and what was held out."""

    name: str
    train: Interactions
    held_out: Mapping[str, frozenset[str]]  # products by user, none that the user has in `train`


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over users, at one cut k."""

    hit_rate: float  # users with a held-out product among the first k
    ndcg: float  # gain 1 ÷ log2(1 + place) a product, as a share of the best possible
    mrr: float  # 1 ÷ place of the first one
    coverage: float  # share of the catalogue that was recommended to anyone


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome."""

    split: str
    users: int
    products: int  # of the catalogue
    at: Mapping[int, Metrics]  # by cut

    def json(self) -> str:
        """As one line of JSON."""
        values = {f"{name}@{cut}": value for cut, metrics in self.at.items() for name, value in asdict(metrics).items()}
        return orjson.dumps({"split": self.split, "users": self.users, "products": self.products, **values}).decode()

    def text(self) -> str:
        """As a small table."""
        lines = [
            f"{self.split}: {self.users:,} users, {self.products:,} products",
            "      HR      NDCG    MRR     coverage",
        ]
        lines += [
            f"@{cut:<4} {of.hit_rate:.4f}  {of.ndcg:.4f}  {of.mrr:.4f}  {of.coverage:.4f}"
            for cut, of in self.at.items()
        ]
        return "\n".join(lines)


def leave_last_out(interactions: Interactions, back: int = 1) -> Split:
    """Holds out each user's last product; with `back=2` the last but one, without the last: to tune on.

    Users with fewer than `back + 1` products stay in training only. A product counts from the first time that a user
    touched it; all that they did with it goes with it.
    """
    first = _first_touches(interactions)
    held_out: dict[str, frozenset[str]] = {}
    kept = np.ones(len(interactions), np.bool_)
    for user, span in _spans(interactions.user).items():
        firsts = span.start + np.flatnonzero(first[span])
        if len(firsts) > back:
            out = interactions.product[firsts[-back:]]
            held_out[interactions.users[user]] = frozenset({interactions.products[int(out[0])]})
            kept[span] = ~np.isin(interactions.product[span], out)
    return Split(f"leave last out, {back} back", interactions.where(kept), held_out)


def global_time_split(interactions: Interactions, share: float = 0.2) -> Split:
    """Holds out the newest `share` of all interactions: of users known from before, the products new to them."""
    if not 0 < share < 1:
        raise ValueError("share is between 0 and 1")
    if not len(interactions):
        return Split(f"global time split, {share:.0%}", interactions, {})
    before = interactions.time < np.quantile(interactions.time, 1.0 - share)
    held_out: dict[str, frozenset[str]] = {}
    for user, span in _spans(interactions.user).items():
        known = np.unique(interactions.product[span][before[span]])
        later = np.setdiff1d(interactions.product[span][~before[span]], known)
        if len(known) and len(later):
            held_out[interactions.users[user]] = frozenset(interactions.products[row] for row in later.tolist())
    return Split(f"global time split, {share:.0%}", interactions.where(before), held_out)


def histories(train: Interactions) -> Mapping[str, Touched]:
    """What each user did, in the order of time."""
    return {
        train.users[user]: Touched(
            tuple(train.products[row] for row in train.product[span].tolist()),
            train.weight[span].astype(np.float64),
            train.time[span],
        )
        for user, span in _spans(train.user).items()
    }


def evaluate(split: Split, recommender: Recommender, catalogue_size: int) -> Report:
    """Asks the recommender once for each user of whom something was held out.

    Raises ValueError where it recommends a product twice: it could so be counted twice.
    """
    before = histories(split.train)
    nothing = Touched((), np.empty(0), np.empty(0))
    sums = {cut: np.zeros(3) for cut in CUTS}
    recommended: dict[int, set[str]] = {cut: set() for cut in CUTS}
    for user, wanted in split.held_out.items():
        ids = list(recommender(user, before.get(user, nothing), max(CUTS)))[: max(CUTS)]
        if len(set(ids)) < len(ids):
            raise ValueError(f"a product was recommended to {user} twice")
        hits = np.array([product in wanted for product in ids], np.bool_)
        for cut in CUTS:
            sums[cut] += _of_one(hits[:cut], min(len(wanted), cut))
            recommended[cut].update(ids[:cut])
    users = len(split.held_out)
    at: dict[int, Metrics] = {}
    for cut in CUTS:
        hit_rate, ndcg, mrr = (sums[cut] / max(users, 1)).tolist()
        at[cut] = Metrics(hit_rate, ndcg, mrr, len(recommended[cut]) / max(catalogue_size, 1))
    return Report(split.name, users, catalogue_size, at)


def _of_one(hits: NDArray[np.bool_], best: int) -> Doubles:
    """Hit, NDCG and reciprocal rank of one user; `best` hits were possible."""
    if not hits.any():
        return np.zeros(3)
    gains = 1.0 / np.log2(np.arange(2, max(len(hits), best) + 2))
    return np.array([1.0, gains[: len(hits)][hits].sum() / gains[:best].sum(), 1.0 / (int(hits.argmax()) + 1)])


def _spans(users: Codes) -> dict[int, slice]:
    """Where each user's interactions are."""
    if not len(users):
        return {}
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    ends = np.r_[starts[1:], len(users)]
    return {int(users[start]): slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)}


def _first_touches(interactions: Interactions) -> NDArray[np.bool_]:
    """Which interactions are a user's first with their product."""
    pair = interactions.user.astype(np.int64) * max(len(interactions.products), 1) + interactions.product
    first = np.zeros(len(pair), np.bool_)
    first[np.unique(pair, return_index=True)[1]] = True
    return first
