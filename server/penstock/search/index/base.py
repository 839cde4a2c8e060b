"""The base: vectors that stay as they are, and a structure to find near ones without comparing all.

Not all queries need the same effort. Measured with 15,000 product names (MiniLM): for vectors like those of the base an
effort of 32 finds .994 of the ten nearest, but for 130 real queries in words, whose nearest product has a cosine of
.56, it finds .904; these need 384 to 512. So there are two efforts, and how near its nearest product is tells which a
query needs.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import cast

import faiss
import numpy as np
import numpy.typing as npt

from penstock.search.index.document import Vectors

Slots = npt.NDArray[np.int64]

# Rows of a few queries are copied together and compared; of one query and more rows than this, a bitmap over all is
# faster (2,000 rows: .14 ms copied, .29 by bitmap; 5,000: .88 and .68; but with 16 queries .15 each and .51).
GATHERED_ROWS_MAX = 3_000
GATHERED_QUERIES_MIN = 4
GATHERED_BLOCK_ROWS = 16_384  # 25 MB of 384 dimensions
LINKS = 32
NEAREST = 10
DEEP = 60
ROUGH = 4  # 8-bit scores are near enough among so many times as many
GRAPH_ROWS = 60  # rows that are compared in the time of one candidate of the graph: 5 µs against .08


class Kind(StrEnum):
    """How a base finds near vectors."""

    FLAT = "flat"
    """It compares all."""
    HNSW = "hnsw"
    """A graph of near vectors is followed."""
    IVF = "ivf"
    """Vectors in cells, as 8-bit numbers; the nearest cells are compared."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a search must look at to find nearly all: candidates of a graph, or cells. Found by measurement."""

    near: int
    """For the NEAREST of a query that is near products,"""
    deep: int
    """and for its DEEP."""
    far: int
    """For the NEAREST of one that is not; NO_FAR where no effort is enough."""
    close: float
    """A query whose nearest product has this cosine is near products."""

    def at(self, rank: int, *, far: bool) -> int:
        """What it must look at for the `rank` nearest: on the line through what was measured."""
        deeper = max(0, rank - NEAREST) / (DEEP - NEAREST)
        nearer = self.near + (self.deep - self.near) * deeper
        return int(nearer * self.far / self.near if far else nearer)


NO_FAR = 1 << 40
NO_EFFORT = Effort(1, 1, 1, 0.0)


@dataclass(frozen=True, slots=True)
class Base:
    """Unit vectors by slot, 0 and up, and how to find near ones. Nothing in it changes once it is made."""

    store: faiss.IndexFlat
    structure: faiss.Index | None
    kind: Kind
    effort: Effort
    vectors: Vectors
    """(n, d): the memory of `store`."""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        """Memory: the vectors, and what the structure adds."""
        n = len(self.vectors)
        links = {Kind.FLAT: 0, Kind.HNSW: n * (2 * LINKS + 4) * 4 + n * 12, Kind.IVF: n * (self.vectors.shape[1] + 8)}
        return int(self.vectors.nbytes + links[self.kind])

    def near(
        self, queries: Vectors, rank: int, *, far: bool = False, least: int = 0, kept: int | None = None
    ) -> tuple[Vectors, Slots]:
        """Scores and slots (q, n) by the structure, -1 where it found no more; the `rank` nearest are among them.

        The nearest come first; scores of cells are rough. `far`: the queries are not near products. `least`: so many
        are wanted, though behind the `rank` nearest some may be missed. `kept`: of a graph's, only the so many first.
        """
        assert self.structure is not None
        faiss.omp_set_num_threads(1)
        count = min(max(self.candidates(rank, far=far), least), len(self))
        if self.kind is Kind.HNSW:
            return self.structure.search(queries, min(count, kept or count), params=_graph_effort(count))
        # FAISS's own stubs do not have all that its classes have.
        looked = faiss.SearchParametersIVF(nprobe=self.effort.at(rank, far=far))  # type: ignore[call-arg]
        scores, slots = self.structure.search(queries, count, params=looked)
        return scores, slots

    def candidates(self, rank: int, *, far: bool) -> int:
        """How many vectors `near` returns for each query."""
        return max(rank, self.effort.at(rank, far=far)) if self.kind is Kind.HNSW else ROUGH * rank

    def rows(self, rank: int, *, far: bool) -> int:
        """As many rows as can be compared one after the other in the time that `near` takes."""
        if self.kind is Kind.HNSW:
            return GRAPH_ROWS * self.candidates(rank, far=far)
        return len(self) * self.effort.at(rank, far=far) // cells_for(len(self)) + GRAPH_ROWS * rank

    def exact(self, queries: Vectors, count: int, among: Slots | None) -> tuple[Vectors, Slots]:
        """(q, ≤ count) scores and slots of the nearest by comparing all, or those `among`, ascending."""
        count = min(count, len(self) if among is None else len(among))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        faiss.omp_set_num_threads(1)
        if among is None or len(among) == len(self):
            return self.store.search(queries, count)
        if len(among) <= GATHERED_ROWS_MAX or len(queries) >= GATHERED_QUERIES_MIN:
            return gathered(self.vectors, queries, count, among)
        wanted = np.zeros(len(self), np.bool_)
        wanted[among] = True
        selector = faiss.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))  # type: ignore[call-arg,arg-type]
        selected = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        return self.store.search(queries, count, params=selected)


