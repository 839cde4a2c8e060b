"""Whatever was done in whatever order: the index answers what a dictionary would."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.search.index import Change, Filter, IndexVersion, TenantIndex, Upsert, Vectors
from tests.search.index.made import DIMENSIONS, changes, filters, texts, vectors
from tests.search.index.model import Model

REBUILD, RELOAD = "rebuild", "reload"
Step = list[Change] | str

steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.lists(changes, min_size=1, max_size=6),
        st.lists(changes, min_size=1, max_size=6),
        st.sampled_from([REBUILD, RELOAD]),
    ),
    min_size=1,
    max_size=8,
)


def _done(taken: list[Step]) -> tuple[TenantIndex, Model]:
    index, model = TenantIndex(DIMENSIONS, "made"), Model()
    for commit, step in enumerate(taken):
        number = index.version.number
        if step == REBUILD:
            index.rebuild()
        elif step == RELOAD:
            with TemporaryDirectory() as folder:
                index.snapshot(Path(folder))
                index = TenantIndex.load(Path(folder), DIMENSIONS, "made")
        else:
            assert not isinstance(step, str)
            for change in step:
                model.apply(change)
            index.apply(step, commit)
            assert index.version.commit == commit
        assert index.version.number > number
    return index, model


def _ids(version: IndexVersion, wanted: Filter) -> list[str]:
    return version.product_ids(version.matching(wanted).numbers)


@settings(max_examples=60)
@given(steps, filters, vectors, st.integers(1, 15), st.sampled_from(["colour", "brand"]))
def test_filters_totals_facets_and_neighbours_are_those_of_a_dictionary(
    taken: list[Step], wanted: Filter, query: Vectors, limit: int, name: str
) -> None:
    index, model = _done(taken)
    version = index.version
    expected = model.matching(wanted)
    matches = version.matching(wanted)

    assert sorted(_ids(version, wanted)) == sorted(expected)
    assert version.size == len(model.matching(Filter()))
    assert matches.count == len(expected)
    facet = version.facet(name, matches, 100)
    assert {value.value.casefold(): value.count for value in facet.values} == model.counts(name, expected)
    assert version.pending_vectors == sum(model.products[each].vector is None for each in model.matching(Filter()))

    cosines = model.cosines(query, expected)
    found = version.nearest(query[None, :], limit, matches).hits[0]
    found_ids = version.product_ids(found.numbers)
    assert len(set(found_ids)) == len(found_ids) == min(limit, len(cosines))
    np.testing.assert_allclose(found.scores, sorted(cosines.values(), reverse=True)[:limit], atol=1e-5)
    np.testing.assert_allclose(found.scores, [cosines[each] for each in found_ids], atol=1e-5)
    assert found_ids == sorted(found_ids, key=lambda each: (-found.scores[found_ids.index(each)], each))


@settings(max_examples=40)
@given(steps, texts, filters)
def test_words_find_the_same_however_the_index_came_to_be(taken: list[Step], query: str, wanted: Filter) -> None:
    index, model = _done(taken)
    fresh = TenantIndex(DIMENSIONS, "made")
    for product_id in sorted(model.products):
        document = model.products[product_id]
        fresh.apply([Upsert(document)], 1)
    _same_words(index.version, fresh.version, query, wanted)
    index.rebuild()
    _same_words(index.version, fresh.version, query, wanted)


def _same_words(one: IndexVersion, other: IndexVersion, query: str, wanted: Filter) -> None:
    hits = [version.lexical(query, 20, version.matching(wanted)) for version in (one, other)]
    ids = [version.product_ids(hit.numbers) for version, hit in zip((one, other), hits, strict=True)]
    assert ids[0] == ids[1]
    assert hits[0].found.count == hits[1].found.count
    np.testing.assert_array_equal(hits[0].scores, hits[1].scores)
    assert [one.matched_terms(query, number) for number in hits[0].numbers.tolist()] == [
        other.matched_terms(query, number) for number in hits[1].numbers.tolist()
    ]


@settings(max_examples=30)
@given(steps, st.lists(changes, min_size=1, max_size=10), filters, vectors)
def test_a_version_stays_as_it_was(taken: list[Step], later: list[Change], wanted: Filter, query: Vectors) -> None:
    index, _ = _done(taken)
    held = index.version
    before = _everything(held, wanted, query)
    index.apply(later, 99)
    index.rebuild()
    index.apply(later, 100)
    assert _everything(held, wanted, query) == before


def _everything(version: IndexVersion, wanted: Filter, query: Vectors) -> object:
    matches = version.matching(wanted)
    hits = version.hybrid("red lamp", query, 10, matches)
    return (
        version.number,
        version.product_ids(matches.numbers),
        version.product_ids(hits.numbers),
        hits.scores.tolist(),
        version.facet("colour", matches, 10),
        version.facet("category", matches, 10),
    )
