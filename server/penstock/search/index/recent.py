"""What the filters that were used last let through, so that the next search with one of them need not look again.

Many searches come with the same filter, all recommendations with that of what is in stock. For 100,000 products the
matches, and what follows from them (numbers, mask, slots), take .5 to 1 ms to make.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

from penstock.search.index.filter import Except, Filter, Matches, Only

FILTERS_KEPT = 8  # each takes up to 17 bytes a product


class RecentMatches:
    """Of all versions of a store together; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, Filter], Matches] = OrderedDict()

    def matches(self, version: int, wanted: Filter, make: Callable[[Filter], Matches]) -> Matches:
        """What the filter lets through in the version with this number, made now where it is not kept.

        What names products is not kept: it is of one user, and comes once.
        """
        if any(isinstance(condition, Only | Except) for condition in wanted.conditions):
            return make(wanted)
        key = version, wanted
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make(wanted)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > FILTERS_KEPT:
                self._kept.popitem(last=False)
        return made
