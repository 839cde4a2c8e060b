"""What pages of searches have shown, so that the pages that follow neither repeat it nor leave anything out.

A ranking that follows a graph is not the same list to every depth: with more results asked for it may find one that it
missed before. So a page is the best of what was not shown yet, in the version of the index that the first page showed.
"""

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

from penstock import limits
from penstock.errors import OutOfRange
from penstock.search.hosted import View


@dataclass(frozen=True, slots=True)
class Shown:
    """How far the pages of one search have come."""

    view: View
    product_ids: tuple[str, ...]  # in their order
    until: float  # on the clock of time.monotonic


class Pages:
    """The searches whose pages are being turned; they are kept for PAGES_S behind the last one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, bytes], Shown] = OrderedDict()
        self._searches: Counter[tuple[str, int]] = Counter()  # by version
        self._results = 0

    def keep(self, search: bytes, view: View, product_ids: tuple[str, ...]) -> None:
        """The pages of `search` have shown these, in this version. Of too many searches those that rested most go."""
        now = time.monotonic()
        key = (view.products.tenant, view.version.number, search)
        known = self._kept.get(key)
        if known is not None:
            if known.product_ids[: len(product_ids)] == product_ids:
                product_ids = known.product_ids  # somebody else is further on in the same pages
            self._drop(key)
        self._kept[key] = Shown(view, product_ids, now + limits.PAGES_S)
        self._searches[key[:2]] += 1
        self._results += len(product_ids)
        while self._kept and (next(iter(self._kept.values())).until < now or self._too_much()):
            self._drop(next(iter(self._kept)))

    def shown(self, tenant: str, version: int, search: bytes, count: int) -> Shown:
        """What the first `count` results were. Raises OutOfRange (PAGE_TOKEN_EXPIRED)."""
        kept = self._kept.get((tenant, version, search))
        if kept is None or kept.until < time.monotonic() or len(kept.product_ids) < count:
            raise OutOfRange(
                "the version of the index that the first page showed is gone; begin again", reason="PAGE_TOKEN_EXPIRED"
            )
        return Shown(kept.view, kept.product_ids[:count], kept.until)

    def _drop(self, key: tuple[str, int, bytes]) -> None:
        self._results -= len(self._kept.pop(key).product_ids)
        self._searches[key[:2]] -= 1
        if not self._searches[key[:2]]:
            del self._searches[key[:2]]

    def _too_much(self) -> bool:
        return (
            len(self._kept) > limits.PAGES_SEARCHES_MAX
            or len(self._searches) > limits.PAGES_VERSIONS_MAX
            or self._results > limits.PAGES_RESULTS_MAX
        )
