"""What searches find, measured against comparing all."""

from datetime import UTC, datetime

import numpy as np

from penstock.search.index.document import units
from penstock.search.index.status import Recall
from penstock.search.index.version import IndexVersion


def measured(version: IndexVersion, nearest: int, queries: int) -> Recall:
    """Searches for vectors of products, every second one with as much noise added as it is long.

    By score, not by id: of products with equal vectors any will do.
    """
    numbers = version.everything.numbers
    numbers = numbers[version.vector_of[numbers] >= 0]
    generator = np.random.default_rng(version.number)
    if not len(numbers) or queries < 1:
        return Recall(nearest, 1.0, 0, datetime.now(UTC))
    vectors, _ = version.vectors(numbers[generator.integers(0, len(numbers), queries)])
    noise = generator.standard_normal(vectors.shape) / version.dimensions**0.5
    noise[::2] = 0
    asked = units((vectors + noise).astype(np.float32), version.dimensions)
    wanted = min(nearest, len(numbers))
    every = version.exact_scores(asked, wanted)
    found = 0
    for query, least in zip(asked, every, strict=True):
        hits = version.nearest(query[None, :], wanted, version.everything).hits[0]
        found += int(np.count_nonzero(hits.scores >= least - 1e-6))
    return Recall(nearest, found / (queries * wanted), queries, datetime.now(UTC))
