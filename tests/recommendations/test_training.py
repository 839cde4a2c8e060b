"""What a model learns, within which bounds."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.recommendations.interactions import Interaction, Interactions
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.training import TrainingStopped, train
from tests.recommendations.world import COFFEE, DAY, NOW, SMALL, TEA, learnt, purchases


def cosines(model: BehaviourModel, product: str) -> dict[str, float]:
    unit = model.vectors / np.maximum(np.linalg.norm(model.vectors, axis=1, keepdims=True), 1e-12)
    return dict(zip(model.products, (unit @ unit[model.places[product]]).tolist(), strict=True))


def same(one: BehaviourModel, other: BehaviourModel) -> bool:
    def arrays(model: BehaviourModel) -> list[NDArray[np.generic]]:
        near = model.neighbours
        return [model.vectors, model.popularity, model.counts, near.starts, near.products, near.strengths]

    return one.products == other.products and all(map(np.array_equal, arrays(one), arrays(other)))


def test_products_of_the_same_buyers_are_alike_and_follow_each_other() -> None:
    model = learnt()
    for one, kind, other in ((TEA[0], TEA, COFFEE), (COFFEE[1], COFFEE, TEA)):
        found = cosines(model, one)
        assert min(found[each] for each in kind[:6]) > max(found[each] for each in other)
        followers = {model.products[place] for place in model.neighbours.of(model.places[one])[0].tolist()}
        assert followers
        assert followers <= set(kind)
    assert model.parts == ("als", "covisitation", "popularity")
    assert (model.interactions, model.users, len(model)) == (320, 40, 24)


def test_the_same_rows_make_the_same_model_in_whatever_order_they_come() -> None:
    rows = purchases()
    mixed = [rows[place] for place in np.random.default_rng(3).permutation(len(rows)).tolist()]
    assert same(learnt(rows), learnt(mixed))


def test_another_seed_makes_another_model() -> None:
    assert not same(learnt(), learnt(bounds=replace(SMALL, seed=1)))


def test_what_is_disliked_is_not_like_what_else_its_user_liked() -> None:
    def buyers(weight: float) -> list[Interaction]:
        return [
            Interaction(f"more-{user}", product, weight if product == COFFEE[0] else 1.0, NOW + place)
            for user in range(20)
            for place, product in enumerate((*TEA[:4], COFFEE[0]))
        ]

    liked = cosines(learnt(purchases() + buyers(1.0)), TEA[0])[COFFEE[0]]
    disliked = cosines(learnt(purchases() + buyers(-1.0)), TEA[0])[COFFEE[0]]
    assert disliked < liked


def test_popularity_decays_and_dislike_takes_from_it_but_not_below_nothing() -> None:
    days = SMALL.popularity_half_life_days
    model = learnt(
        [
            Interaction("u", "old", 1.0, NOW),
            Interaction("u", "new", 1.0, NOW + days * DAY),
            Interaction("v", "new", -0.5, NOW + days * DAY),
            Interaction("v", "bad", -1.0, NOW + days * DAY),
        ]
    )
    assert dict(zip(model.products, model.popularity.tolist(), strict=True)) == {"old": 0.5, "new": 0.5, "bad": 0.0}


def test_nothing_makes_an_empty_model() -> None:
    model = learnt([])
    assert (len(model), model.parts, model.rows(["a"]).tolist()) == (0, (), [-1])


def test_one_interaction_makes_a_popular_product_without_a_vector() -> None:
    model = learnt([Interaction("u", "a", 1.0, NOW)])
    assert model.parts == ("popularity",)
    assert not model.vectors.any()


def test_the_bounds_hold() -> None:
    rows = purchases()
    model = learnt(rows, replace(SMALL, interactions_max=100))
    assert model.interactions == 100
    newest = sorted((row.time for row in rows), reverse=True)[:100]
    assert set(model.products) == {row.product_id for row in rows if row.time >= newest[-1]}
    model = learnt(rows, replace(SMALL, products_max=5))
    used = {each: sum(row.product_id == each for row in rows) for each in (*TEA, *COFFEE)}
    assert min(used[each] for each in model.products) >= sorted(used.values(), reverse=True)[4]
    assert len(model) == 5
    assert len(model.vectors) == 5
    assert learnt(rows, replace(SMALL, users_max=7)).users == 7
    model = learnt(rows, replace(SMALL, neighbours_max=2))
    assert max(np.diff(model.neighbours.starts)) == 2


def test_it_stops_when_it_is_told_to() -> None:
    asked = 0

    def after_ten() -> bool:
        nonlocal asked
        asked += 1
        return asked > 10

    with pytest.raises(TrainingStopped):
        train(Interactions.of(purchases()), SMALL, after_ten)
    assert asked == 11  # and not at the end of it all: there are more iterations than that


def test_a_model_travels_between_processes() -> None:
    model = learnt()
    assert same(pickle.loads(pickle.dumps(model)), model)


def test_a_model_cannot_be_changed() -> None:
    model = learnt()
    for array in (model.vectors, model.popularity, model.neighbours.strengths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
