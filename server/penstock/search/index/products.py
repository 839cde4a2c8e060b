"""The numbers of products: dense, and the same for as long as the index is not rebuilt."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np

from penstock.search.index.document import Ints

_INSERTED_MAX = 64  # one by one into the sorted list, at 20 µs each of 100,000; more, and it is written anew


class Products:
    """Every product id that came since the last rebuild, numbered as they came. One thread adds; any may read.

    A version of the index knows the first so many of them.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._ids = list(ids)
        self._number = {product_id: number for number, product_id in enumerate(self._ids)}
        self._order = _Order()

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, product_id: str) -> int | None:
        """Its number, if it was ever there."""
        return self._number.get(product_id)

    def numbers(self, product_ids: Sequence[str]) -> Ints:
        """Of each its number, -1 if it was never there."""
        return np.fromiter(map(self._number.get, product_ids, repeat(-1)), np.int32, len(product_ids))

    def add(self, product_id: str) -> int:
        """Its number, a new one if it has none."""
        number = self._number.get(product_id)
        if number is None:
            number = len(self._ids)
            self._ids.append(product_id)
            self._number[product_id] = number
        return number

    def id(self, number: int) -> str:
        """The id of a number."""
        return self._ids[number]

    def ids(self, numbers: Ints) -> list[str]:
        """The ids of numbers."""
        ids = self._ids
        return [ids[number] for number in numbers.tolist()]

    def head(self, count: int) -> list[str]:
        """The first so many ids."""
        return self._ids[:count]

    def ranks(self) -> Ints:
        """(products,): of each its place by id, among those there are now: to put equals in order.

        A later one has more products in it, and the same order of those that were there.
        """
        return self._order.of(self._ids)


class _Order:
    """The order of ids, kept up as they come: 100,000 are sorted in 60 ms once, a few more cost microseconds each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sorted: list[str] = []
        self._numbers: Ints = np.empty(0, np.int32)
        self._ranks: Ints = np.empty(0, np.int32)

    def of(self, ids: Sequence[str]) -> Ints:
        ranks = self._ranks
        if len(ranks) == len(ids):
            return ranks
        with self._lock:
            first, count = len(self._ranks), len(ids)
            if first < count:
                self._add(ids, first, count)
            return self._ranks

    def _add(self, ids: Sequence[str], first: int, count: int) -> None:
        added = sorted(range(first, count), key=ids.__getitem__)
        places = [bisect_left(self._sorted, ids[number]) for number in added]
        self._numbers = numbers = np.insert(self._numbers, places, np.array(added, np.int32))
        if len(added) > _INSERTED_MAX:
            self._sorted = [ids[number] for number in numbers.tolist()]
        else:
            for behind, (place, number) in enumerate(zip(places, added, strict=True)):
                self._sorted.insert(place + behind, ids[number])
        ranks = np.empty(count, np.int32)
        ranks[numbers] = np.arange(count, dtype=np.int32)
        self._ranks = ranks
