"""Words and meaning in one order."""

from dataclasses import dataclass

import numpy as np

from penstock.search.index.document import Bools, Ints, Vectors
from penstock.search.index.filter import Matches
from penstock.search.index.lexical import Scored
from penstock.search.index.planner import Plan, PlanKind, VectorSpace, cosines, in_order, nearest
from penstock.search.index.products import Products

# NDCG@10 of 130 queries with judgements: words alone .800, vectors alone .825, shares of .3 to .6 .838 to .841.
LEXICAL_SHARE = 0.45
CANDIDATES_MIN = 200  # of words and of meaning each


@dataclass(frozen=True, slots=True)
class HybridHits:
    """What was found, the best first; equals by product id."""

    numbers: Ints
    scores: Vectors
    lexical: Vectors
    """0 to 1: the share of the query's words that is in the product."""
    similarity: Vectors
    """The cosine to the query; NaN where the product or the query has no vector."""
    exact: Bools
    """Whether the query is the product's id or one of its codes: these come first."""
    plan: Plan


def fused(
    space: VectorSpace, products: Products, words: Scored, vector: Vectors | None, limit: int, matches: Matches
) -> HybridHits:
    """The best `limit` matches by LEXICAL_SHARE × words + (1 - LEXICAL_SHARE) × cosine.

    Both are on one scale that does not depend on what else was found: the share of the query that the words answer, and
    the cosine. So all candidates of both are scored by both, and what one of them missed is not held against a product.
    Where the query or a product has no vector, words alone count, at their share. Every match is ranked: those that
    neither words nor vectors know come last, by id.
    """
    count = max(CANDIDATES_MIN, 2 * limit)
    by_words = _by_words(words, matches, count)
    plan = Plan(PlanKind.LEXICAL, "there is no vector to compare with", matches.count, len(by_words))
    by_meaning = by_words[:0]
    if vector is not None:
        near = nearest(space, products, vector[None, :], count, matches, sure=limit)
        by_meaning, plan = near.hits[0].numbers, near.plan
    numbers = np.union1d(by_words, by_meaning).astype(np.int32)
    if len(numbers) < limit:
        rest = np.setdiff1d(matches.numbers, numbers)
        first = sorted(rest.tolist(), key=products.id)[: limit - len(numbers)]
        numbers = np.concatenate([numbers, np.array(first, np.int32)])
    similarity = _similarity(space, numbers, vector)
    exact = np.zeros(len(numbers), np.bool_) if words.exact is None else words.exact[numbers]
    lexical = words.scores[numbers]
    cosine = np.where(np.isnan(similarity), np.float32(0), similarity)
    scores = (LEXICAL_SHARE * lexical + (1 - LEXICAL_SHARE) * cosine).astype(np.float32)
    best = in_order(numbers, scores + 2 * exact.astype(np.float32), products, limit).numbers
    at = _places(numbers, best)
    return HybridHits(best, scores[at], lexical[at], similarity[at], exact[at], plan)


def _by_words(words: Scored, matches: Matches, count: int) -> Ints:
    # What has a word first: it is a few of all, and often all match.
    numbers = np.flatnonzero(words.found & matches.mask).astype(np.int32)
    scores = words.scores[numbers]
    if words.exact is not None:
        scores = scores + 2 * words.exact[numbers].astype(np.float32)
    if len(numbers) > count:
        numbers = numbers[np.argpartition(-scores, count - 1)[:count]]
    return numbers


def _similarity(space: VectorSpace, numbers: Ints, vector: Vectors | None) -> Vectors:
    similarity = np.full(len(numbers), np.nan, np.float32)
    if vector is not None:
        slots = space.vector_of[numbers]
        has = slots >= 0
        similarity[has] = cosines(space.at(slots[has]), vector)
    return similarity


def _places(numbers: Ints, wanted: Ints) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    order = np.argsort(numbers)
    return order[np.searchsorted(numbers, wanted, sorter=order)]
