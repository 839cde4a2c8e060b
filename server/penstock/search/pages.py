"""What pages of searches have shown, so that the pages that follow neither repeat it nor leave anything out.

A ranking that follows a graph is not the same list to every depth: with more results asked for it may find one that it
missed before. So a page is the best of what was not shown yet, in the version of the index that the first page showed.
"""

import time
from collections import OrderedDict
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

    def keep(self, search: bytes, view: View, product_ids: tuple[str, ...]) -> None:
        """The pages of `search` have shown these, in this version. Of too many searches those that rested most go."""
        now = time.monotonic()
        key = (view.products.tenant, view.version.number, search)
        self._kept[key] = Shown(view, product_ids, now + limits.PAGES_S)
        self._kept.move_to_end(key)
        while self._kept and (next(iter(self._kept.values())).until < now or self._too_much()):
            self._kept.popitem(last=False)

    def shown(self, tenant: str, version: int, search: bytes, count: int) -> Shown:
        """What the first `count` results were. Raises OutOfRange (PAGE_TOKEN_EXPIRED)."""
        kept = self._kept.get((tenant, version, search))
        if kept is None or kept.until < time.monotonic() or len(kept.product_ids) < count:
            raise OutOfRange(
                "the version of the index that the first page showed is gone; begin again", reason="PAGE_TOKEN_EXPIRED"
            )
        return Shown(kept.view, kept.product_ids[:count], kept.until)

    def _too_much(self) -> bool:
        versions = {(tenant, version) for tenant, version, _ in self._kept}
        results = sum(len(shown.product_ids) for shown in self._kept.values())
        return (
            len(self._kept) > limits.PAGES_SEARCHES_MAX
            or len(versions) > limits.PAGES_VERSIONS_MAX
            or results > limits.PAGES_RESULTS_MAX
        )
