"""What a session is worth at a moment, and the laws by which sessions merge."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.feedback.sessions_state import (
    HALF_LIFE_S,
    INTERACTIONS_MAX,
    WEIGHTS,
    Interaction,
    InteractionType,
    SessionState,
    newest,
    packed,
    unpacked,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@st.composite
def interactions(draw: st.DrawFn, *, request_id: st.SearchStrategy[str] | None = None) -> Interaction:
    """Any interaction, of few products and often at the same time as another."""
    kind = draw(st.sampled_from(InteractionType))
    return Interaction(
        draw(request_id if request_id is not None else st.text(max_size=6)),
        draw(st.sampled_from(["p1", "p2", "a|b", "ünï:"])),
        kind,
        NOW - timedelta(microseconds=draw(st.sampled_from([0, 1, 5_000_000, 10**9]) | st.integers(0, 10**11))),
        draw(st.floats(1, 5)) if kind is InteractionType.RATING else None,
    )


many = st.lists(interactions(), max_size=30, unique_by=lambda each: each.request_id)


def view(seconds_ago: float, *, product_id: str = "p", kind: InteractionType = InteractionType.VIEW) -> Interaction:
    return Interaction(f"{product_id}{seconds_ago}", product_id, kind, NOW - timedelta(seconds=seconds_ago))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_each_type_counts_by_its_weight_and_half_of_it_after_its_half_life(kind: InteractionType) -> None:
    state = SessionState((view(0, kind=kind),))
    half_life = timedelta(seconds=HALF_LIFE_S[kind])
    assert state.weights(NOW)["p"] == WEIGHTS[kind]
    assert state.weights(NOW + half_life)["p"] == pytest.approx(WEIGHTS[kind] / 2)
    assert state.weights(NOW + 3 * half_life)["p"] == pytest.approx(WEIGHTS[kind] / 8)


def test_what_the_specification_says() -> None:
    said = {
        *[("VIEW", 0.1, 300), ("CLICK", 0.3, 600), ("ADD_TO_CART", 0.6, 1800), ("PURCHASE", 1.0, 3600)],
    }
    assert said <= {(kind.value, weight, HALF_LIFE_S[kind]) for kind, weight in WEIGHTS.items()}
    assert WEIGHTS[InteractionType.LIKE] == WEIGHTS[InteractionType.SHARE] == 0.5


@pytest.mark.parametrize(("rating", "weight"), [(1, -1), (2, -0.5), (3, 0), (4, 0.5), (5, 1), (2.9, -0.05)])
def test_a_rating_below_three_counts_against(rating: float, weight: float) -> None:
    state = SessionState((Interaction("r", "p", InteractionType.RATING, NOW, rating),))
    assert state.weights(NOW)["p"] == pytest.approx(weight)


def test_interactions_with_one_product_add_up() -> None:
    state = SessionState((view(0), view(300), view(0, product_id="q", kind=InteractionType.PURCHASE)))
    assert state.weights(NOW) == {"p": pytest.approx(0.15), "q": 1.0}


def test_one_from_the_future_is_fresh() -> None:
    assert SessionState((view(-3600),)).weights(NOW) == {"p": 0.1}


@given(interactions(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_one_says_only_fades(each: Interaction, sooner: float, later: float) -> None:
    sooner, later = sorted((sooner, later))
    first, second = (each.weight_at(NOW + timedelta(seconds=after)) for after in (sooner, later))
    assert abs(first) >= abs(second)
    assert first * second >= 0
    assert abs(first) <= abs(each.weight) <= 1


@given(many, st.randoms(use_true_random=False))
def test_order_does_not_matter(given_: list[Interaction], chance: random.Random) -> None:
    shuffled = chance.sample(given_, len(given_))
    assert newest(shuffled) == newest(given_)


@given(many, many)
def test_again_changes_nothing(given_: list[Interaction], more: list[Interaction]) -> None:
    state = newest(given_)
    assert newest([*state, *given_]) == state
    assert newest([*newest([*state, *more]), *more, *given_]) == newest([*given_, *more])


@given(st.permutations(range(2 * INTERACTIONS_MAX)), st.integers(0, 2 * INTERACTIONS_MAX))
def test_parts_merge_to_the_whole(order: list[int], cut: int) -> None:
    """Also where parts were shortened before: what was left out of a part is not among the newest of the whole."""
    whole = [view(seconds // 2) for seconds in order]
    named = [Interaction(f"{place}", "p", each.type, each.time) for place, each in enumerate(whole)]  # two at each time
    assert newest([*newest(named[:cut]), *newest(named[cut:])]) == newest(named)
    assert len(newest(named)) == INTERACTIONS_MAX


def test_the_first_of_two_with_one_name_counts() -> None:
    first, second = view(10), view(5)
    renamed = Interaction(first.request_id, "q", second.type, second.time)
    assert newest([first, renamed]) == (first,)


@given(interactions())
def test_what_is_stored_comes_back(each: Interaction) -> None:
    assert unpacked(each.request_id, packed(each)) == each


@given(interactions(), interactions())
def test_stored_texts_are_ordered_as_times_are(one: Interaction, other: Interaction) -> None:
    assert (packed(one)[:17] < packed(other)[:17]) == (one.time < other.time)


@pytest.mark.parametrize(
    ("kind", "time", "rating"),
    [
        (InteractionType.RATING, NOW, None),
        (InteractionType.VIEW, NOW, 3.0),
        (InteractionType.RATING, NOW, 5.5),
        (InteractionType.VIEW, datetime(1969, 1, 1, tzinfo=UTC), None),
        (InteractionType.VIEW, NOW.replace(tzinfo=None), None),
    ],
)
def test_what_cannot_be_is_refused(kind: InteractionType, time: datetime, rating: float | None) -> None:
    with pytest.raises(ValueError, match=r"time|rating|RATING"):
        Interaction("r", "p", kind, time, rating)
