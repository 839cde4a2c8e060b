"""What is recommended to whom, and what is said about it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.recommendations.evaluation import evaluate, leave_last_out
from penstock.recommendations.interactions import Interaction, Interactions
from penstock.recommendations.parameters import Context, Parameters, Weights
from penstock.recommendations.ranking import Ranking, rank
from penstock.recommendations.reasons import ReasonKind
from penstock.recommendations.request import Hits, Request
from penstock.recommendations.text_map import TextMap, fit
from penstock.recommendations.training import train
from penstock.recommendations.user import Touched, UserState
from tests.recommendations.world import COFFEE, NOW, SMALL, TEA, Shop, learnt, purchases, shop, touched

MODEL = learnt()
NOTHING_LEARNT = learnt([])
EVERYTHING = frozenset((*TEA, *COFFEE))
HITS = Hits((*COFFEE[:4], *TEA[:4]), np.linspace(1.0, 0.3, 8))
TEA_BEFORE = UserState(history=touched(*TEA[:3]))
TEA_BEFORE_COFFEE_NOW = UserState(history=touched(*TEA[:3]), session=touched(COFFEE[0]))


def ids(ranking: Ranking) -> list[str]:
    return [item.product_id for item in ranking.items]


def kinds(ranking: Ranking) -> set[ReasonKind]:
    return {item.reason.kind for item in ranking.items}


def feed(user: UserState, limit: int = 6, catalogue: Shop | None = None, **more: object) -> Ranking:
    return rank(MODEL, None, catalogue or shop(), user, replace(Request(Context.FEED, limit), **more))  # type: ignore[arg-type]


def map_of(catalogue: Shop) -> TextMap:
    found = fit(MODEL, catalogue.text_vectors)
    assert found is not None
    return found


def test_who_bought_tea_is_shown_tea_because_of_tea() -> None:
    found = feed(TEA_BEFORE)
    assert set(ids(found)) <= set(TEA[3:])
    assert len(ids(found)) == 6
    assert kinds(found) == {ReasonKind.LIKED_BEFORE}
    assert {item.reason.product_id for item in found.items} <= set(TEA[:3])
    assert found.weights == Weights(long_term=1.0)
    assert (found.session_size, found.history_size, found.reason) == (0, 3, "")


def test_the_session_has_its_share_at_once() -> None:
    found = feed(TEA_BEFORE_COFFEE_NOW, 20)
    assert found.weights == Weights(long_term=0.6, session=0.4)
    reasons = {item.product_id: item.reason for item in found.items}
    assert {reasons[each].kind for each in ids(found)[:4]} >= {ReasonKind.LIKED_BEFORE, ReasonKind.LIKED_NOW}
    now = [each for each in ids(found) if reasons[each].kind is ReasonKind.LIKED_NOW]
    assert {reasons[each].product_id for each in now[:3]} == {COFFEE[0]}
    assert set(now[:3]) <= set(COFFEE)
    assert (found.session_size, found.history_size) == (1, 4)


def test_shares_decide() -> None:
    def coffees(long_term: float, session: float) -> int:
        shares = {Context.FEED: Weights(long_term=long_term, session=session)}
        request = Request(Context.FEED, 6)
        found = rank(MODEL, None, shop(), TEA_BEFORE_COFFEE_NOW, request, Parameters(shares))
        return sum(each in COFFEE for each in ids(found))

    assert coffees(1.0, 0.0) == 0
    assert coffees(0.0, 1.0) == 6


def test_a_dislike_pushes_what_is_like_it_away() -> None:
    both = touched(TEA[0], COFFEE[0])
    neutral = ids(feed(UserState(history=both), 22))
    dislikes = Touched(both.ids, np.array([1.0, -1.0]), both.times)
    against = ids(feed(UserState(history=dislikes), 22))
    coffees = COFFEE[1:]
    assert sum(against.index(each) for each in coffees) > sum(neutral.index(each) for each in coffees)
    assert set(against[:8]) <= set(TEA)


def test_dislikes_alone_are_no_taste() -> None:
    found = feed(UserState(history=touched(*TEA[:3], weight=-1.0)))
    assert found.weights == Weights(popularity=1.0)
    assert not set(ids(found)) & set(TEA[:3])


def test_a_search_is_ranked_by_its_hits_and_by_taste() -> None:
    request = Request(Context.SEARCH, 8, query=HITS)
    nobody, somebody = (rank(MODEL, None, shop(), user, request) for user in (UserState(), TEA_BEFORE))
    assert ids(nobody)[:4] == list(COFFEE[:4])
    assert nobody.weights == Weights(query=1.0)
    assert kinds(nobody) == {ReasonKind.FITS_QUERY}
    assert somebody.weights == Weights(query=0.7, long_term=0.3)
    assert set(ids(somebody)[:5]) == {*COFFEE[:4], TEA[3]}  # the tea that is a hit and was not had yet
    assert ids(somebody).index(TEA[3]) < ids(nobody).index(TEA[3])


def test_a_search_without_hits_goes_by_taste() -> None:
    found = rank(MODEL, None, shop(), TEA_BEFORE, Request(Context.SEARCH, 4, query=Hits((), np.empty(0))))
    assert found.weights == Weights(long_term=1.0)
    assert set(ids(found)) <= set(TEA)


def test_beside_a_product_stand_those_like_it() -> None:
    found = rank(MODEL, None, shop(), UserState(), Request(Context.SIMILAR, 6, product_id=COFFEE[1]))
    assert found.weights == Weights(product=1.0)
    assert set(ids(found)) <= set(COFFEE) - {COFFEE[1]}
    assert {(item.reason.kind, item.reason.product_id) for item in found.items} == {
        (ReasonKind.LIKE_PRODUCT, COFFEE[1])
    }
    with_user = rank(MODEL, None, shop(), TEA_BEFORE, Request(Context.SIMILAR, 6, product_id=COFFEE[1]))
    assert with_user.weights == Weights(product=0.8, long_term=0.2)


def test_a_product_that_nobody_touched_is_compared_by_its_text() -> None:
    catalogue = shop("coffee-new")
    found = rank(MODEL, None, catalogue, UserState(), Request(Context.SIMILAR, 6, product_id="coffee-new"))
    assert set(ids(found)) <= set(COFFEE)
    assert kinds(found) == {ReasonKind.LIKE_PRODUCT}


def test_a_category_is_ranked_by_taste() -> None:
    catalogue = shop(out=COFFEE)
    found = rank(MODEL, None, catalogue, TEA_BEFORE_COFFEE_NOW, Request(Context.CATEGORY, 5))
    assert found.weights == Weights(long_term=1.0)
    assert set(ids(found)) <= set(TEA[3:])


def test_a_category_without_a_user_shows_what_others_like_there() -> None:
    found = rank(MODEL, None, shop(out=COFFEE), UserState(), Request(Context.CATEGORY, 3))
    assert kinds(found) == {ReasonKind.IN_CATEGORY}
    assert found.weights == Weights(popularity=1.0)
    most = sorted(TEA, key=lambda each: -MODEL.popularity[MODEL.places[each]])
    assert ids(found)[0] == most[0]


def test_a_category_without_a_history_goes_by_the_session() -> None:
    user = UserState(session=touched(TEA[0]))
    found = rank(MODEL, None, shop(), user, Request(Context.CATEGORY, 5))
    assert found.weights == Weights(session=1.0)
    assert set(ids(found)) <= set(TEA)
    assert found.reason


@pytest.mark.parametrize("few", [True, False])
def test_to_nobody_is_shown_what_is_popular(few: bool) -> None:
    found = feed(UserState(), 5, shop(few=few))
    assert found.weights == Weights(popularity=1.0)
    assert kinds(found) == {ReasonKind.POPULAR}
    assert ids(found)[0] == MODEL.products[int(MODEL.by_popularity[0])]
    assert found.reason


def test_in_a_new_shop_is_shown_what_is_new() -> None:
    found = rank(NOTHING_LEARNT, None, shop(), UserState(), Request(Context.FEED, 3))
    assert ids(found) == list(reversed(COFFEE))[:3]
    assert kinds(found) == {ReasonKind.NEW}
    assert found.weights == Weights()
    assert found.reason


def test_in_a_new_shop_a_click_is_understood_by_its_text() -> None:
    user = UserState(session=touched(TEA[5]))
    found = rank(NOTHING_LEARNT, None, shop(), user, Request(Context.FEED, 5))
    assert set(ids(found)) <= set(TEA)
    assert found.weights == Weights(session=1.0)
    assert {(item.reason.kind, item.reason.product_id) for item in found.items} == {(ReasonKind.LIKED_NOW, TEA[5])}


@pytest.mark.parametrize("few", [True, False])
def test_a_new_product_is_shown_to_whom_its_text_fits(few: bool) -> None:
    catalogue = shop("tea-new", "coffee-new", few=few)
    found = rank(MODEL, map_of(catalogue), catalogue, UserState(history=touched(*TEA[:8])), Request(Context.FEED, 12))
    assert "tea-new" in ids(found)[:6]
    assert "coffee-new" not in ids(found)[:6]


def test_a_user_of_new_products_alone_is_understood() -> None:
    catalogue = shop("tea-new", "coffee-new")
    user = UserState(session=touched("coffee-new"))
    for text_map in (map_of(catalogue), None):
        found = rank(MODEL, text_map, catalogue, user, Request(Context.FEED, 5))
        assert set(ids(found)) <= set(COFFEE)
        assert found.weights == Weights(session=1.0)


def test_what_a_list_lacks_is_filled_below_all_that_fits() -> None:
    catalogue = shop("tea-new", "coffee-new")
    hits = Hits((COFFEE[3], TEA[4]), np.array([2.0, 1.0]))
    found = rank(MODEL, None, catalogue, UserState(), Request(Context.SEARCH, 26, query=hits))
    assert ids(found)[:2] == [COFFEE[3], TEA[4]]
    order = [item.reason.kind for item in found.items]
    assert order == sorted(order, key=[ReasonKind.FITS_QUERY, ReasonKind.POPULAR, ReasonKind.NEW].index)
    assert set(order) == {ReasonKind.FITS_QUERY, ReasonKind.POPULAR, ReasonKind.NEW}
    assert set(ids(found)) == {*EVERYTHING, "tea-new", "coffee-new"}
    scores = [item.score for item in found.items]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] >= -1.0 >= scores[2]


def test_a_short_list_says_why() -> None:
    assert "only 21 products" in feed(TEA_BEFORE, 40).reason
    assert "no product" in feed(TEA_BEFORE, 5, shop(out=(*TEA, *COFFEE))).reason
    assert feed(TEA_BEFORE, 0).reason == ""


@pytest.mark.parametrize("few", [True, False])
@settings(max_examples=60)
@given(
    history=st.lists(st.sampled_from([*TEA, *COFFEE, "unknown"]), max_size=10),
    session=st.lists(st.sampled_from([*TEA, *COFFEE]), max_size=5),
    weights=st.lists(st.sampled_from([-1.0, 0.1, 1.0]), min_size=15, max_size=15),
    exclude=st.frozensets(st.sampled_from([*TEA, *COFFEE])),
    out=st.frozensets(st.sampled_from([*TEA, *COFFEE])),
    seen=st.frozensets(st.sampled_from([*TEA, *COFFEE]), max_size=3),
    include_seen=st.booleans(),
    limit=st.integers(0, 30),
    context=st.sampled_from(list(Context)),
)
def test_what_may_not_be_recommended_never_is(
    few: bool,
    history: list[str],
    session: list[str],
    weights: list[float],
    exclude: frozenset[str],
    out: frozenset[str],
    seen: frozenset[str],
    include_seen: bool,
    limit: int,
    context: Context,
) -> None:
    def of(products: list[str]) -> Touched:
        times = NOW + np.arange(len(products), dtype=np.float64)
        return Touched(tuple(products), np.array(weights[: len(products)]), times)

    user = UserState(of(history), of(session), seen)
    request = Request(
        context,
        limit,
        query=HITS if context is Context.SEARCH else None,
        product_id=TEA[0] if context is Context.SIMILAR else None,
        exclude=exclude,
        include_seen=include_seen,
    )
    catalogue = shop("tea-new", out=sorted(out), few=few)
    found = rank(MODEL, None, catalogue, user, request)
    had = set() if include_seen else {*history, *session, *seen}
    may = {*EVERYTHING, "tea-new"} - exclude - out - had - ({TEA[0]} if context is Context.SIMILAR else set())
    assert len(set(ids(found))) == len(ids(found)) == min(limit, len(may))
    assert set(ids(found)) <= may
    scores = [item.score for item in found.items]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(scores))
    assert sum(found.weights.by_part().values()) in (0.0, pytest.approx(1.0))
    assert bool(found.reason) or len(found.items) == limit
    assert found == rank(MODEL, None, catalogue, user, request)


def test_the_same_products_are_found_with_few_and_with_many_allowed() -> None:
    for user in (TEA_BEFORE, TEA_BEFORE_COFFEE_NOW, UserState()):
        few, many = (feed(user, 8, shop(out=TEA[3:5], few=few)) for few in (True, False))
        assert ids(few) == ids(many)


def test_products_that_are_nearly_the_same_are_set_apart() -> None:
    twins = [
        Interaction(row.user_id, twin, row.weight, row.time + place)
        for row in purchases()
        for place, twin in enumerate((row.product_id, f"{row.product_id}-twin"))
    ]
    model = learnt(twins)
    catalogue = shop(*(f"{each}-twin" for each in (*TEA, *COFFEE)))

    def different(diversity: float) -> int:
        parameters = Parameters(diversity=diversity)
        user = UserState(touched(TEA[0], f"{TEA[0]}-twin"))
        found = rank(model, None, catalogue, user, Request(Context.FEED, 8), parameters)
        return len({each.removesuffix("-twin") for each in ids(found)})

    assert different(0.0) < different(0.8)


def test_what_users_did_next_is_found_more_often_than_among_what_is_popular() -> None:
    split = leave_last_out(Interactions.of(purchases(users=200, each=6)))
    model, catalogue = train(split.train, SMALL), shop()

    def hit_rate(of: Callable[[Touched], UserState]) -> float:
        def recommend(user: str, history: Touched, k: int) -> list[str]:
            return ids(rank(model, None, catalogue, of(history), Request(Context.FEED, 4)))

        return evaluate(split, recommend, len(EVERYTHING)).at[10].hit_rate

    popular = hit_rate(lambda history: UserState(seen=frozenset(history.ids)))
    assert hit_rate(lambda history: UserState(history, history)) > 1.5 * popular > 0


def test_what_a_context_needs_must_be_there() -> None:
    with pytest.raises(InvalidInput):
        Request(Context.SEARCH, 5)
    with pytest.raises(InvalidInput):
        Request(Context.SIMILAR, 5)
    with pytest.raises(InvalidInput):
        Request(Context.FEED, -1)
