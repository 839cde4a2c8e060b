"""Building a base: which structure, and how hard it must be searched.

What a structure finds is a promise only if it is measured. So a build ends with searches whose answers are known, with
rising effort until EFFORT_RECALL of them is found; where no effort does, the base compares all.

Measured with 20,000 × 384 vectors that are hard to index (tight clusters in 64 dimensions and noise), one core: HNSW
with 32 links that was built with an effort of 64 finds .953 of the ten nearest at a search effort of 64 (.2 ms), .993
at 512 (1.4 ms); built with 160, .997 at 64 (.3 ms), all at 256. Half the links do not (.968 at 64, built with 200). So
32 and 160, though they take 9 s where 64 takes 4. Texts and pictures are easier.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import faiss
import numpy as np
import numpy.typing as npt

from penstock.search.index.base import (
    DEEP,
    LINKS,
    NEAREST,
    NO_EFFORT,
    NO_FAR,
    ROUGH,
    Base,
    Effort,
    Kind,
    cells_for,
    flat,
    hnsw_of,
    ivf_of,
)
from penstock.search.index.document import Vectors

FLAT_ROWS_MAX = 4_000  # comparing all takes .3 ms up to here: no structure is worth its build
HNSW_ROWS_MAX = 400_000  # past it HNSW builds for more than five minutes; an inverted file takes a fifth of that
CONSTRUCTION_EFFORT = 160
BUILD_ROWS = 250  # added between two looks at whether to stop, which take half a second at most
TRAIN_ROWS_A_CELL = 40
TRAIN_ROUNDS = 6
EFFORTS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048)
CELLS_PROBED = (4, 8, 16, 32, 64, 128, 256)
EFFORT_RECALL = 0.995
EFFORT_QUERIES = 200


class BuildStopped(Exception):
    """A build was told to stop."""


def kind_for(rows: int) -> Kind:
    """How a base of so many vectors finds near ones."""
    if rows <= FLAT_ROWS_MAX:
        return Kind.FLAT
    return Kind.HNSW if rows <= HNSW_ROWS_MAX else Kind.IVF


def built(vectors: Vectors, should_stop: Callable[[], bool], kind: Kind | None = None) -> Base:
    """A base of unit vectors (n, d). Raises BuildStopped."""
    kind = kind_for(len(vectors)) if kind is None else kind
    if kind is Kind.FLAT:
        return flat(vectors)
    made = _hnsw(vectors, should_stop) if kind is Kind.HNSW else _ivf(vectors, should_stop)
    return calibrated(made, should_stop)


def calibrated(made: Base, should_stop: Callable[[], bool]) -> Base:
    """The base with the effort that it needs; one that compares all, where no effort is enough. Raises BuildStopped."""
    effort = _effort(made, should_stop)
    # Copied: the vectors of a graph are freed with it.
    return flat(made.vectors) if effort is None else replace(made, effort=effort)


def fill(structure: faiss.Index, vectors: Vectors, should_stop: Callable[[], bool]) -> None:
    """Adds vectors to what nobody searches yet. Raises BuildStopped."""
    for first in range(0, len(vectors), BUILD_ROWS):
        check(should_stop)
        faiss.omp_set_num_threads(1)  # the other core is for searches
        structure.add(vectors[first : first + BUILD_ROWS])


def check(should_stop: Callable[[], bool]) -> None:
    """Raises BuildStopped when it is time to stop."""
    if should_stop():
        raise BuildStopped


def _hnsw(vectors: Vectors, should_stop: Callable[[], bool]) -> Base:
    structure = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    structure.hnsw.efConstruction = CONSTRUCTION_EFFORT
    fill(structure, vectors, should_stop)
    return hnsw_of(structure, NO_EFFORT)


def _ivf(vectors: Vectors, should_stop: Callable[[], bool]) -> Base:
    rows, dimensions = vectors.shape
    cells = cells_for(rows)
    generator = np.random.default_rng(0)
    sample = vectors[np.sort(generator.choice(rows, min(rows, cells * TRAIN_ROWS_A_CELL), replace=False))]
    centres: Vectors | None = None
    for _ in range(TRAIN_ROUNDS):  # one at a time, to stop between them
        check(should_stop)
        faiss.omp_set_num_threads(1)
        clustering = faiss.Kmeans(dimensions, cells, niter=1, spherical=True, seed=1, max_points_per_centroid=1_000_000)
        clustering.train(sample, init_centroids=centres)
        centres = clustering.centroids
    quantizer = faiss.IndexFlatIP(dimensions)
    quantizer.add(centres)
    metric = faiss.METRIC_INNER_PRODUCT
    structure = faiss.IndexIVFScalarQuantizer(
        quantizer, dimensions, cells, faiss.ScalarQuantizer.QT_8bit, metric, False
    )
    structure.train(sample)
    fill(structure, vectors, should_stop)
    store = faiss.IndexFlatIP(dimensions)
    store.add(vectors)
    return ivf_of(store, structure, NO_EFFORT)


def _effort(made: Base, should_stop: Callable[[], bool]) -> Effort | None:
    """The least efforts that find EFFORT_RECALL; None when no effort does, even of queries near products.

    Near queries: vectors of the base, half of them with as much noise added as they are long. Far ones: half with twice
    as much, half drawn from the spread of all.
    """
    generator = np.random.default_rng(0)
    dimensions = made.vectors.shape[1]
    some = made.vectors[generator.integers(0, len(made), 2 * EFFORT_QUERIES)]
    noise = generator.standard_normal((EFFORT_QUERIES, dimensions)) / dimensions**0.5
    noise[::2] = 0
    near = _units(some[:EFFORT_QUERIES] + noise)
    spread = some.mean(axis=0) + some.std(axis=0) * generator.standard_normal((EFFORT_QUERIES, dimensions))
    spread[::2] = some[EFFORT_QUERIES::2] + 2 * generator.standard_normal(spread[::2].shape) / dimensions**0.5
    far = _units(spread)
    efforts = EFFORTS if made.kind is Kind.HNSW else CELLS_PROBED
    least = _least(made, near, NEAREST, efforts, should_stop)
    deep = None if least is None else _least(made, near, DEEP, [each for each in efforts if each >= least], should_stop)
    if least is None or deep is None:
        return None
    best, _ = made.exact(near[1::2], 1, None)
    most = _least(made, far, NEAREST, [each for each in efforts if each >= least], should_stop)
    return Effort(least, deep, NO_FAR if most is None else most, float(np.quantile(best, 0.1)))


def _least(
    made: Base, queries: Vectors, rank: int, efforts: Sequence[int], should_stop: Callable[[], bool]
) -> int | None:
    rank = min(rank, len(made))
    check(should_stop)
    exact, _ = made.exact(queries, rank, None)
    least = exact.min(axis=1, keepdims=True) - 1e-6  # by score, not by slot: of equal vectors any will do
    for effort in efforts:
        check(should_stop)
        _, slots = replace(made, effort=Effort(effort, effort, effort, 0.0)).near(queries, rank)
        slots = slots[:, : ROUGH * rank]  # of a graph, more than can be among them
        scores = np.einsum("qnd,qd->qn", made.vectors[np.maximum(slots, 0)], queries)
        found = ((scores >= least) & (slots >= 0)).sum(1).clip(max=rank)
        if found.mean() >= EFFORT_RECALL * rank:
            return effort
    return None


def _units(vectors: npt.NDArray[np.floating]) -> Vectors:
    made: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made