@lru_cache(maxsize=64)
def _graph_effort(candidates: int) -> faiss.SearchParameters:
    # Searches only read it, so all may have the same; making it is one more call that lets go of the GIL.
    return faiss.SearchParametersHNSW(efSearch=candidates)  # type: ignore[attr-defined,no-any-return]


def gathered(vectors: Vectors, queries: Vectors, count: int, among: Slots) -> tuple[Vectors, Slots]:
    """(q, ≤ count) scores and slots of the nearest `among` vectors, which are copied block by block."""
    scores = np.empty((len(queries), 0), np.float32)
    slots = np.empty((len(queries), 0), np.int64)
    for first in range(0, len(among), GATHERED_BLOCK_ROWS):
        block = among[first : first + GATHERED_BLOCK_ROWS]
        found, places = faiss.knn(queries, vectors[block], min(count, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, slots = best(np.hstack([scores, found]), np.hstack([slots, block[places]]), count)
    return scores, slots


def best(scores: Vectors, slots: Slots, count: int) -> tuple[Vectors, Slots]:
    """The `count` best columns of each row, in no order."""
    if scores.shape[1] <= count:
        return scores, slots
    places = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return np.take_along_axis(scores, places, 1), np.take_along_axis(slots, places, 1)


def cells_for(rows: int) -> int:
    """How many cells vectors are put into."""
    return int(2 * rows**0.5)


def flat(vectors: Vectors) -> Base:
    """A base of unit vectors (n, d) that compares all."""
    store = faiss.IndexFlatIP(vectors.shape[1])
    store.add(vectors)
    return flat_of(store)


def flat_of(store: faiss.IndexFlat) -> Base:
    """The base around vectors."""
    return Base(store, None, Kind.FLAT, NO_EFFORT, _memory(store))


def ivf_of(store: faiss.IndexFlat, structure: faiss.Index, effort: Effort) -> Base:
    """The base around vectors and their cells."""
    return Base(store, structure, Kind.IVF, effort, _memory(store))


def hnsw_of(structure: faiss.IndexHNSWFlat, effort: Effort) -> Base:
    """The base around a graph."""
    store = cast(faiss.IndexFlat, faiss.downcast_index(structure.storage))
    return Base(store, structure, Kind.HNSW, effort, _memory(store))


def _memory(store: faiss.IndexFlat) -> Vectors:
    vectors: Vectors = faiss.rev_swig_ptr(store.get_xb(), store.ntotal * store.d).reshape(store.ntotal, store.d)
    vectors.flags.writeable = False
    return vectors
