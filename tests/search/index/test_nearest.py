"""Vector search finds what exact comparison finds, at every selectivity, by whichever plan."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock.search.index import (
    Between,
    Delete,
    Document,
    Except,
    Filter,
    InStock,
    Keywords,
    Kind,
    Number,
    Only,
    PlanKind,
    SetVector,
    TenantIndex,
    Upsert,
    Vectors,
)
from penstock.search.index.build import BuildStopped, built
from penstock.search.index.recall import measured
from tests.search.index.made import clustered

ROWS, DIMENSIONS, NEAREST = 6_000, 32, 10
VECTORS = clustered(ROWS, DIMENSIONS)
QUERIES = clustered(40, DIMENSIONS, seed=1)


def _document(number: int, vector: Vectors | None) -> Document:
    cluster = int(np.argmax(VECTORS[number]))  # a value that goes with the place of the vector
    return Document(
        f"p{number:05d}",
        title=f"thing {number}",
        numbers={Number.PRICE: float(number)},
        in_stock=number % 2 == 0,
        keywords={"axis": str(cluster)},
        vector=vector,
    )


@pytest.fixture(scope="module")
def index() -> TenantIndex:
    """A base of 5,500, of which some are gone or have moved, and a delta."""
    made = TenantIndex(DIMENSIONS, "made")
    made.apply([Upsert(_document(number, VECTORS[number])) for number in range(5_500)], 1)
    made.rebuild()
    made.apply([Upsert(_document(number, VECTORS[number])) for number in range(5_500, ROWS)], 2)
    made.apply([Delete(f"p{number:05d}") for number in range(300)], 3)
    made.apply([SetVector(f"p{number:05d}", VECTORS[ROWS - number]) for number in range(300, 400)], 4)
    assert made.status().kind is Kind.HNSW
    assert made.status().delta_size == 600
    assert made.status().tombstones == 400
    return made


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 1.0])
def test_recall_at_every_selectivity(index: TenantIndex, share: float) -> None:
    version = index.version
    wanted = Filter((Between(Number.PRICE, None, 300 + 5_700 * share),))
    assert version.matching(wanted).count == pytest.approx(5_700 * share, abs=2)
    _assert_recall(index, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter((InStock(True),)),
        Filter((Except(frozenset(f"p{number:05d}" for number in range(1_000, 2_000))),)),
        Filter((Only(frozenset(f"p{number:05d}" for number in range(0, ROWS, 7))),)),
        *(Filter((Keywords(("axis",), tuple(str(axis) for axis in range(axes))),)) for axes in (1, 4, 12, 24)),
    ],
)
def test_recall_where_matches_are_far_from_the_query_too(index: TenantIndex, wanted: Filter) -> None:
    """Matches of `axis` are all on one side: the graph near most queries has none of them."""
    _assert_recall(index, wanted)


def test_both_plans_are_taken_and_say_why(index: TenantIndex) -> None:
    version = index.version
    few = version.nearest(QUERIES[:1], 10, version.matching(Filter((Between(Number.PRICE, 500, 600),)))).plan
    assert (few.kind, few.matches) == (PlanKind.EXACT, 101)
    assert "101 of 5500 vectors match" in few.reason


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is followed wherever it can be, though it may find too few."""
    for module in ("base", "planner"):
        monkeypatch.setattr(f"penstock.search.index.{module}.GRAPH_ROWS", 0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("axes", [2, 6, 12, 24, 32])
def test_a_graph_that_finds_too_few_is_made_good(index: TenantIndex, axes: int) -> None:
    _assert_recall(index, Filter((Keywords(("axis",), tuple(str(axis) for axis in range(axes))),)))


@pytest.mark.usefixtures("eager")
def test_the_plan_tells_of_the_graph(index: TenantIndex) -> None:
    version = index.version
    assert version.nearest(QUERIES, 10, version.everything).plan.kind is PlanKind.GRAPH
    nearest = version.nearest(QUERIES[:1], 2_000, version.everything).hits[0]
    far = version.matching(Filter((Except(frozenset(version.product_ids(nearest.numbers))),)))
    plan = version.nearest(QUERIES, 10, far).plan
    assert plan.kind is PlanKind.EXACT
    assert "too few near" in plan.reason
    _assert_recall(index, Filter((Except(frozenset(version.product_ids(nearest.numbers))),)))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("excluded", [20, 22, 40, 80])
def test_matches_behind_those_that_the_graph_finds_for_sure_are_not_enough(index: TenantIndex, excluded: int) -> None:
    """The graph returns ten matches all the same, but it was not measured whether these are the nearest."""
    version = index.version
    own = version.nearest(QUERIES[:1], excluded, version.everything).hits[0]
    others = version.matching(Filter((Except(frozenset(version.product_ids(own.numbers))),)))
    plan = version.nearest(QUERIES[:1], 10, others).plan
    assert plan.kind is PlanKind.EXACT
    assert "too few near" in plan.reason


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("factor", [0, 1_000_000])
def test_queries_that_are_far_from_all_are_found_whether_or_not_that_is_told_first(
    index: TenantIndex, monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    """As searches by words and meaning ask: many candidates, of which the first few must be the nearest."""
    monkeypatch.setattr("penstock.search.index.planner.PROBE_FACTOR", factor)
    version, close = index.version, index.version.store.base.effort.close
    mixed = np.random.default_rng(3).standard_normal((40, DIMENSIONS)).astype(np.float32)
    mixed[::3] = VECTORS[1_000::100][: len(mixed[::3])]  # products themselves
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    vectors, has = version.vectors(version.everything.numbers)
    best = np.sort(mixed @ vectors[has].T, axis=1)[:, ::-1]
    assert 5 < (best[:, 0] < close).sum() < 30
    nearest = version.nearest(mixed, 200, version.everything, sure=NEAREST)
    found = sum(
        int((hit.scores[:NEAREST] >= row[NEAREST - 1] - 1e-6).sum())
        for hit, row in zip(nearest.hits, best, strict=True)
    )
    assert found >= 0.99 * NEAREST * len(mixed)
    assert all(len(hit.numbers) == 200 for hit in nearest.hits)


def test_one_by_one_and_together_are_the_same(index: TenantIndex) -> None:
    version = index.version
    for wanted in (Filter((InStock(True),)), Filter((Between(Number.PRICE, 1_000, 1_200),))):
        matches = version.matching(wanted)
        together = version.nearest(QUERIES, NEAREST, matches).hits
        for query, hits in zip(QUERIES, together, strict=True):
            alone = version.nearest(query[None, :], NEAREST, matches).hits[0]
            np.testing.assert_array_equal(alone.scores, hits.scores)
            np.testing.assert_array_equal(alone.numbers, hits.numbers)


def test_more_results_than_matches_are_all_matches(index: TenantIndex) -> None:
    version = index.version
    matches = version.matching(Filter((Between(Number.PRICE, 500, 519),)))
    hits = version.nearest(QUERIES[:1], 1_000, matches).hits[0]
    assert sorted(version.product_ids(hits.numbers)) == [f"p{number:05d}" for number in range(500, 520)]
    everything = version.nearest(QUERIES[:1], 10_000, version.everything).hits[0]
    assert len(everything.numbers) == version.size


def test_a_products_own_vector_finds_it(index: TenantIndex) -> None:
    version = index.version
    for product_id in ("p00400", "p05999", "p00350"):
        vector = version.vector(product_id)
        assert vector is not None
        hits = version.nearest(vector[None, :], 1, version.everything).hits[0]
        assert hits.scores[0] == pytest.approx(1.0, abs=1e-6)
    assert version.vector("p00000") is None
    found, has = version.vectors_of(["p00400", "p00000", "nobody"])
    assert has.tolist() == [True, False, False]
    np.testing.assert_array_equal(found[1:], 0)


def test_the_measured_recall_is_that_of_searches(index: TenantIndex) -> None:
    recall = index.measure_recall(nearest=10, queries=50)
    assert recall.share >= 0.99
    assert recall.queries == 50
    assert index.status().recall == recall


@pytest.mark.usefixtures("eager")
def test_a_recall_that_is_bad_is_measured_as_bad(index: TenantIndex) -> None:
    """The graph is one of other vectors: the measurement must tell."""
    version = index.version
    wrong = built(np.ascontiguousarray(VECTORS[::-1][:5_500]), lambda: False, Kind.HNSW)
    mixed = replace(version.store.base, structure=wrong.structure)
    assert measured(replace(version, store=replace(version.store, base=mixed)), 10, 50).share < 0.5


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_base_finds_the_nearest(kind: Kind) -> None:
    made = built(VECTORS, lambda: False, kind)
    assert made.kind is kind
    exact, _ = made.exact(QUERIES, NEAREST, None)
    every = np.sort(VECTORS @ QUERIES.T, axis=0)[::-1][:NEAREST].T
    np.testing.assert_allclose(exact, every, atol=1e-5)
    if kind is not Kind.FLAT:
        _, slots = made.near(QUERIES, NEAREST, far=True)
        found = np.einsum("qnd,qd->qn", VECTORS[np.maximum(slots, 0)], QUERIES)
        assert ((found >= every[:, -1:] - 1e-6) & (slots >= 0)).sum() >= 0.99 * NEAREST * len(QUERIES)


@pytest.mark.parametrize("kind", [Kind.HNSW, Kind.IVF])
def test_where_no_effort_is_enough_all_is_compared(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    monkeypatch.setattr("penstock.search.index.build.EFFORTS", ())
    monkeypatch.setattr("penstock.search.index.build.CELLS_PROBED", ())
    made = built(VECTORS, lambda: False, kind)
    gc.collect()
    assert made.kind is Kind.FLAT
    np.testing.assert_array_equal(made.vectors, VECTORS)


def test_a_build_stops_when_it_is_told() -> None:
    looks = iter([False, False, False, True])
    with pytest.raises(BuildStopped):
        built(VECTORS, lambda: next(looks), Kind.HNSW)
    looks = iter([False, True])
    with pytest.raises(BuildStopped):
        built(VECTORS, lambda: next(looks), Kind.IVF)


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (np.full(DIMENSIONS, np.nan, np.float32), "finite"),
        (np.full(DIMENSIONS, np.inf, np.float32), "finite"),
        (np.zeros(DIMENSIONS, np.float32), "zeros"),
        (np.ones(DIMENSIONS + 1, np.float32), "numbers are needed"),
        (np.ones((1, DIMENSIONS), np.float32), "numbers are needed"),
    ],
)
def test_vectors_that_are_none_are_refused_and_change_nothing(vector: Vectors, problem: str) -> None:
    made = TenantIndex(DIMENSIONS, "made")
    before = made.version
    for change in (Upsert(_document(1, vector)), SetVector("p00000", vector)):
        with pytest.raises(InvalidInput, match=problem) as raised:
            made.apply([Upsert(_document(0, VECTORS[0])), change], 1)
        assert raised.value.reason == "INVALID_VECTOR"
        assert raised.value.violations[0].field == "changes[1].vector"
    assert made.version is before
    made.apply([Upsert(_document(0, VECTORS[0]))], 1)
    if vector.ndim == 1:
        with pytest.raises(InvalidInput, match=problem):
            made.version.nearest(vector[None, :], 1, made.version.everything)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38])
