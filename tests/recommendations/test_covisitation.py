"""What follows what."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.covisitation import (
    POPULARITY_EXPONENT,
    POPULARITY_SHRINK,
    WINDOW,
    Neighbours,
    covisitation,
)
from penstock.recommendations.interactions import Interaction, Interactions

SEQUENCES = st.lists(st.lists(st.sampled_from("abcdef"), max_size=10), max_size=5)


def learn(sequences: list[list[str]], most: int = 100, weight: float = 1.0) -> tuple[Interactions, Neighbours]:
    rows = [
        Interaction(f"user-{user}", product, weight, float(place))
        for user, sequence in enumerate(sequences)
        for place, product in enumerate(sequence)
    ]
    interactions = Interactions.of(rows)
    n = len(interactions.products)
    found = covisitation(interactions, n, interactions.weight, neighbours_max=most, check=lambda: None)
    return interactions, found


def as_dict(interactions: Interactions, neighbours: Neighbours) -> dict[tuple[str, str], float]:
    names = interactions.products
    return {
        (name, names[follower]): strength
        for place, name in enumerate(names)
        for follower, strength in zip(*(each.tolist() for each in neighbours.of(place)), strict=True)
    }


@given(SEQUENCES)
def test_pairs_within_the_window_are_counted_and_popularity_is_divided_out(sequences: list[list[str]]) -> None:
    pairs: Counter[tuple[str, str]] = Counter()
    for sequence in sequences:
        visits = [each for place, each in enumerate(sequence) if not place or sequence[place - 1] != each]
        for place, first in enumerate(visits):
            pairs.update((first, later) for later in visits[place + 1 : place + 1 + WINDOW] if later != first)
    comes: Counter[str] = Counter()
    for (_, later), count in pairs.items():
        comes[later] += count
    mean = sum(comes.values()) / max(len(comes), 1)
    expected = {
        pair: count / (comes[pair[1]] + POPULARITY_SHRINK * mean) ** POPULARITY_EXPONENT
        for pair, count in pairs.items()
    }
    found = as_dict(*learn(sequences))
    assert found.keys() == expected.keys()
    assert np.allclose([found[pair] for pair in expected], list(expected.values()))


@given(SEQUENCES, st.integers(1, 4))
def test_only_the_strongest_are_kept_and_in_order(sequences: list[list[str]], most: int) -> None:
    interactions, bounded = learn(sequences, most)
    _, whole = learn(sequences)
    for place in range(len(interactions.products)):
        assert bounded.of(place)[1].tolist() == whole.of(place)[1][:most].tolist()
        assert (np.diff(bounded.of(place)[1]) <= 0).all()


@given(SEQUENCES.filter(lambda sequences: any(sequences)), st.data())
def test_between_is_what_of_says(sequences: list[list[str]], data: st.DataObject) -> None:
    interactions, neighbours = learn(sequences)
    n = len(interactions.products)
    products = np.array(data.draw(st.lists(st.integers(-1, n - 1), max_size=6)), np.int64)
    followers = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=6)), np.int64)
    found = neighbours.between(products, followers)
    for row, product in enumerate(products.tolist()):
        strengths = dict(zip(*(each.tolist() for each in neighbours.of(product)), strict=True)) if product >= 0 else {}
        assert found[row].tolist() == [strengths.get(each, 0.0) for each in followers.tolist()]


def test_what_was_not_liked_is_left_out() -> None:
    _, neighbours = learn([["a", "b", "c"]], weight=-1.0)
    assert not len(neighbours.products)


def test_users_do_not_follow_each_other() -> None:
    assert set(as_dict(*learn([["a", "b"], ["c", "d"]]))) == {("a", "b"), ("c", "d")}
