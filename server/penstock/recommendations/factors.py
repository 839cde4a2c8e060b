"""Products as vectors, from who dealt with what: alternating least squares for implicit feedback.

Hu, Koren, Volinsky: Collaborative Filtering for Implicit Feedback Datasets (2008), as in the package `implicit`: a user
who liked a product prefers it with a confidence of 1 + CONFIDENCE × weight, a user who disliked it prefers it not with
the same confidence, and about the rest little is known.

The products' vectors are used, the users' are not: a user is the mean of the products they dealt with, weighted by
recency, which is known at once after a click and, measured, ranks better (MovieLens-100K, test: HR@10 .14 for users'
own vectors, .19 for such means).
"""

from collections.abc import Callable

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares  # type: ignore[import-untyped]
from scipy import sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from penstock.recommendations.interactions import Floats, Interactions

CONFIDENCE = 2.0
REGULARIZATION = 0.01  # more is worse: NDCG@10 on validation .135 at .01, .125 at 1, .116 at 10


def product_vectors(
    interactions: Interactions,
    products: int,
    weight: Floats,
    *,
    factors: int,
    iterations: int,
    seed: int,
    threads: int,
    check: Callable[[], None],
) -> Floats:
    """A vector for each of `products`, (products, factors); all 0 for one that says nothing.

    `weight` stands beside the interactions and may be negative. Interactions of one user with one product are added up.
    Runs without the interpreter's lock; `check` is called between the iterations and may raise.
    """
    liking = _liking(interactions, products, weight)
    if not liking.nnz:
        return np.zeros((products, factors), np.float32)
    # The solver has threads of its own; those of the linear algebra beside them make it many times slower.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=REGULARIZATION,
            iterations=iterations,
            random_state=seed,
            num_threads=threads,
        )
        model.fit(liking, show_progress=False, callback=lambda *_: check())
    vectors: Floats = model.item_factors
    vectors[np.diff(liking.tocsc().indptr) == 0] = 0.0
    return vectors


def _liking(interactions: Interactions, products: int, weight: Floats) -> sparse.csr_matrix[np.float32]:
    """Users × products with signed confidences, without users of one product: they say nothing of two together."""
    users = len(interactions.users)
    added = sparse.coo_array((weight, (interactions.user, interactions.product)), shape=(users, products)).tocsr()
    added.data[np.abs(added.data) < 1e-6] = 0.0
    added.eliminate_zeros()
    added.data = (np.sign(added.data) * (1.0 + CONFIDENCE * np.abs(added.data))).astype(np.float32)
    return sparse.csr_matrix(added[np.flatnonzero(np.diff(added.indptr) > 1)])
