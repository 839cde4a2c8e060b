"""The next version, while it is made: changes go into the store behind what versions see, and into copies."""

from collections.abc import Callable

import numpy as np

from penstock.search.index.document import Document, Ints, Vectors
from penstock.search.index.growing import extended
from penstock.search.index.version import IndexVersion

NONE = -1


Words = Callable[[], dict[str, float]]
"""Makes the terms of a product's texts, and their weights."""


class Draft:
    """A version under construction. Nobody sees what it does before `finished`; one that is dropped leaves no trace
    but unused rows."""

    def __init__(self, version: IndexVersion, changes: int) -> None:
        self._version = version
        self._store = version.store
        store = version.store
        self._row_of = extended(version.row_of, len(store.products) + changes, NONE)
        self._vector_of = extended(version.vector_of, len(store.products) + changes, NONE)
        self._text_of = extended(version.text_of, len(store.products) + changes, NONE)
        self._findable = extended(version.findable, len(store.columns) + changes, False)
        self._terms_added: list[Ints] = []
        self._terms_removed: list[Ints] = []

    def put(self, document: Document, digest: int, words: Words) -> int:
        """Writes what is known of a product, and its texts unless they are those it has; not its vector."""
        store = self._store
        number = store.products.add(document.product_id)
        if self._row_of[number] >= 0:
            self._findable[self._row_of[number]] = False
        row = store.columns.add(number, document)
        self._row_of[number] = row
        self._findable[row] = document.is_active
        slot = self._text_of[number]
        if slot < 0 or int(store.texts.digests.view()[slot]) != digest:
            self._forget_texts(number)
            slot = self._text_of[number] = store.texts.add(words(), digest)
            self._terms_added.append(store.texts.terms_of(slot))
        return number

    def set_vector(self, number: int, vector: Vectors | None) -> None:
        """Gives a product its unit vector, or takes it; the same one again costs nothing."""
        store, slot = self._store, int(self._vector_of[number])
        if vector is None:
            self._vector_of[number] = NONE
        elif slot < 0 or not np.array_equal(self._vector(slot), vector):
            self._vector_of[number] = len(store.vector_product)
            store.delta.append(vector[None, :])
            store.vector_product.add(number)

    def number(self, product_id: str) -> int | None:
        """The number of a product that is there."""
        number = self._store.products.number(product_id)
        return number if number is not None and self._row_of[number] >= 0 else None

    def delete(self, product_id: str) -> None:
        """Takes a product away, if it is there."""
        number = self.number(product_id)
        if number is not None:
            self._findable[self._row_of[number]] = False
            self._row_of[number] = self._vector_of[number] = NONE
            self._forget_texts(number)

    def finished(self, number: int, commit: int) -> IndexVersion:
        """The version."""
        store = self._store
        store.texts.seal()
        frequency = extended(self._version.frequency, len(store.texts.vocabulary), 0)
        for terms in self._terms_added:  # no term is twice in one product
            frequency[terms] += 1
        for terms in self._terms_removed:
            frequency[terms] -= 1
        products = len(store.products)
        return IndexVersion(
            store=store,
            number=number,
            commit=commit,
            row_of=self._row_of[:products],
            vector_of=self._vector_of[:products],
            text_of=self._text_of[:products],
            findable=self._findable[: len(store.columns)],
            vector_slots=len(store.vector_product),
            text_slots=len(store.texts),
            frequency=frequency,
            sealed=store.texts.sealed,
            sealed_slots=store.texts.sealed_slots,
        )

    def _vector(self, slot: int) -> Vectors:
        base = self._store.base
        vector: Vectors = base.vectors[slot] if slot < len(base) else self._store.delta.view()[slot - len(base)]
        return vector

    def _forget_texts(self, number: int) -> None:
        slot = int(self._text_of[number])
        if slot >= 0:
            self._terms_removed.append(self._store.texts.terms_of(slot))
            self._text_of[number] = NONE
