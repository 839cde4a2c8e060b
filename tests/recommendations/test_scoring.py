"""Scores are on one scale, and they are the sum of what the reasons say."""

import numpy as np
import pytest

from penstock.recommendations.basis import basis_of
from penstock.recommendations.interactions import Interaction
from penstock.recommendations.parameters import Context, Parameters
from penstock.recommendations.parts import FOLLOWED, parts_of
from penstock.recommendations.request import Request
from penstock.recommendations.scoring import FOLLOWING_SHARE, behaviour_scores, products, standardised, units
from penstock.recommendations.user import Profile, UserState
from tests.recommendations.world import COFFEE, TEA, learnt, shop, touched

MODEL = learnt()
SHOP = shop()
MIXED = Profile((TEA[0], COFFEE[2], TEA[3], "unknown"), np.array([1.0, -0.5, 0.3, 2.0]))


@pytest.mark.parametrize("follows", [True, False])
def test_scores_over_all_products_are_those_of_a_dense_pass(follows: bool) -> None:
    placed = products(MIXED.ids, MODEL, None, SHOP, texts=False)
    scores = behaviour_scores(MODEL, MIXED, placed, follows=follows)
    assert scores is not None
    everything = products(MODEL.products, MODEL, None, SHOP, texts=False)
    found = scores.of(everything)
    likeness = MODEL.vectors.astype(np.float64) @ (MIXED.weights @ units(placed.vectors))
    following = MIXED.weights @ MODEL.neighbours.between(placed.rows, everything.rows)
    expected = standardised(likeness)
    if follows:
        expected = standardised(expected + FOLLOWING_SHARE * standardised(following))
    assert found == pytest.approx(expected, abs=1e-4)
    assert (found.mean(), found.std()) == (pytest.approx(0.0, abs=1e-5), pytest.approx(1.0, abs=1e-5))


def test_an_unknown_product_is_an_average_one() -> None:
    placed = products(MIXED.ids, MODEL, None, SHOP, texts=False)
    scores = behaviour_scores(MODEL, MIXED, placed, follows=True)
    assert scores is not None
    assert scores.of(products(("unknown",), MODEL, None, SHOP, texts=False)).tolist() == [0.0]


def test_of_unknown_products_behaviour_says_nothing() -> None:
    profile = Profile(("unknown",), np.ones(1))
    placed = products(profile.ids, MODEL, None, SHOP, texts=False)
    assert behaviour_scores(MODEL, profile, placed, follows=True) is None


@pytest.mark.parametrize("name", ["long_term", "session", "product"])
def test_a_score_is_the_sum_of_what_each_product_of_the_profile_gave(name: str) -> None:
    part = parts_of({name: MIXED}, MODEL, None, SHOP)[name]
    everything = products(MODEL.products, MODEL, None, SHOP, texts=False)
    assert part.behaviour is not None
    given = part.behaviour.likeness_gain * (units(part.placed.vectors) @ everything.vectors.T)
    if name in FOLLOWED:
        given += part.behaviour.following_gain * MODEL.neighbours.between(part.placed.rows, everything.rows)
    total = MIXED.weights @ given + part.behaviour.offset
    assert part.behaviour.of(everything) == pytest.approx(total, abs=1e-4)


def test_the_pass_over_the_model_orders_as_the_candidates_are_scored() -> None:
    user = UserState(touched(TEA[0], TEA[1], COFFEE[0]), touched(COFFEE[0]))
    basis = basis_of(MODEL, None, SHOP, user, Request(Context.FEED, 10), frozenset(), Parameters())
    fit = basis.fit(MODEL)
    assert fit is not None
    scored = np.sum(list(basis.weighted(products(MODEL.products, MODEL, None, SHOP, texts=False)).values()), axis=0)
    assert np.ptp(scored - fit) == pytest.approx(0.0, abs=1e-4)  # they differ by a constant


def test_what_hardly_differs_is_all_alike() -> None:
    assert standardised(np.full(5, 3.0)).tolist() == [0.0] * 5
    assert standardised(np.empty(0)).tolist() == []


def test_a_products_own_behaviour_is_believed_as_much_as_there_is_of_it() -> None:
    few = learnt([Interaction(f"u{user}", product, 1.0, 1.0 + user) for user in range(2) for product in ("a", TEA[1])])
    beliefs = [
        parts_of({"product": Profile((TEA[1],), np.ones(1))}, model, None, SHOP)["product"].belief
        for model in (learnt([]), few, MODEL)
    ]
    assert beliefs[0] == 0.0
    assert beliefs == sorted(beliefs)
    assert 0 < beliefs[1] < beliefs[2] < 1
