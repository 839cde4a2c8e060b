"""What was learnt from behaviour."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.covisitation import NO_NEIGHBOURS, Neighbours
from penstock.recommendations.interactions import Doubles, Floats

_STEP = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class BehaviourModel:
    """Made by `training.train`, never changed. n products, f factors."""

    products: tuple[str, ...]  # n, in order
    vectors: Floats  # (n, f); all 0 where nothing is known
    neighbours: Neighbours  # what follows each product
    popularity: Floats  # (n,) sum of weights, decayed, ≥ 0
    counts: Floats  # (n,) interactions, undecayed: how much a product's vector can be believed
    parts: tuple[str, ...] = ()  # of als, covisitation, popularity: what there was enough for
    interactions: int = 0  # that it was trained on
    users: int = 0
    trained_at: float = 0.0  # seconds since 1970
    train_ms: float = 0.0
    places: Mapping[str, int] = field(init=False, repr=False)  # of the products, by id
    by_popularity: NDArray[np.int64] = field(init=False, repr=False)  # places, the most popular first
    mean: Doubles = field(init=False, repr=False)  # (f,) of the vectors
    covariance: Doubles = field(init=False, repr=False)  # (f, f)

    def __post_init__(self) -> None:
        places = {product: place for place, product in enumerate(self.products)}
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "by_popularity", np.argsort(-self.popularity, kind="stable"))
        mean, covariance = _moments(self.vectors)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)
        neighbours = (self.neighbours.starts, self.neighbours.products, self.neighbours.strengths)
        for array in (self.vectors, self.popularity, self.counts, self.by_popularity, *neighbours):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.products)

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """The place of each product, -1 for one that the model does not know."""
        get = self.places.get
        return np.fromiter((get(product, -1) for product in ids), np.int64)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        neighbours = self.neighbours
        return self.vectors.nbytes + neighbours.products.nbytes + neighbours.strengths.nbytes + 3 * self.counts.nbytes


def _moments(vectors: Floats) -> tuple[Doubles, Doubles]:
    """Mean and covariance over the products, in steps that fit a cache rather than in a second copy of all vectors."""
    factors = vectors.shape[1]
    if not len(vectors):
        return np.zeros(factors), np.zeros((factors, factors))
    mean = vectors.mean(axis=0, dtype=np.float64)
    square = np.zeros((factors, factors))
    for start in range(0, len(vectors), _STEP):
        off = vectors[start : start + _STEP] - mean
        square += off.T @ off
    return mean, square / len(vectors)


EMPTY = BehaviourModel(
    (), np.empty((0, 1), np.float32), NO_NEIGHBOURS, np.empty(0, np.float32), np.empty(0, np.float32)
)
