"""Which products are ranked at all: a bounded number, of which every one is allowed.

Where the filters leave few products, these are all of them. Where they leave many, those that fit best by behaviour,
asked for by falling fit until enough of them are allowed, and those whose text is nearest, for the sake of products
that nobody has touched yet.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.catalogue import Catalogue
from penstock.recommendations.interactions import Floats
from penstock.recommendations.model import BehaviourModel

FEW_MAX = 2_000  # products that are all scored where the filters leave so few
TEXT_CANDIDATES = 50
# Of the model's products the catalogue is asked about the best so many; if too few of them are allowed, about so many.
# Where more than FEW_MAX of 200,000 products are allowed, these are one of a hundred, so 200 of 20,000.
ASKED = (192, 1_024, 4_096, 20_000)


def candidates(
    model: BehaviourModel,
    catalogue: Catalogue,
    fit: Callable[[], Floats | None],
    text: Floats | None,
    excluded: frozenset[str],
    most: int,
) -> tuple[str, ...]:
    """At most FEW_MAX, or `most` and TEXT_CANDIDATES of them.

    `fit` says how well each of the model's products fits, and is asked only if that is needed; `text` is a direction.
    """
    few = catalogue.matches(FEW_MAX)
    if few is not None:
        return without(few, excluded)
    found: list[str] = []
    fits = fit()
    if fits is not None:
        found += best_allowed(model, catalogue, falling(fits, _known(model, excluded)), most)
    if text is not None:
        found += catalogue.nearest_by_text(text, TEXT_CANDIDATES if found else most + TEXT_CANDIDATES)
    return without(found, excluded)


def popular(model: BehaviourModel, catalogue: Catalogue, excluded: frozenset[str], most: int) -> tuple[str, ...]:
    """At most `most` allowed products that others like, the most popular first."""
    few = catalogue.matches(FEW_MAX)
    if few is not None:
        rows = np.sort(_known(model, without(few, excluded)))
        rows = rows[model.popularity[rows] > 0]
        order = rows[np.argsort(-model.popularity[rows], kind="stable")][:most]
        return tuple(model.products[row] for row in order.tolist())
    order = model.by_popularity[: np.count_nonzero(model.popularity)]
    order = order[np.isin(order, _known(model, excluded), invert=True)]
    return tuple(best_allowed(model, catalogue, steps(order), most))


def best_allowed(
    model: BehaviourModel, catalogue: Catalogue, order: Iterator[NDArray[np.int64]], most: int
) -> list[str]:
    """The first `most` allowed products in an order of the model's products, which comes in pieces."""
    found: list[str] = []
    while len(found) < most and (piece := next(order, None)) is not None:
        ids = [model.products[row] for row in piece.tolist()]
        allowed = catalogue.allowed(ids).tolist()
        found += [product for product, is_allowed in zip(ids, allowed, strict=True) if is_allowed]
    return found[:most]


def falling(fit: Floats, left_out: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The places of the best ASKED[-1], without some, by falling fit, in pieces; ties by their places.

    Found piece by piece, because the first is nearly always enough: to put 20,000 in order takes 3 ms, 192 take 0.1.
    """
    worst = -fit
    worst[left_out] = np.inf
    there = len(fit) - len(np.unique(left_out))
    piece = np.empty(0, np.int64)
    for before, end in pairwise((0, *ASKED)):
        left = min(end, there) - before
        if left <= 0:
            return
        worst[piece] = np.inf  # asked about already
        kept = np.sort(np.argpartition(worst, left - 1)[:left])
        piece = kept[np.argsort(worst[kept], kind="stable")]
        yield piece


def steps(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """An order in the same pieces."""
    for start, end in pairwise((0, *ASKED)):
        if start < len(order):
            yield order[start:end]


def without(ids: Iterable[str], excluded: frozenset[str]) -> tuple[str, ...]:
    """The ids, each once, without the excluded ones."""
    return tuple(product for product in dict.fromkeys(ids) if product not in excluded)


def _known(model: BehaviourModel, ids: Iterable[str]) -> NDArray[np.int64]:
    rows = model.rows(ids)
    return rows[rows >= 0]
