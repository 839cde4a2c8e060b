"""Not ten times the same."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.diversity import diversified

POOLS = st.integers(0, 8).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(-50, 50), min_size=size, max_size=size).map(lambda fit: np.array(fit, np.float64)),
        st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=size, max_size=size).map(
            lambda rows: np.array(rows, np.float32).reshape(-1, 3)
        ),
    )
)


@given(POOLS, st.integers(0, 10), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_each_place_has_the_greatest_marginal_relevance(
    pool: tuple[np.ndarray, np.ndarray], limit: int, diversity: float
) -> None:
    fit, vectors = pool
    places, values = diversified(fit, vectors, limit, diversity)
    assert len(places) == len(set(places.tolist())) == min(limit, len(fit))
    span = max(fit.max() - fit.min(), 0.0) if len(fit) else 0.0
    relevance = (fit - fit.min()) / span if span else np.ones(len(fit))
    norms = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    cosine = np.maximum(vectors @ vectors.T / norms[:, None] / norms, 0.0)
    chosen: list[int] = []
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        marginal = {
            each: (1 - diversity) * relevance[each]
            - diversity * max((cosine[each, one] for one in chosen), default=0.0)
            for each in range(len(fit))
            if each not in chosen
        }
        assert value == pytest.approx(marginal[place], abs=1e-5)
        assert value == pytest.approx(max(marginal.values()), abs=1e-5)
        chosen.append(place)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(values.tolist()))
    assert all(-1.0 - 1e-6 <= value <= 1.0 + 1e-6 for value in values)


def test_a_twin_makes_place_for_something_else() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    fit = np.array([1.0, 0.9, 0.0])
    assert diversified(fit, vectors, 3, 0.0)[0].tolist() == [0, 1, 2]
    assert diversified(fit, vectors, 3, 0.6)[0].tolist() == [0, 2, 1]
