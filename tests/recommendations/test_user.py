"""What a user is."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.interactions import Interaction
from penstock.recommendations.user import (
    HISTORY_HALF_LIFE_DAYS,
    HISTORY_MAX,
    SESSION_ALPHA,
    SESSION_MAX,
    Profile,
    Touched,
    long_term,
    session,
)
from tests.recommendations.world import DAY, NOW, touched

TOUCHES = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from([-1.0, 0.1, 0.5, 1.0]), st.integers(0, 10**7)),
    min_size=1,
    max_size=20,
    unique_by=lambda touch: touch[2],
)


def of(touches: list[tuple[str, float, int]]) -> Touched:
    return Touched.of([Interaction("u", product, weight, float(time)) for product, weight, time in touches])


def by_id(profile: Profile) -> dict[str, float]:
    return dict(zip(profile.ids, profile.weights.tolist(), strict=True))


def test_a_session_is_a_moving_average_the_newest_first() -> None:
    found = session(touched("a", "b", "c"))
    assert found.ids == ("c", "b", "a")
    assert found.weights.tolist() == pytest.approx([(1 - SESSION_ALPHA) ** place for place in range(3)])


def test_a_product_stands_where_it_was_touched_last_with_all_that_was_done() -> None:
    found = session(Touched(("a", "b", "a"), np.array([0.1, 0.3, 0.6]), np.array([1.0, 2.0, 3.0])))
    assert by_id(found) == pytest.approx({"a": 1.0, "b": 0.3 * (1 - SESSION_ALPHA) / 0.7})


def test_at_one_time_the_later_one_is_the_newer() -> None:
    assert session(Touched(("a", "b"), np.ones(2), np.zeros(2))).ids == ("b", "a")


@given(TOUCHES, st.randoms())
def test_the_order_in_which_they_come_is_nothing(touches: list[tuple[str, float, int]], random: Random) -> None:
    mixed = touches[:]
    random.shuffle(mixed)
    for profile in (session, long_term):
        assert by_id(profile(of(mixed))) == pytest.approx(by_id(profile(of(touches))))


@given(TOUCHES, st.floats(1, 10**6))
def test_only_proportions_of_age_matter(touches: list[tuple[str, float, int]], later: float) -> None:
    rows = of(touches)
    moved = Touched(rows.ids, rows.weights, rows.times + later)
    assert long_term(moved).weights.tolist() == pytest.approx(long_term(rows).weights.tolist(), rel=1e-6)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20, unique=True))
def test_the_older_the_less(days: list[int]) -> None:
    ids = tuple(f"product-{day}" for day in days)
    found = long_term(Touched(ids, np.ones(len(ids)), NOW + DAY * np.array(days, np.float64)))
    assert found.ids == tuple(f"product-{day}" for day in sorted(days, reverse=True))
    assert (np.diff(found.weights) < 0).all()


def test_half_is_left_of_a_history_after_its_half_life() -> None:
    found = long_term(Touched(("a", "b"), np.ones(2), np.array([NOW, NOW + HISTORY_HALF_LIFE_DAYS * DAY])))
    assert by_id(found) == pytest.approx({"b": 1.0, "a": 0.5 / np.sqrt(2)})


def test_only_the_newest_products_count() -> None:
    many = touched(*(f"product-{place}" for place in range(HISTORY_MAX + 50)))
    assert len(long_term(many).ids) == HISTORY_MAX
    assert session(many).ids == tuple(reversed(many.ids[-SESSION_MAX:]))


@pytest.mark.parametrize("faded", [1.0, 1e-3, 1e-5])
def test_how_far_a_session_has_faded_changes_nothing_until_it_is_over(faded: float) -> None:
    rows = Touched(("a", "b"), np.array([1.0, -0.5]), np.array([1.0, 2.0]))
    later = session(Touched(rows.ids, rows.weights * faded, rows.times))
    assert by_id(later) == pytest.approx(by_id(session(rows)))
    assert not session(Touched(rows.ids, rows.weights * 1e-7, rows.times)).ids


def test_dislikes_alone_are_nothing_to_go_by() -> None:
    assert not session(touched("a", weight=-1.0)).likes
    assert not long_term(touched()).likes
    assert session(touched("a")).likes
