"""The catalogue as one request for recommendations sees it: one version of the index, with its filters."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.interactions import Floats
from penstock.search.hosted import View
from penstock.search.index import Filter, InStock, Matches, Order

# What a user likes lies between products, far from each: to be sure of 50 near it, all are compared, 5 ms of 100,000.
TEXT_SURE = 10


class Shelf:
    """A `Catalogue` of what may be recommended."""

    def __init__(self, view: View, which: Filter) -> None:
        """`which` is the request's own; what is not in stock is never recommended."""
        self._version = view.version
        in_stock = any(isinstance(each, InStock) for each in which.conditions)
        self._which = which if in_stock else Filter((*which.conditions, InStock()))
        self._matches: Matches | None = None

    @property
    def found(self) -> Matches:
        """All that may be recommended."""
        if self._matches is None:
            self._matches = self._version.matching(self._which)
        return self._matches

    def allowed(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the products may be."""
        numbers = self._version.numbers_of(ids)
        known = numbers >= 0
        return known & self.found.mask[np.where(known, numbers, 0)]

    def matches(self, most: int) -> Sequence[str] | None:
        """All that may be, when they are at most `most`."""
        return self._version.product_ids(self.found.numbers) if self.found.count <= most else None

    def text_vectors(self, ids: Sequence[str]) -> Floats:
        """(len(ids), d), zeros where there is no vector."""
        vectors, has = self._version.vectors_of(ids)
        return np.where(has[:, None], vectors, np.float32(0))

    def nearest_by_text(self, vector: Floats, limit: int) -> Sequence[str]:
        """The nearest of them; behind the first TEXT_SURE some may be missed."""
        hits = self._version.nearest(vector[None, :], limit, self.found, sure=TEXT_SURE).hits[0]
        return self._version.product_ids(hits.numbers)

    def newest(self, limit: int) -> Sequence[str]:
        """The newest of them."""
        return self._version.product_ids(self._version.ordered(self.found, Order.NEWEST, limit))
