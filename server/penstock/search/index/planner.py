"""Finds the nearest of the products that a filter lets through, exactly or by the graph, whichever costs less.

**The graph is followed without the filter**, and what it finds is filtered afterwards. FAISS can follow it with the
matches in mind, but then nothing tells whether what it found is what there is: its recall falls to .31 at 1 % of
100,000, and with matches far from the query at any share. Without the filter there is a proof. The N nearest of all
products hold every match that is nearer than the N-th; so if `limit` of them match, these are the nearest matches. If
not, all matches are compared: a wrong guess costs time, never a result. For that, only those count that are among as
many as the graph was measured to find: it returns more, but among these it misses some, and where a query's own
neighbours do not match, the matches would all be of these (recall@10 where half of a shop's kinds match: .987, not 1).

**Which costs less** follows from the matches, which are counted, not estimated (`filter.py`). With a share s of
matches, the nearest limit / s hold `limit` of them on average (`_rank` adds room for chance), and what a base must look
at to find so many was measured when it was built. A candidate of the graph costs as much as some GRAPH_ROWS rows that
are compared one after the other.

Measured at 100,000 × 384 (the vectors of `build.py`, effort 96; limit 10; ms of one core): exact at 1 % .12, 5 % .33,
10 % .5, 20 % 1.2, 30 % 2.1; by the graph at 50 % 2.9, 90 % 1.2, all .8; recall@10 1.0 in each. 32 queries at once, all:
.6 each. With 30,000 product names and 130 queries in words, recall@10 is .997 to 1.0 at every share.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from penstock.search.index.base import GATHERED_BLOCK_ROWS, GRAPH_ROWS, Base, Kind, Slots, best, gathered
from penstock.search.index.document import Bools, Ints, Vectors
from penstock.search.index.filter import Matches
from penstock.search.index.products import Products

BATCH_QUERIES = 4  # from so many on, rows are compared with all of them at once,
BATCH_FACTOR = 2  # in half the time or less
GRAPH_CANDIDATES_MAX = 4_096
PROBE_FACTOR = 4  # from so many times the least effort on, a graph is first asked whether a query is far
SLACK = 8  # more candidates than results, so that results of equal score are in order of id


class PlanKind(StrEnum):
    """How vectors were compared."""

    EXACT = "exact"
    GRAPH = "graph"
    BROWSE = "browse"
    LEXICAL = "lexical"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which way was taken and why."""

    kind: PlanKind
    reason: str
    matches: int
    """Products that pass the filter."""
    candidates: int
    """Products that were ranked, of all queries together."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found for one query, the best first; equals in order of product id."""

    numbers: Ints
    scores: Vectors


@dataclass(frozen=True, slots=True)
class Nearest:
    """What was found for each query."""

    hits: list[Hits]
    plan: Plan


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The vectors of one version. Those of the base have the first slots, those of the delta the next."""

    base: Base
    delta: Vectors
    product_of: Ints
    """(slots,): whose vector it is, or was."""
    vector_of: Ints
    """(products,): the slot of a product's vector; -1 when it has none, or is gone."""

    def at(self, slots: Ints | Slots) -> Vectors:
        """(n, d): the vectors in these slots, copied."""
        first_of_delta = len(self.base)
        if not len(self.delta) or (len(slots) and slots.max() < first_of_delta):
            copied: Vectors = self.base.vectors[slots]
            return copied
        made = np.empty((len(slots), self.delta.shape[1]), np.float32)
        in_base = slots < first_of_delta
        made[in_base] = self.base.vectors[slots[in_base]]
        made[~in_base] = self.delta[slots[~in_base] - first_of_delta]
        return made


def nearest(
    space: VectorSpace, products: Products, queries: Vectors, limit: int, matches: Matches, sure: int | None = None
) -> Nearest:
    """The `limit` nearest matches of each unit vector (q, d), or all when there are fewer with a vector.

    `sure`: of so many the recall is as promised, of those behind it may be less; of all, if it is not given.
    """
    slots = matches.slots
    if not len(slots) or not len(queries) or limit <= 0:
        empty = Hits(np.empty(0, np.int32), np.empty(0, np.float32))
        reason = "no match has a vector" if limit > 0 else "no results were asked for"
        return Nearest([empty] * len(queries), Plan(PlanKind.EXACT, reason, matches.count, 0))
    wanted = limit + SLACK
    in_base = slots[: int(np.searchsorted(slots, len(space.base)))]
    kind, reason, scores, found = _in_base(space, queries, wanted, min(limit, sure or limit), in_base, matches)
    in_delta = slots[len(in_base) :] - len(space.base)
    if len(in_delta):
        more, places = _in_delta(space.delta, queries, wanted, in_delta)
        scores, found = (
            np.hstack([scores, more]),
            np.hstack([found, np.where(places < 0, -1, places + len(space.base))]),
        )
        scores, found = best(scores, found, wanted)
    hits = [_ranked(space, products, query, of, limit) for query, of in zip(queries, found, strict=True)]
    return Nearest(hits, Plan(kind, reason, matches.count, int((found >= 0).sum())))


