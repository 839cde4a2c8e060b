"""A place for products that nobody has touched."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from penstock.recommendations.interactions import Floats
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.text_map import FIT_PRODUCTS_MIN, fit
from tests.recommendations.world import learnt

DRAWN = np.random.default_rng(5)
TEXTS = DRAWN.normal(size=(400, 12)).astype(np.float32)
RULE = DRAWN.normal(size=(12, 8)).astype(np.float32)


def model_of(vectors: Floats) -> BehaviourModel:
    n = len(vectors)
    one = learnt([])
    neighbours = replace(one.neighbours, starts=np.zeros(n + 1, np.int64))
    products = tuple(f"{place:03}" for place in range(n))
    return BehaviourModel(products, vectors, neighbours, np.ones(n, np.float32), np.full(n, 9, np.float32))


def texts(ids: Sequence[str]) -> Floats:
    return TEXTS[[int(each) for each in ids]]


def test_what_text_says_of_behaviour_is_learnt() -> None:
    behaviour = TEXTS @ RULE + 3.0 + 0.1 * DRAWN.normal(size=(400, 8)).astype(np.float32)
    found = fit(model_of(behaviour[:300].astype(np.float32)), texts)
    assert found is not None
    assert found.gain > 0.95
    assert np.abs(found.vectors(TEXTS[300:]) - behaviour[300:]).mean() < 0.2


def test_where_text_says_nothing_there_is_no_map() -> None:
    assert fit(model_of(DRAWN.normal(size=(300, 8)).astype(np.float32)), texts) is None


@pytest.mark.parametrize("products", [0, FIT_PRODUCTS_MIN - 1])
def test_too_few_products_make_no_map(products: int) -> None:
    assert fit(model_of((TEXTS @ RULE)[:products]), texts) is None


def test_products_without_text_teach_nothing() -> None:
    model = model_of((TEXTS @ RULE)[:100])
    assert fit(model, lambda ids: np.zeros((len(ids), 12), np.float32)) is None
    some = fit(model, lambda ids: np.where(np.arange(len(ids))[:, None] % 2, texts(ids), np.float32(0)))
    assert some is not None
    assert np.allclose(some.vectors(TEXTS[200:]), (TEXTS @ RULE)[200:], atol=0.5)


def test_no_text_and_another_encoders_text_have_no_place() -> None:
    found = fit(model_of((TEXTS @ RULE)[:100]), texts)
    assert found is not None
    assert not found.vectors(np.zeros((2, 12), np.float32)).any()
    assert found.vectors(np.ones((2, 5), np.float32)).tolist() == np.zeros((2, 8)).tolist()
