"""Matches in order of what they are, not of how well they fit."""

from enum import StrEnum

import numpy as np

from penstock.search.index.columns import Columns
from penstock.search.index.document import Floats, Ints, Number
from penstock.search.index.filter import Matches
from penstock.search.index.products import Products


class Order(StrEnum):
    """In which order; what is equal comes by product id, what is not known comes last."""

    BROWSE = "browse"
    """The best rated first, then those rated most often."""
    PRICE_ASCENDING = "price_ascending"
    PRICE_DESCENDING = "price_descending"
    RATING = "rating"
    NEWEST = "newest"


# Each key, and whether more comes first.
_KEYS: dict[Order, tuple[tuple[Number, bool], ...]] = {
    Order.BROWSE: ((Number.RATING, True), (Number.REVIEW_COUNT, True)),
    Order.PRICE_ASCENDING: ((Number.PRICE, False),),
    Order.PRICE_DESCENDING: ((Number.PRICE, True),),
    Order.RATING: ((Number.RATING, True),),
    Order.NEWEST: ((Number.CREATED, True),),
}


def ordered(columns: Columns, products: Products, matches: Matches, order: Order, limit: int, offset: int) -> Ints:
    """The numbers of the matches from place `offset` on, at most `limit`."""
    end = offset + limit
    if limit <= 0 or offset >= matches.count:
        return np.empty(0, np.int32)
    keys = [_ascending(columns.numbers[number].view()[matches.rows], falls) for number, falls in _KEYS[order]]
    rows = np.arange(matches.count)
    if end < matches.count:
        # What cannot be on the page is not sorted: 100,000 rows take 1 ms to part and 25 ms to sort.
        last = np.partition(keys[0], end - 1)[end - 1]
        rows = np.flatnonzero(keys[0] <= last)
    ranks = products.ranks()[matches.numbers[rows]]
    keys_of_rows: list[Floats] = [key[rows] for key in reversed(keys)]
    sorted_rows = rows[np.lexsort([ranks.astype(np.float64), *keys_of_rows])]
    return matches.numbers[sorted_rows[offset:end]]


def _ascending(values: Floats, falls: bool) -> Floats:
    """Keys of which the least come first; those that are not known, last."""
    return np.where(np.isnan(values), np.inf, -values if falls else values)