def test_only_the_direction_of_a_vector_counts(scale: float) -> None:
    made = TenantIndex(DIMENSIONS, "made")
    made.apply([Upsert(_document(0, (VECTORS[0] * scale).astype(np.float32)))], 1)
    hits = made.version.nearest((VECTORS[:1] * scale).astype(np.float32), 1, made.version.everything).hits[0]
    assert hits.scores[0] == pytest.approx(1.0, abs=1e-5)


def test_an_empty_index_answers() -> None:
    made = TenantIndex(DIMENSIONS, "made")
    version = made.rebuild()
    nearest = version.nearest(QUERIES[:2], 10, version.everything)
    assert [len(hits.numbers) for hits in nearest.hits] == [0, 0]
    assert made.measure_recall().share == 1.0
    assert version.size == made.status().size == 0


def _assert_recall(index: TenantIndex, wanted: Filter) -> None:
    version = index.version
    matches = version.matching(wanted)
    vectors, has = version.vectors(matches.numbers)
    cosines = np.sort(QUERIES @ vectors[has].T, axis=1)[:, ::-1][:, :NEAREST]
    hits = version.nearest(QUERIES, NEAREST, matches).hits
    one = version.nearest(QUERIES[:1], NEAREST, matches).hits[0]
    np.testing.assert_array_equal(one.scores, hits[0].scores)
    assert all(len(hit.numbers) == cosines.shape[1] for hit in hits)
    found = sum(int((hit.scores >= row[-1] - 1e-6).sum()) for hit, row in zip(hits, cosines, strict=True))
    assert found >= 0.99 * cosines.size
    assert all(matches.mask[hit.numbers].all() for hit in hits)
