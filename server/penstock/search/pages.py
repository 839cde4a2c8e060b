"""What pages of searches have shown, so that the pages that follow neither repeat it nor leave anything out.

A ranking that follows a graph is not the same list to every depth: with more results asked for it may find one that it
missed before. So a page is the best of what was not shown yet, in the version of the index that the first page showed.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock import limits
from penstock.errors import OutOfRange
from penstock.search.hosted import View


@dataclass(frozen=True, slots=True)
class Shown:
    """How far the pages of one search have come."""

    view: View
    product_ids: tuple[str, ...]  # in their order
    until: float  # on the clock of time.monotonic


@dataclass(slots=True)
class _Kept:
    """What is kept of one tenant."""

    searches: OrderedDict[tuple[int, bytes], Shown] = field(default_factory=OrderedDict)  # what rested most first
    versions: Counter[int] = field(default_factory=Counter)  # searches, by version
    results: int = 0

    def add(self, key: tuple[int, bytes], shown: Shown) -> None:
        self.searches[key] = shown
        self.versions[key[0]] += 1
        self.results += len(shown.product_ids)

    def drop(self, key: tuple[int, bytes]) -> None:
        self.results -= len(self.searches.pop(key).product_ids)
        self.versions[key[0]] -= 1
        if not self.versions[key[0]]:
            del self.versions[key[0]]


# How much of what is bounded a tenant has, and how much all of them may have.
_BOUNDS: tuple[tuple[Callable[[_Kept], int], int], ...] = (
    (lambda kept: len(kept.searches), limits.PAGES_SEARCHES_MAX),
    (lambda kept: len(kept.versions), limits.PAGES_VERSIONS_MAX),
    (lambda kept: kept.results, limits.PAGES_RESULTS_MAX),
)


class Pages:
    """The searches whose pages are being turned; they are kept for PAGES_S behind the last one.

    Of more than there is room for, those go that rested most of the tenant that has most: one alone may have all the
    room, and takes none of it from another that has less.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, _Kept] = {}

    def keep(self, search: bytes, view: View, product_ids: tuple[str, ...]) -> None:
        """The pages of `search` have shown these, in this version."""
        now = time.monotonic()
        kept = self._tenants.setdefault(view.products.tenant, _Kept())
        key = (view.version.number, search)
        known = kept.searches.get(key)
        if known is not None:
            if known.product_ids[: len(product_ids)] == product_ids:
                product_ids = known.product_ids  # somebody else is further on in the same pages
            kept.drop(key)
        kept.add(key, Shown(view, product_ids, now + limits.PAGES_S))
        self._drop_old(now)
        for measure, most in _BOUNDS:
            while sum(map(measure, self._tenants.values())) > most:
                self._drop_first(max(self._tenants, key=lambda tenant: measure(self._tenants[tenant])))

    def shown(self, tenant: str, version: int, search: bytes, count: int) -> Shown:
        """What the first `count` results were. Raises OutOfRange (PAGE_TOKEN_EXPIRED)."""
        kept = self._tenants.get(tenant)
        shown = kept.searches.get((version, search)) if kept is not None else None
        if shown is None or shown.until < time.monotonic() or len(shown.product_ids) < count:
            raise OutOfRange(
                "the version of the index that the first page showed is gone; begin again", reason="PAGE_TOKEN_EXPIRED"
            )
        return Shown(shown.view, shown.product_ids[:count], shown.until)

    def _drop_old(self, now: float) -> None:
        for tenant in [*self._tenants]:
            while tenant in self._tenants and next(iter(self._tenants[tenant].searches.values())).until < now:
                self._drop_first(tenant)

    def _drop_first(self, tenant: str) -> None:
        kept = self._tenants[tenant]
        kept.drop(next(iter(kept.searches)))
        if not kept.searches:
            del self._tenants[tenant]
