"""What users went on to after a product: item to item, from the order of what they did.

Of each user's interactions, in the order of time, each pair of a product and one of the next `WINDOW` others counts, by
how much the later one was liked and how long ago it was. How often a product comes after anything at all is divided out
in part: not at all, and everything leads to what is popular; wholly, and it leads to what nobody wants (MovieLens-100K,
validation, alone: NDCG@10 .109 without, .111, .108, .103 with exponents of 0.3, 0.5, 0.7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.interactions import Codes, Floats, Interactions

if TYPE_CHECKING:
    from scipy import sparse

WINDOW = 5
POPULARITY_EXPONENT = 0.4
POPULARITY_SHRINK = 0.2  # of the mean, added to what is divided by, so that a rare product is not thrown up by chance

_Pairs: TypeAlias = "sparse.csr_array[np.float32, tuple[int, int]]"


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Of each of n products those that follow it, the strongest first; those of p are at `starts[p]:starts[p + 1]`."""

    starts: NDArray[np.int64]  # n + 1
    products: Codes
    strengths: Floats  # > 0

    def of(self, product: int) -> tuple[Codes, Floats]:
        """The products that follow one, and how strongly."""
        span = slice(self.starts[product], self.starts[product + 1])
        return self.products[span], self.strengths[span]

    def between(self, products: NDArray[np.int64], followers: NDArray[np.int64]) -> Floats:
        """How strongly each of some distinct followers follows each of some products, (products, followers).

        A place of -1 is that of a product that is not known.
        """
        strengths = np.zeros((len(products), len(followers)), np.float32)
        if not len(followers):
            return strengths
        order = np.argsort(followers, kind="stable")
        places, found, values = [], [], []
        for place, product in enumerate(products.tolist()):
            if product >= 0:
                its, strength = self.of(product)
                places.append(np.full(len(its), place))
                found.append(its)
                values.append(strength)
        if places:
            all_found = np.concatenate(found)
            at = np.minimum(np.searchsorted(followers, all_found, sorter=order), len(followers) - 1)
            is_one = followers[order[at]] == all_found
            strengths[np.concatenate(places)[is_one], order[at][is_one]] = np.concatenate(values)[is_one]
        return strengths


NO_NEIGHBOURS = Neighbours(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def covisitation(
    interactions: Interactions, products: int, weight: Floats, *, neighbours_max: int, check: Callable[[], None]
) -> Neighbours:
    """The strongest `neighbours_max` of each product.

    `weight` stands beside the interactions; those of 0 and less, and repetitions right after each other, are left out.
    `check` is called between the steps and may raise. An interaction makes at most WINDOW pairs, and a pair takes some
    50 bytes at the most.
    """
    user, product, weight = _sequences(interactions, weight)
    pairs: _Pairs = _counted(np.empty(0, np.float32), user[:0], user[:0], products)
    for distance in range(1, min(WINDOW, len(user) - 1) + 1):
        check()
        first, later = product[:-distance], product[distance:]
        together = (user[:-distance] == user[distance:]) & (first != later)
        pairs = pairs + _counted(weight[distance:][together], first[together], later[together], products)
    check()
    return _strongest(_without_popularity(pairs), neighbours_max)


def _counted(weight: Floats, first: Codes, later: Codes, products: int) -> _Pairs:
    # Here, because only the worker learns, and the import takes 50 ms of CPU.
    from scipy import sparse

    return sparse.coo_array((weight, (first, later)), shape=(products, products)).tocsr()


def _sequences(interactions: Interactions, weight: Floats) -> tuple[Codes, Codes, Floats]:
    """Without what was not liked, and with one visit where a product was viewed, clicked and bought in a row."""
    liked = weight > 0
    user, product, weight = interactions.user[liked], interactions.product[liked], weight[liked]
    if not len(user):
        return user, product, weight
    begins = np.r_[True, (user[1:] != user[:-1]) | (product[1:] != product[:-1])]
    starts = np.flatnonzero(begins)
    return user[starts], product[starts], np.maximum.reduceat(weight, starts)


def _without_popularity(pairs: _Pairs) -> _Pairs:
    if not pairs.nnz:
        return pairs
    comes = np.bincount(pairs.indices, pairs.data, minlength=pairs.shape[1])
    divisor = (comes + POPULARITY_SHRINK * comes[comes > 0].mean()) ** POPULARITY_EXPONENT
    pairs.data /= divisor[pairs.indices].astype(np.float32)
    return pairs


def _strongest(pairs: _Pairs, most: int) -> Neighbours:
    counts = np.diff(pairs.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((pairs.indices, -pairs.data, row))
    place = np.arange(len(row)) - np.repeat(pairs.indptr[:-1], counts)
    order = order[place < most]
    starts = np.r_[0, np.cumsum(np.minimum(counts, most))].astype(np.int64)
    return Neighbours(starts, pairs.indices[order].astype(np.int32), pairs.data[order].astype(np.float32))