def kth_scores(space: VectorSpace, queries: Vectors, count: int, matches: Matches) -> Vectors:
    """(q,): the cosine of the `count`-th nearest match, by comparing all. At least so many must have a vector."""
    slots = matches.slots
    in_base = slots[: int(np.searchsorted(slots, len(space.base)))]
    scores, _ = space.base.exact(queries, min(count, len(in_base)), in_base)
    more, _ = _in_delta(space.delta, queries, count, slots[len(in_base) :] - len(space.base))
    kth: Vectors = np.sort(np.hstack([scores, more]), axis=1)[:, -count]
    return kth


def _in_base(
    space: VectorSpace, queries: Vectors, wanted: int, sure: int, slots: Slots, matches: Matches
) -> tuple[PlanKind, str, Vectors, Slots]:
    base = space.base
    if not len(slots):
        nothing = np.empty((len(queries), 0), np.float32)
        return PlanKind.EXACT, "all matches are new", nothing, np.empty((len(queries), 0), np.int64)
    words = f"{len(slots)} of {len(base)} vectors match"
    if base.kind is Kind.FLAT:
        return PlanKind.EXACT, words, *base.exact(queries, wanted, slots)
    rank, least = _rank(base, sure, len(slots)), _rank(base, wanted - SLACK, len(slots))
    search = _Search(rank, least, min(sure, len(slots)), min(wanted - SLACK, len(slots)), wanted)
    factor = BATCH_FACTOR if len(queries) >= BATCH_QUERIES else 1
    if _costs_more(base, search, factor, len(slots), far=False):
        return PlanKind.EXACT, f"{words}: comparing them costs less", *base.exact(queries, wanted, slots)
    # Where all that is in the base matches, whatever the structure finds does.
    among = None if len(slots) == len(base) else matches
    scores, found = np.full((len(queries), wanted), -np.inf, np.float32), np.full((len(queries), wanted), -1, np.int64)
    enough, far = np.zeros(len(queries), np.bool_), _told_far(base, queries, search)
    near = np.flatnonzero(~far)
    if len(near):
        scores[near], found[near], enough[near], best_of_all = _followed(space, queries[near], search, among, far=False)
        far[near] = best_of_all < base.effort.close
    rest = np.flatnonzero(far)
    if len(rest) and not _costs_more(base, search, factor, len(slots), far=True):
        scores[rest], found[rest], enough[rest], _ = _followed(space, queries[rest], search, among, far=True)
    else:
        enough[rest] = False
    short = np.flatnonzero(~enough)
    if not len(short):
        return PlanKind.GRAPH, f"{words}: enough are among the {least} nearest", scores, found
    exact, places = base.exact(queries[short], min(wanted, len(slots)), slots)
    scores[short], found[short] = -np.inf, -1
    scores[short, : exact.shape[1]], found[short, : exact.shape[1]] = exact, places
    reason = f"{words}: {len(short)} of {len(queries)} queries are far from all, or have too few near"
    return PlanKind.EXACT, reason, scores, found


@dataclass(frozen=True, slots=True)
class _Search:
    """What the structure is asked for."""

    rank: int
    """Among so many of the nearest, hardly one of which it misses,"""
    least: int
    """and among so many that it returns,"""
    sure: int
    """so many must match among the `rank` nearest,"""
    limit: int
    """and so many among all that it returns."""
    wanted: int
    """The best so many matches are kept."""


def _costs_more(base: Base, search: _Search, factor: int, matching: int, *, far: bool) -> bool:
    """Whether following the structure costs more than comparing all that match."""
    candidates = max(base.candidates(search.rank, far=far), search.least)
    rows = max(base.rows(search.rank, far=far), GRAPH_ROWS * search.least)
    return candidates > GRAPH_CANDIDATES_MAX or factor * rows >= matching


def _told_far(base: Base, queries: Vectors, search: _Search) -> Bools:
    """(q,): whether a query is far from all, where that is known for less than it costs to look for the rest in vain.

    A graph tells by the least effort: with 200 candidates for words and meaning, .07 ms before .43 or .78."""
    if base.kind is not Kind.HNSW or max(search.rank, search.least) < PROBE_FACTOR * base.effort.near:
        return np.zeros(len(queries), np.bool_)
    scores, _ = base.near(queries, 1, kept=1)
    far: Bools = scores[:, 0] < base.effort.close
    return far


