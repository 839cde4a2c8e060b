"""The texts of products as postings: which terms a product has and with what weight.

BM25F (Robertson, Zaragoza & Taylor 2004): what a term weighs in a product is the sum over the fields of the field's
weight × how often it is there ÷ the field's length norm; it is saturated once, not by field. The norm's usual length
is a constant of each field, not the collection's average: so a product's weights depend on its texts alone, and neither
other products nor a rebuild change them.

Postings are kept by product, in arrays that only grow, and sealed from time to time: sorted by term. What is not sealed
yet is searched by looking at all of it.

tantivy was measured first (0.27, 100,000 products): the best hundred come in .2 to .7 ms, but a commit of one product
takes 7 to 190 ms, and all matches, which true totals and facets under a filter need, 16 to 48 ms for a query with a
common word, much of it in making their addresses Python objects. These arrays: see `lexical.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.search.index.document import Document, Ints, Vectors
from penstock.search.index.growing import Growing
from penstock.search.index.vocabulary import Vocabulary
from penstock.search.index.words import CODE_MARK, code, plain, stem, words

Lengths = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]

SEALED_POSTINGS = 65_536  # not sealed: looking at all takes 20 µs a term; sealing takes 5 ms


@dataclass(frozen=True, slots=True)
class Field:
    """How much a term in it counts, and how."""

    weight: float
    usual_words: float
    length_norm: float
    """0: long fields count as short ones; 1: the same term in a field of twice the length counts half."""


# From the middle of what measured alike (NDCG@10 of 130 queries with judgements, hybrid: .839 on average over titles of
# 3 and 5, norms of 0 to .6, descriptions of .3 and .7; no setting below .833 or above .843): the judgements do not tell
# these apart, so none of them was picked for being the best. Brand, labels and codes are not in them.
TITLE = Field(weight=5.0, usual_words=9.0, length_norm=0.15)
BRAND = Field(weight=2.0, usual_words=2.0, length_norm=0.0)
LABELS = Field(weight=2.0, usual_words=6.0, length_norm=0.3)
DESCRIPTION = Field(weight=0.5, usual_words=60.0, length_norm=0.45)
CODES = Field(weight=2.0, usual_words=2.0, length_norm=0.0)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Postings sorted by term."""

    terms: Ints
    """(t,): the terms that occur, ascending."""
    starts: Lengths
    """(t + 1,): where the postings of a term begin."""
    slots: Ints
    weights: Vectors

    def of(self, term: int) -> tuple[Ints, Vectors]:
        """The slots that have the term, ascending, and its weight in each."""
        # Of the terms' own type: for any other number all of them are converted first, 0.1 ms of 100,000.
        place = int(np.searchsorted(self.terms, np.int32(term)))
        if place == len(self.terms) or self.terms[place] != term:
            return self.slots[:0], self.weights[:0]
        begin, end = self.starts[place], self.starts[place + 1]
        return self.slots[begin:end], self.weights[begin:end]

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.terms.nbytes + self.starts.nbytes + self.slots.nbytes + self.weights.nbytes


def sealed(terms: Ints, slots: Ints, weights: Vectors) -> Sealed:
    """Postings in order of slot, sorted by term."""
    order = np.argsort(terms, kind="stable")
    in_order = terms[order]
    first = np.flatnonzero(np.diff(in_order, prepend=np.int32(-1)))
    return Sealed(in_order[first], np.append(first, len(in_order)).astype(np.int64), slots[order], weights[order])


class Texts:
    """The postings of all texts. One thread adds; any may read what its version has."""

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self.vocabulary = Vocabulary(terms)
        self.terms: Growing[np.int32] = Growing(np.int32)
        self.weights: Growing[np.float32] = Growing(np.float32)
        self.starts: Growing[np.int64] = Growing(np.int64)  # (slots + 1,): where the postings of a slot begin
        self.starts.add(0)
        self.digests: Growing[np.uint64] = Growing(np.uint64)
        self.sealed: tuple[Sealed, ...] = ()
        self.sealed_slots = 0

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, weights: Mapping[str, float], digest: int) -> int:
        """Adds the texts of a product, as `weighed`, and returns their slot."""
        self.terms.append([self.vocabulary.add(term) for term in weights])
        self.weights.append(list(weights.values()))
        self.starts.add(len(self.terms))
        self.digests.add(digest)
        return len(self.digests) - 1

    def fill(self, terms: Ints, weights: Vectors, lengths: Lengths, digests: Digests) -> None:
        """Takes postings in order of slot, so many of each, into what is empty, and seals them."""
        self.terms.append(terms)
        self.weights.append(weights)
        self.starts.append(np.cumsum(lengths))
        self.digests.append(digests)
        self.sealed = (sealed(terms, self.slots_of_postings(0, len(self)), weights),) if len(terms) else ()
        self.sealed_slots = len(self)

    def weights_of(self, slot: int) -> dict[str, float]:
        """The terms of a slot and their weights, as they were added."""
        begin, end = self.starts.view()[slot : slot + 2]
        names = self.vocabulary.terms
        terms = (names[term] for term in self.terms.view()[begin:end].tolist())
        return dict(zip(terms, self.weights.view()[begin:end].tolist(), strict=True))

    def terms_of(self, slot: int) -> Ints:
        """The terms of a slot."""
        begin, end = self.starts.view()[slot : slot + 2]
        return self.terms.view()[begin:end]

    def seal(self) -> None:
        """Sorts what is not sealed, when that is enough to be worth it."""
        begin = int(self.starts.view()[self.sealed_slots])
        if len(self.terms) - begin >= SEALED_POSTINGS:
            slots = self.slots_of_postings(self.sealed_slots, len(self))
            self.sealed = (*self.sealed, sealed(self.terms.view()[begin:], slots, self.weights.view()[begin:]))
            self.sealed_slots = len(self)

    def slots_of_postings(self, first: int, end: int) -> Ints:
        """Of each posting of these slots, the slot."""
        lengths = np.diff(self.starts.view()[first : end + 1])
        return np.repeat(np.arange(first, end, dtype=np.int32), lengths)

    @property
    def nbytes(self) -> int:
        """Memory, terms at a guess of 150 bytes each."""
        arrays = (self.terms, self.weights, self.starts, self.digests)
        held = sum(array.nbytes for array in arrays) + sum(each.nbytes for each in self.sealed)
        return held + 150 * len(self.vocabulary)


def weighed(document: Document) -> dict[str, float]:
    """The terms of a product and what each weighs in it."""
    weights: defaultdict[str, float] = defaultdict(float)
    for text, field in _fields(document):
        found = words(text)
        if not found:
            continue
        norm = 1.0 - field.length_norm + field.length_norm * len(found) / field.usual_words
        for word in found:
            weights[stem(word)] += field.weight / norm
    for exact in (document.product_id, *document.codes):
        if named := code(exact):
            weights[CODE_MARK + named] = 1.0
    return weights


def _fields(document: Document) -> Iterator[tuple[str, Field]]:
    yield document.title, TITLE
    yield document.brand, BRAND
    yield document.labels, LABELS
    yield plain(document.description), DESCRIPTION
    yield " ".join(document.codes), CODES
