"""What a ranking asks the catalogue."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.interactions import Floats


class Catalogue(Protocol):
    """One version of the catalogue as one request sees it: its filters, and the category if it asks for one, are bound.

    A product is allowed when it is there, active, in stock, and passes the filters.
    """

    def allowed(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the products are allowed; False for an unknown one. Asked for hundreds at a time."""
        ...

    def matches(self, most: int) -> Sequence[str] | None:
        """All that are allowed, in any order, when they are at most `most`; otherwise None."""
        ...

    def text_vectors(self, ids: Sequence[str]) -> Floats:
        """A unit vector of each product's text, (len(ids), d); all 0 where there is none, or no such product."""
        ...

    def nearest_by_text(self, vector: Floats, limit: int) -> Sequence[str]:
        """At most `limit` allowed products, those with the greatest product of their text vector and `vector` first."""
        ...

    def newest(self, limit: int) -> Sequence[str]:
        """At most `limit` allowed products, the newest first."""
        ...
