"""What the versions of an index share: parts that only grow, from one rebuild to the next."""

from dataclasses import dataclass, field

import numpy as np

from penstock.search.index.base import Base, flat
from penstock.search.index.columns import Columns
from penstock.search.index.growing import Growing
from penstock.search.index.products import Products
from penstock.search.index.recent import RecentMatches
from penstock.search.index.texts import Texts


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that versions read. One thread adds to it; a version knows how much of it is its own."""

    base: Base
    delta: Growing[np.float32]
    """(rows, dimensions): unit vectors that came since the base was built; their slots follow those of the base."""
    vector_product: Growing[np.int32]
    """(slots,): the product of each vector."""
    products: Products = field(default_factory=Products)
    columns: Columns = field(default_factory=Columns)
    texts: Texts = field(default_factory=Texts)
    recent: RecentMatches = field(default_factory=RecentMatches)

    @property
    def nbytes(self) -> int:
        """Memory, ids at a guess of 200 bytes each."""
        arrays = self.delta.nbytes + self.vector_product.nbytes
        return self.base.nbytes + arrays + self.columns.nbytes + self.texts.nbytes + 200 * len(self.products)


def empty_store(dimensions: int) -> Store:
    """A store of nothing."""
    base = flat(np.empty((0, dimensions), np.float32))
    return Store(base, Growing(np.float32, dimensions), Growing(np.int32))
