"""One version of a tenant's index: what a reader sees, for as long as it holds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from penstock.search.index.columns import Columns
from penstock.search.index.document import Bools, Floats, Ints, Number, Vectors, unit, units
from penstock.search.index.facets import FacetCounts, NumberRange, facet, number_facet
from penstock.search.index.filter import Filter, Matches, matching
from penstock.search.index.hybrid import HybridHits, fused
from penstock.search.index.lexical import TextSpace, matched, scored
from penstock.search.index.order import Order, ordered
from penstock.search.index.planner import Nearest, VectorSpace, in_order, kth_scores, nearest
from penstock.search.index.store import Store
from penstock.search.index.texts import Sealed


@dataclass(frozen=True, slots=True)
class LexicalHits:
    """What words found, the best first: codes before all, then by score, equals by product id."""

    numbers: Ints
    scores: Vectors
    """0 to 1: the share of the query that is in the product."""
    exact: Bools
    """Whether the query is the product's id or one of its codes."""
    found: Matches
    """All that have a word of the query, for facets; `found.count` is the total."""


@dataclass(frozen=True)
class IndexVersion:
    """An immutable view of a store. Products go by number: dense, and only of this version."""

    store: Store
    number: int
    """Rises with every version."""
    commit: int
    """The catalogue's, that it shows."""
    row_of: Ints
    """(products,): the row of a product, -1 when it is gone."""
    vector_of: Ints
    """(products,): the slot of its vector, -1 when it has none."""
    text_of: Ints
    """(products,): the slot of its texts, -1 when it is gone."""
    findable: Bools
    """(rows,): whether the row is that of a product, and the product active."""
    vector_slots: int
    text_slots: int
    frequency: Ints
    """(terms,): how many products have a term."""
    sealed: tuple[Sealed, ...]
    sealed_slots: int

    # --- what is in it ---

    @property
    def columns(self) -> Columns:
        """The columns, which may have more rows than this version."""
        return self.store.columns

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return int(self.store.base.vectors.shape[1])

    @property
    def product_count(self) -> int:
        """Numbers of products, of those that are gone, too."""
        return len(self.row_of)

    @cached_property
    def size(self) -> int:
        """Products that can be found."""
        return int(np.count_nonzero(self.findable))

    @cached_property
    def pending_vectors(self) -> int:
        """Of these, how many have no vector."""
        return int(np.count_nonzero(self.vector_of[self.everything.numbers] < 0))

    @cached_property
    def everything(self) -> Matches:
        """All products that can be found."""
        return matching(Filter(), self, self.size)

    def known(self, product_id: str) -> int | None:
        """The number of a product that is there, active or not."""
        number = self.store.products.number(product_id)
        if number is None or number >= len(self.row_of) or self.row_of[number] < 0:
            return None
        return number

    def numbers_of(self, product_ids: Sequence[str]) -> Ints:
        """Their numbers; -1 for those that cannot be found."""
        numbers = self.store.products.numbers(product_ids)
        there = (numbers >= 0) & (numbers < len(self.row_of))
        rows = np.full(len(numbers), -1, np.int32)
        rows[there] = self.row_of[numbers[there]]
        there = rows >= 0
        there[there] = self.findable[rows[there]]
        return np.where(there, numbers, np.int32(-1))

    def product_id(self, number: int) -> str:
        """The id of a number."""
        return self.store.products.id(number)

    def product_ids(self, numbers: Ints) -> list[str]:
        """The ids of numbers."""
        return self.store.products.ids(numbers)

    def pending(self, limit: int) -> list[str]:
        """Products without a vector, at most so many, those that came first before others."""
        numbers = self.everything.numbers
        return self.product_ids(numbers[self.vector_of[numbers] < 0][:limit])

    def vector(self, product_id: str) -> Vectors | None:
        """A product's unit vector; None when it has none, or is not there."""
        number = self.known(product_id)
        if number is None or self.vector_of[number] < 0:
            return None
        vector: Vectors = self._vectors.at(self.vector_of[[number]])[0]
        return vector

    def awaits_vector(self, product_id: str) -> bool:
        """Whether the product can be found, and not by its vector yet."""
        number = self.known(product_id)
        if number is None or not self.findable[self.row_of[number]]:
            return False
        return bool(self.vector_of[number] < 0)

    def vectors_of(self, product_ids: Sequence[str]) -> tuple[Vectors, Bools]:
        """(n, d) unit vectors, zeros where there is none; (n,) whether there is one."""
        numbers = [self.known(product_id) for product_id in product_ids]
        slots = np.array([-1 if number is None else self.vector_of[number] for number in numbers], np.int32)
        return self._at(slots)

    def vectors(self, numbers: Ints) -> tuple[Vectors, Bools]:
        """The same, by number."""
        return self._at(self.vector_of[numbers])

    def values(self, number: Number, numbers: Ints) -> Floats:
        """A number of each product; NaN where it is not known."""
        values: Floats = self.columns.numbers[number].view()[self.row_of[numbers]]
        return values

    def in_stock(self, numbers: Ints) -> Bools:
        """Whether each can be bought."""
        in_stock: Bools = self.columns.in_stock.view()[self.row_of[numbers]]
        return in_stock

    def keyword(self, name: str, numbers: Ints) -> list[str]:
        """The value of each; empty where it has none."""
        keyword = self.columns.keywords.get(name)
        if keyword is None:
            return [""] * len(numbers)
        values = [*keyword.values, ""]
        return [values[code] for code in keyword.among(self.row_of[numbers]).tolist()]

    def vectors_at(self, slots: Ints) -> Vectors:
        """(n, d): the vectors in these slots."""
        return self._vectors.at(slots)

    def exact_scores(self, queries: Vectors, count: int) -> Vectors:
        """(q,): the cosine of the `count`-th nearest of all products to each unit vector, by comparing all."""
        return kth_scores(self._vectors, queries, count, self.everything)

    @property
    def nbytes(self) -> int:
        """Memory of the store and of what is this version's own, in bytes; what is on disk and mapped counts, too."""
        own = (self.row_of, self.vector_of, self.text_of, self.findable, self.frequency)
        return self.store.nbytes + sum(array.nbytes for array in own)

    # --- finding ---

    def matching(self, wanted: Filter) -> Matches:
        """The products that a filter lets through: made once, used for all that follows."""
        if not wanted.conditions:
            return self.everything
        return self.store.recent.matches(self.number, wanted, self._matching)

    def nearest(self, queries: Vectors, limit: int, matches: Matches, *, sure: int | None = None) -> Nearest:
        """The matches nearest to each of the vectors (q, d), by cosine. Raises InvalidInput (INVALID_VECTOR).

        `sure`: of so many the recall is as promised, of those behind it may be less; of all, if it is not given.
        """
        made = units(queries, self.dimensions) if len(queries) else np.empty((0, self.dimensions), np.float32)
        return nearest(self._vectors, self.store.products, made, limit, matches, sure)

    def lexical(self, query: str, limit: int, matches: Matches, *, prefix: bool = False) -> LexicalHits:
        """The matches that have words of the query; with `prefix` its last word may be the beginning of one."""
        made = scored(self._texts, query, prefix=prefix)
        found = matches.among(made.found)
        numbers = found.numbers
        scores = made.scores[numbers]
        ranks = scores if made.exact is None else scores + 2 * made.exact[numbers].astype(np.float32)
        if len(numbers) > 4 * limit:
            least = np.partition(ranks, len(ranks) - limit)[len(ranks) - limit] if limit else np.inf
            numbers, ranks = numbers[ranks >= least], ranks[ranks >= least]
        best = in_order(numbers, ranks, self.store.products, limit).numbers
        exact = np.zeros(len(best), np.bool_) if made.exact is None else made.exact[best]
        return LexicalHits(best, made.scores[best], exact, found)

    def hybrid(
        self, query: str, vector: Vectors | None, limit: int, matches: Matches, *, prefix: bool = False
    ) -> HybridHits:
        """The best matches by words and by meaning; without a vector, by words. Raises INVALID_VECTOR."""
        words = scored(self._texts, query, prefix=prefix)
        made = None if vector is None else unit(vector, self.dimensions)
        return fused(self._vectors, self.store.products, words, made, limit, matches)

    def matched_terms(self, query: str, number: int) -> list[str]:
        """The words of the query that a product has."""
        return matched(self._texts, query, int(self.text_of[number]))

    def ordered(self, matches: Matches, order: Order, limit: int, offset: int = 0) -> Ints:
        """The numbers of a page of matches in this order; equals by product id."""
        return ordered(self.columns, self.store.products, matches, order, limit, offset)

    # --- counting ---

    def facet(self, name: str, matches: Matches, limit: int) -> FacetCounts:
        """How often the values of a keyword, `category` or `in_stock` occur, the commonest first."""
        return facet(self.columns, name, matches, limit)

    def number_facet(self, number: Number, matches: Matches, bounds: Sequence[float] | None = None) -> NumberRange:
        """Least, greatest, and how many in each range between bounds (low <= number < high)."""
        return number_facet(self.columns.numbers[number].view()[matches.rows], bounds)

    def _matching(self, wanted: Filter) -> Matches:
        made = matching(wanted, self, self.size)
        # The same object, so that what follows from it is made once for both.
        return self.everything if made.count == self.size else made

    @cached_property
    def _vectors(self) -> VectorSpace:
        store = self.store
        delta = store.delta.view(self.vector_slots - len(store.base))
        return VectorSpace(store.base, delta, store.vector_product.view(self.vector_slots), self.vector_of)

    @cached_property
    def _texts(self) -> TextSpace:
        texts = self.store.texts
        return TextSpace(
            texts,
            self.sealed,
            self.sealed_slots,
            self.text_slots,
            int(texts.starts.view()[self.text_slots]),
            self.text_of,
            self.frequency,
            int(np.count_nonzero(self.text_of >= 0)),
        )

    def _at(self, slots: Ints) -> tuple[Vectors, Bools]:
        has = slots >= 0
        made = np.zeros((len(slots), self.dimensions), np.float32)
        made[has] = self._vectors.at(slots[has])
        return made, has
