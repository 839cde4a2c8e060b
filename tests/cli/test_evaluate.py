"""`penstock evaluate`: its figures where they can be reckoned by hand, and the command against real servers."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import penstock
from penstock.cli import app
from penstock.cli import evaluate_recommendations as recommending
from penstock.cli.evaluate_recommendations import How, history, moved
from penstock.cli.evaluate_search import Judgements, judgements, quality
from penstock.cli.evaluate_server import parse_mapping, rows_of
from tests.process import ServerProcess

COLOURS = ("red", "blue", "green", "black", "white", "yellow")
NOUNS = ("scarf", "lamp", "kettle", "bicycle", "novel")


def evaluate(*arguments: str, exit_code: int = 0) -> Result:
    """What the command made of it."""
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def judged(rows: list[tuple[str, str, object]]) -> Judgements:
    """Of query, title and relevance."""
    queries, titles, relevances = zip(*rows, strict=True)
    columns = {"query": list(queries), "title": list(titles), "relevance": list(relevances)}
    return judgements([pa.table(columns)])


def test_ndcg_is_as_reckoned_by_hand() -> None:
    made = judged([("q", "a", 4), ("q", "b", 2), ("q", "c", 1)])
    ids = [each.product_id for each in made.products]
    found = quality(made, {"q": [ids[1], "unjudged", ids[0]]})
    best = 7 + 1 / math.log2(3)
    assert found.ndcg == pytest.approx((1 + 7 / 2) / best)
    assert (found.mrr, found.hit_rate, found.judged) == (pytest.approx(1 / 3), 1.0, pytest.approx(2 / 3))


def test_a_scale_from_0_has_0_as_worthless_and_texts_are_numbers() -> None:
    made = judged([("q", "a", "1"), ("q", "b", "0")])
    assert made.worthless == 0.0
    assert quality(made, {"q": ["product-1"]}).ndcg == 1.0
    assert quality(made, {"q": ["product-2", "product-1"]}).ndcg == pytest.approx(1 / math.log2(3))


def test_pairs_judged_twice_have_the_mean_and_equal_texts_are_one_product() -> None:
    made = judged([("q", "a", 4), ("q", "a", 3), ("p", "a", 1)])
    assert len(made.products) == 1
    assert made.relevance == {"q": {"product-1": 3.5}, "p": {"product-1": 1.0}}
    assert quality(made, {"q": ["product-1"], "p": []}).ndcg == 1.0  # nothing is worth anything for p


@given(st.permutations(range(8)), st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_no_order_is_better_than_that_of_relevance(order: list[int], grades: list[int]) -> None:
    made = judged([("q", str(number), grade) for number, grade in enumerate([*grades, 4])])
    ids = [each.product_id for each in made.products]
    best = sorted(range(9), key=lambda number: -[*grades, 4][number])
    assert quality(made, {"q": [ids[each] for each in best]}).ndcg == pytest.approx(1.0)
    assert quality(made, {"q": [ids[each] for each in order]}).ndcg <= 1.0 + 1e-9


@pytest.mark.parametrize("relevance", ["good", "nan", None])
def test_a_relevance_that_is_no_number_is_told(relevance: object) -> None:
    with pytest.raises(ValueError, match="relevance has a value"):
        judgements([pa.table({"query": ["q"], "title": ["a"], "relevance": pa.array([relevance], pa.string())})])


def table(rows: list[tuple[str, str, float]]) -> pa.Table:
    """Interactions of user, product and time."""
    users, products, times = zip(*rows, strict=True)
    return pa.table({"user_id": list(users), "product_id": list(products), "time": list(times)})


def test_the_last_product_is_held_out_and_what_came_before_ends_now() -> None:
    told = history(table([("u", "a", 100.0), ("v", "c", 9_000.0), ("u", "b", 300.0), ("u", "c", 400.0)]), "click")
    split, rows = told.split(How.LAST)
    assert split.held_out == {"u": frozenset({"c"})}
    assert [(told.users[row], told.products[row]) for row in rows.tolist()] == [("u", "a"), ("u", "b"), ("v", "c")]
    assert moved(split, How.LAST, 10_000.0).tolist() == [9_800.0, 10_000.0, 10_000.0]


def test_a_split_by_time_moves_all_by_one_span() -> None:
    rows = [("u", str(number), 100.0 * number) for number in range(1, 11)]
    split, _ = history(table(rows), "view").split(How.TIME)
    assert split.held_out == {"u": frozenset({"9", "10"})}
    times = moved(split, How.TIME, 10_000.0)
    assert times[-1] == 10_000.0
    assert np.diff(times).tolist() == [100.0] * 7


def test_a_row_says_what_it_is_or_is_what_is_said_of_all() -> None:
    rows = pa.table(
        {
            "user_id": ["u"] * 4,
            "product_id": list("abcd"),
            "time": [1.0, 2.0, 3.0, 4.0],
            "type": ["PURCHASE", "", None, ""],
            "rating": ["", "4.5", None, ""],
        }
    )
    told = history(rows, "like")
    assert told.kinds == ["purchase", "rating", "like", "like"]
    assert told.ratings == [None, 4.5, None, None]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("type", "bought", "'bought' is no type"),
        ("type", "rating", "row 1 is a rating without one"),
        ("rating", "7", "ratings are from 1 to 5"),
        ("rating", "good", "'good' is no rating"),
        ("user_id", "", "row 1 has no user"),
        ("time", "soon", "row 1 has no user, no product, or no time"),
    ],
)
def test_a_row_that_cannot_be_told_is_named(column: str, value: str, message: str) -> None:
    columns = {"user_id": ["u"], "product_id": ["a"], "time": ["2026-01-01"], "type": [""], "rating": [""]}
    with pytest.raises(ValueError, match=message):
        history(pa.table({**columns, column: [value]}), "click")


def test_popularity_counts_users_and_leaves_out_what_the_user_had() -> None:
    told = history(
        table([(user, product, time) for user in "uvw" for time, product in enumerate(("a", "b", f"{user}!"), 1)]),
        "click",
    )
    split, _ = told.split(How.LAST)
    outcome = recommending.judged(split, {"u": ["u!"], "v": ["x", "v!"], "w": []}, 5)
    assert outcome.server.at[10].hit_rate == pytest.approx(2 / 3)
    assert outcome.server.at[10].mrr == pytest.approx((1 + 1 / 2) / 3)
    assert outcome.popularity.at[10].hit_rate == 0.0  # all that is known is what each of them had


def test_a_column_that_is_missing_is_named_with_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "judged.csv"
    file.write_text("suche,note\nscarf,3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no column title: say which it is.*it has suche, note"):
        rows_of(file, {"query": "suche", "relevance": "note"}, needs=("query", "relevance", "title"), delimiter=",")
    with pytest.raises(ValueError, match="no column 'grade'"):
        rows_of(file, {"relevance": "grade"}, needs=(), delimiter=",")
    for wrong in ("query", "query=", "colour=x"):
        with pytest.raises(ValueError, match="is no NAME=COLUMN"):
            parse_mapping([wrong], ("query", "relevance"))
    assert parse_mapping(["query=a,relevance=b"], ("query", "relevance")) == {"query": "a", "relevance": "b"}


def test_search_on_a_server_of_its_own(tmp_path: Path) -> None:
    titles = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]
    rows = [
        {"q": f"{colour} {noun}", "name": title, "grade": 1 + 2 * (noun in title) + (title == f"{colour} {noun}")}
        for colour in COLOURS[:2]
        for noun in NOUNS
        for title in titles
    ]
    file, figures = tmp_path / "judged.parquet", tmp_path / "figures.json"
    pq.write_table(pa.Table.from_pylist(rows), file)
    told = evaluate("search", str(file), "--map", "query=q,title=name,relevance=grade", "--json", str(figures)).output
    assert "Search: 10 queries, 30 products" in told
    written = json.loads(figures.read_text(encoding="utf-8"))
    assert (written["queries"], written["products"], set(written["modes"])) == (10, 30, {"hybrid", "lexical", "vector"})
    # The very title is asked for, and is the best; the other colours of the noun are relevant.
    assert written["modes"]["hybrid"]["mrr"] == 1.0
    assert written["modes"]["hybrid"]["ndcg"] > 0.9
    assert written["modes"]["hybrid"]["judged"] == 1.0


def test_search_on_a_server_that_runs_stores_nothing(server: ServerProcess, tmp_path: Path) -> None:
    with penstock.SyncClient(server.target) as client:
        client.catalog.upsert([penstock.product(f"shop-{n}", f"{colour} scarf") for n, colour in enumerate(COLOURS)])
    file = tmp_path / "judged.csv"
    file.write_text("query,product_id,relevance\nred scarf,shop-0,1\nblue scarf,shop-1,1\nred scarf,gone,0\n", "utf-8")
    told = evaluate("search", str(file), "--server", server.target).output
    assert "hybrid" in told
    assert "1.0000" in told
    with penstock.SyncClient(server.target) as client:
        assert [each.product_id for each in client.catalog.list()] == [f"shop-{n}" for n in range(len(COLOURS))]
    assert (
        "no column product_id"
        in evaluate("search", str(_titled(tmp_path)), "--server", server.target, exit_code=2).output
    )


def _titled(folder: Path) -> Path:
    file = folder / "titled.csv"
    file.write_text("query,title,relevance\nred scarf,red scarf,1\n", "utf-8")
    return file


def test_recommendations_foresee_what_everybody_does_next(tmp_path: Path) -> None:
    """Whoever had the one product of a pair has the other next; users differ in the pairs they know."""
    chance = np.random.default_rng(7)
    lines = ["who,what,when"]
    for user in range(60):
        for place, pair in enumerate(chance.permutation(12)[:5].tolist()):
            time = 1_700_000_000 + user * 5_000 + place * 60
            lines += [f"user-{user},film-{pair}-first,{time}", f"user-{user},film-{pair}-second,{time + 1}"]
    file, figures = tmp_path / "history.csv", tmp_path / "figures.json"
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    told = evaluate(
        "recommendations", str(file), "--map", "user_id=who,product_id=what,time=when", "--split", "last",
        "--type", "purchase", "--json", str(figures),
    ).output  # fmt: skip
    assert "Recommendations, leave last out, 1 back: 60 users, 24 products" in told
    written = json.loads(figures.read_text(encoding="utf-8"))["last"]
    assert written["server"]["users"] == 60
    assert written["server"]["hit_rate@10"] > 0.9
    assert written["server"]["ndcg@10"] > 1.5 * written["popularity"]["ndcg@10"]


def test_two_splits_are_not_told_to_one_server(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("user_id,product_id,time\nu,a,2026-01-01\n", encoding="utf-8")
    told = evaluate("recommendations", str(file), "--server", "127.0.0.1:1", exit_code=2).output
    assert "give --split" in told
    assert "no user of whom" in evaluate("recommendations", str(file), "--split", "last", exit_code=1).output