def _followed(
    space: VectorSpace, queries: Vectors, search: _Search, matches: Matches | None, *, far: bool
) -> tuple[Vectors, Slots, Bools, Vectors]:
    """The best matches (q, wanted) among what the structure finds, whether they are enough, and the best score of all.

    `matches`: None where all match. What a graph finds is then as it should be, and in order: to check and sort it all
    the same took half as long as the graph itself.
    """
    least = max(search.least, search.wanted)
    if matches is None and space.base.kind is Kind.HNSW:
        scores, found = space.base.near(queries, search.rank, far=far, least=least, kept=search.wanted)
        return *_widened(scores, found, search.wanted), _enough(found >= 0, search), scores[:, 0]
    scores, found = space.base.near(queries, search.rank, far=far, least=least)
    matching = found >= 0 if matches is None else _matching(space, found, matches)
    enough = _enough(matching, search)
    if space.base.kind is Kind.IVF:
        scores = np.einsum("qnd,qd->qn", space.base.vectors[np.maximum(found, 0)], queries)
    matched, slots = best(
        np.where(matching, scores, np.float32(-np.inf)).astype(np.float32), np.where(matching, found, -1), search.wanted
    )
    best_of_all: Vectors = np.where(found >= 0, scores, -np.inf).max(axis=1)
    return *_widened(matched, slots, search.wanted), enough, best_of_all


def _enough(matching: Bools, search: _Search) -> Bools:
    """(q,), of (q, n) whether each match, the nearest first."""
    enough: Bools = (matching.sum(axis=1) >= search.limit) & (matching[:, : search.rank].sum(axis=1) >= search.sure)
    return enough


def _widened(scores: Vectors, slots: Slots, wanted: int) -> tuple[Vectors, Slots]:
    """The same, (q, wanted): with nothing behind, where there are fewer."""
    short = wanted - scores.shape[1]
    if short <= 0:
        return scores, slots
    sides = ((0, 0), (0, short))
    return np.pad(scores, sides, constant_values=-np.inf), np.pad(slots, sides, constant_values=-1)


def _rank(base: Base, limit: int, matching: int) -> int:
    """How many of the nearest hold `limit` matches, if they match by chance: 3 standard deviations more than on
    average."""
    share = matching / len(base)
    spread = 3 * ((limit + 1) * (1 - share)) ** 0.5 + 5 * (1 - share)
    return int(np.ceil((limit + spread) / share))


def _matching(space: VectorSpace, found: Slots, matches: Matches) -> Bools:
    """(q, n): whether what was found is the vector that a match has now."""
    numbers = space.product_of[found]
    matching: Bools = (found >= 0) & matches.mask[numbers] & (space.vector_of[numbers] == found)
    return matching


def _in_delta(delta: Vectors, queries: Vectors, wanted: int, among: Slots) -> tuple[Vectors, Slots]:
    """As `Base.exact`, of vectors that came since.

    Where most rows of a block match, all of it is compared in place: while a catalogue is loaded all is delta, and to
    copy 100,000 rows takes longer than to compare them.
    """
    scores, places = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for first in range(0, len(delta), GATHERED_BLOCK_ROWS):
        begin, end = np.searchsorted(among, (first, first + GATHERED_BLOCK_ROWS))
        rows, block = among[begin:end], delta[first : first + GATHERED_BLOCK_ROWS]
        if 4 * len(rows) < len(block):
            found, at = gathered(delta, queries, min(wanted, len(rows)), rows)
        else:
            every = np.full((len(queries), len(block)), -np.inf, np.float32)
            every[:, rows - first] = (queries @ block.T)[:, rows - first]
            found, at = best(every, np.broadcast_to(np.arange(first, first + len(block)), every.shape), wanted)
        at = np.where(np.isneginf(found), -1, at)
        scores, places = best(np.hstack([scores, found]), np.hstack([places, at]), wanted)
    return scores, places


def _ranked(space: VectorSpace, products: Products, query: Vectors, slots: Slots, limit: int) -> Hits:
    slots = slots[slots >= 0]
    # Again and in float64, so that a product has the same score whichever plan found it, and equals are equal.
    return in_order(space.product_of[slots], cosines(space.at(slots), query), products, limit)


def cosines(vectors: Vectors, query: Vectors) -> Vectors:
    """(n,): of unit vectors (n, d) with one, in float64 (208 × 384: 26 µs; einsum, which casts as it goes, 73)."""
    made: Vectors = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    return made


def in_order(numbers: Ints, scores: Vectors, products: Products, limit: int) -> Hits:
    """The best `limit`, equals by product id."""
    order = np.argsort(-scores, kind="stable")
    numbers, scores = numbers[order], scores[order]
    differ = scores[1:] != scores[:-1]
    if differ.all():
        return Hits(numbers[:limit], scores[:limit])
    ends = np.flatnonzero(np.append(differ, np.True_)) + 1
    first = 0
    for end in ends.tolist():
        if end - first > 1:
            numbers[first:end] = sorted(numbers[first:end].tolist(), key=products.id)
        first = end
        if first >= limit:
            break
    return Hits(numbers[:limit], scores[:limit])
