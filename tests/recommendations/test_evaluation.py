"""Figures that can be computed by hand, and splits that leak nothing."""

from math import log2

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.evaluation import (
    Split,
    evaluate,
    global_time_split,
    histories,
    leave_last_out,
)
from penstock.recommendations.interactions import Interaction, Interactions
from penstock.recommendations.user import Touched
from tests.recommendations.test_interactions import ROWS

EMPTY = Interactions.of(())


def split(**held_out: set[str]) -> Split:
    return Split("by hand", EMPTY, {user: frozenset(products) for user, products in held_out.items()})


def test_a_hit_at_the_third_place() -> None:
    report = evaluate(split(u={"c"}), lambda user, history, k: ["a", "b", "c", "d"], 8)
    for cut in (10, 20):
        found = report.at[cut]
        assert [found.hit_rate, found.mrr, found.coverage] == pytest.approx([1.0, 1 / 3, 0.5])
        assert found.ndcg == pytest.approx(1 / log2(4))


def test_what_stands_behind_the_cut_does_not_count() -> None:
    report = evaluate(split(u={"p11"}), lambda user, history, k: [f"p{place}" for place in range(k)], 40)
    assert (report.at[10].hit_rate, report.at[10].ndcg, report.at[10].mrr) == (0.0, 0.0, 0.0)
    assert [report.at[20].hit_rate, report.at[20].mrr] == pytest.approx([1.0, 1 / 12])
    assert (report.at[10].coverage, report.at[20].coverage) == (0.25, 0.5)


def test_several_held_out_products_are_measured_against_the_best_order() -> None:
    report = evaluate(split(u={"a", "c"}), lambda user, history, k: ["a", "b", "c"], 3)
    assert report.at[10].ndcg == pytest.approx((1 + 1 / log2(4)) / (1 + 1 / log2(3)))
    assert evaluate(split(u={"a", "c"}), lambda user, history, k: ["c", "a"], 3).at[10].ndcg == pytest.approx(1.0)


def test_users_count_alike() -> None:
    report = evaluate(split(u={"a"}, v={"z"}), lambda user, history, k: ["a"], 2)
    assert (report.users, report.at[10].hit_rate, report.at[10].coverage) == (2, 0.5, 0.5)


def test_a_product_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        evaluate(split(u={"a"}), lambda user, history, k: ["a", "a"], 2)


def test_nobody_to_ask() -> None:
    report = evaluate(split(), lambda user, history, k: [], 0)
    assert (report.users, report.at[10].hit_rate, report.at[20].coverage) == (0, 0.0, 0.0)


def test_the_report_can_be_read() -> None:
    report = evaluate(split(u={"b"}), lambda user, history, k: ["a", "b"], 4)
    assert orjson.loads(report.json())["hit_rate@10"] == 1.0
    assert orjson.loads(report.json())["mrr@20"] == 0.5
    assert report.text().splitlines()[0] == "by hand: 1 users, 4 products"
    assert report.text().splitlines()[2].split() == ["@10", "1.0000", "0.6309", "0.5000", "0.5000"]


def order_of(rows: list[Interaction]) -> dict[str, list[str]]:
    """Each user's products, by when they were touched first."""
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.time):
        products = found.setdefault(row.user_id, [])
        if row.product_id not in products:
            products.append(row.product_id)
    return found


@given(ROWS, st.integers(1, 3))
def test_the_last_product_is_held_out_and_nothing_of_it_is_learnt(rows: list[Interaction], back: int) -> None:
    found = leave_last_out(Interactions.of(rows), back)
    before = {user: set(history.ids) for user, history in histories(found.train).items()}
    for user, products in order_of(rows).items():
        if len(products) > back:
            assert found.held_out[user] == {products[-back]}
            assert before[user] == set(products[:-back])
        else:
            assert user not in found.held_out
            assert before[user] == set(products)


@given(ROWS, st.sampled_from([0.1, 0.2, 0.5]))
def test_a_time_split_learns_from_nothing_that_came_later(rows: list[Interaction], share: float) -> None:
    found = global_time_split(Interactions.of(rows), share)
    before = {
        (row.user_id, row.product_id) for row in rows if not len(found.train) or row.time <= found.train.time.max()
    }
    if not len(found.train):
        assert not found.held_out
        return
    later = {(row.user_id, row.product_id) for row in rows if row.time > found.train.time.max()}
    known = {user for user, _ in before}
    expected = {(user, product) for user, product in later - before if user in known}
    assert {(user, product) for user, products in found.held_out.items() for product in products} == expected


def test_the_recommender_is_given_what_the_user_did_before_in_order() -> None:
    rows = [Interaction("u", product, 1.0, float(time)) for time, product in enumerate("abcd")]
    asked: list[tuple[str, tuple[str, ...], int]] = []

    def recommend(user: str, history: Touched, k: int) -> list[str]:
        asked.append((user, history.ids, k))
        return ["d"]

    assert evaluate(leave_last_out(Interactions.of(rows)), recommend, 4).at[10].hit_rate == 1.0
    assert asked == [("u", ("a", "b", "c"), 20)]
