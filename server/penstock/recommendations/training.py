"""From interactions to a model: blocking, bounded, deterministic by its seed, and it can be stopped.

What is left out, and why: EASE (Steck 2019), a dense item-to-item regression. Alone it is the best of its kind on
MovieLens-100K, but beside the two that are here it adds nothing (validation NDCG@10 .1409 without it, .1345 to .1413
with it, by its share), and it takes n² memory and n³ time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.covisitation import covisitation
from penstock.recommendations.interactions import Doubles, Floats, Interactions
from penstock.recommendations.model import EMPTY, BehaviourModel

TRAIN_INTERACTIONS_MAX = 2_000_000  # the newest; 1,000,000 of 60,000 users and 94,000 products took 21 s and 0.5 GB
TRAIN_PRODUCTS_MAX = 200_000  # the most popular; a recommendation looks at all their vectors, 64 × 4 bytes each
TRAIN_USERS_MAX = 500_000  # the most recent; each has a vector while the model is trained
NEIGHBOURS_MAX = 200  # of each product; validation NDCG@10 .141 with all, .138 with 200, .137 with 100, .134 with 50


@dataclass(frozen=True, slots=True)
class TrainingBounds:
    """What training may take, and its parameters, tuned on the validation split of MovieLens-100K."""

    interactions_max: int = TRAIN_INTERACTIONS_MAX
    products_max: int = TRAIN_PRODUCTS_MAX
    users_max: int = TRAIN_USERS_MAX
    neighbours_max: int = NEIGHBOURS_MAX
    factors: int = 64  # NDCG@10 .127 with 32, .135 with 64, .131 with 128
    iterations: int = 15
    half_life_days: float = 180.0  # of what an interaction says of products that go together
    popularity_half_life_days: float = 30.0
    seed: int = 0
    threads: int = 1  # of the factorisation


class TrainingStopped(Exception):
    """`should_stop` said so."""


def never() -> bool:
    """Nobody wants it to stop."""
    return False


def train(
    interactions: Interactions,
    bounds: TrainingBounds = TrainingBounds(),
    should_stop: Callable[[], bool] = never,
) -> BehaviourModel:
    """Learns from interactions; a model of no products where there is nothing to learn from.

    Raises TrainingStopped within one step (an iteration of the factorisation) after `should_stop` says so.
    """
    started, now = time.monotonic(), time.time()

    def check() -> None:
        if should_stop():
            raise TrainingStopped

    check()
    kept = _bounded(interactions, bounds)
    if not len(kept):
        return EMPTY
    # Here, because only the worker learns: what factorises would take the server 0.25 s of CPU at its start.
    from penstock.recommendations.factors import product_vectors

    n = len(kept.products)
    weight = kept.weight * kept.decay(bounds.half_life_days)
    neighbours = covisitation(kept, n, weight, neighbours_max=bounds.neighbours_max, check=check)
    vectors = product_vectors(
        kept,
        n,
        weight,
        factors=bounds.factors,
        iterations=bounds.iterations,
        seed=bounds.seed,
        threads=bounds.threads,
        check=check,
    )
    popularity = _popularity(kept, kept.weight * kept.decay(bounds.popularity_half_life_days))
    there = {"als": vectors.any(), "covisitation": len(neighbours.products), "popularity": popularity.any()}
    return BehaviourModel(
        products=kept.products,
        vectors=vectors,
        neighbours=neighbours,
        popularity=popularity,
        counts=np.bincount(kept.product, minlength=n).astype(np.float32),
        parts=tuple(part for part, is_there in there.items() if is_there),
        interactions=len(kept),
        users=len(np.unique(kept.user)),
        trained_at=now,
        train_ms=(time.monotonic() - started) * 1e3,
    )


def _popularity(interactions: Interactions, weight: Floats) -> Floats:
    """By product; who dislikes a product takes from it, but not below nothing."""
    added = np.bincount(interactions.product, weight, minlength=len(interactions.products))
    return np.maximum(added, 0.0).astype(np.float32)


def _bounded(interactions: Interactions, bounds: TrainingBounds) -> Interactions:
    """Within the bounds, with codes for only the products that are left."""
    kept = interactions.newest(bounds.interactions_max)
    last = np.full(len(kept.users), -np.inf)
    np.maximum.at(last, kept.user, kept.time)
    kept = kept.where(_greatest(last, bounds.users_max)[kept.user])
    used = np.bincount(kept.product, minlength=len(kept.products)).astype(np.float64)
    chosen = _greatest(used, bounds.products_max) & (used > 0)
    kept = kept.where(chosen[kept.product])
    code = (np.cumsum(chosen) - 1).astype(np.int32)
    products = tuple(product for product, is_chosen in zip(kept.products, chosen.tolist(), strict=True) if is_chosen)
    return Interactions(kept.users, products, kept.user, code[kept.product], kept.weight, kept.time)


def _greatest(values: Doubles, most: int) -> NDArray[np.bool_]:
    chosen = np.ones(len(values), np.bool_)
    if len(values) > most:
        chosen[np.argsort(-values, kind="stable")[most:]] = False
    return chosen
