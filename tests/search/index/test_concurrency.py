"""Readers never see half a change, whatever goes on beside them."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import Conflict
from penstock.search.index import BuildState, BuildStopped, Delete, Document, Filter, Keywords, TenantIndex, Upsert
from tests.search.index.made import clustered

DIMENSIONS, ROWS, GROUP = 16, 5_000, 50
VECTORS = clustered(ROWS, DIMENSIONS)


def _document(number: int, generation: int) -> Document:
    return Document(
        f"p{number}",
        title=f"generation{generation} thing",
        keywords={"generation": str(generation), "group": str(number // GROUP)},
        vector=VECTORS[(number + generation) % ROWS],
    )


def _until(stopped: threading.Event, step: Callable[[], None], failures: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            while not stopped.is_set():
                step()
        except BaseException as error:
            failures.append(error)
            stopped.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_change_is_seen_as_a_whole_by_every_search(tmp_path: Path) -> None:
    """A change makes all products of a group of one generation. So every search must find a group of one."""
    index = TenantIndex(DIMENSIONS, "made")
    index.apply([Upsert(_document(number, 0)) for number in range(ROWS)], 0)
    index.rebuild()
    stopped = threading.Event()
    failures: list[BaseException] = []
    seen: set[int] = set()
    generator = np.random.default_rng(0)

    def search() -> None:
        version = index.version
        group = int(generator.integers(0, 4))
        matches = version.matching(Filter((Keywords(("group",), (str(group),)),)))
        assert matches.count == GROUP
        facet = version.facet("generation", matches, 10)
        assert [value.count for value in facet.values] == [GROUP]
        generation = int(facet.values[0].value)
        found = version.lexical(f"generation{generation}", 100, matches)
        assert found.found.count == GROUP
        numbers = version.nearest(VECTORS[:2], GROUP, matches).hits[0].numbers
        assert version.product_ids(numbers) != []
        assert sorted(numbers.tolist()) == sorted(matches.numbers.tolist())
        vectors, has = version.vectors(matches.numbers)
        assert has.all()
        expected = [VECTORS[(int(each[1:]) + generation) % ROWS] for each in version.product_ids(matches.numbers)]
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert version.size == ROWS
        hits = version.hybrid("thing", VECTORS[0], 10, version.everything)
        assert len(hits.numbers) == 10
        seen.add(version.number)

    threads = [_until(stopped, search, failures) for _ in range(3)]
    threads.append(_until(stopped, lambda: _ignored(index.rebuild()), failures))
    threads.append(_until(stopped, lambda: _ignored(index.snapshot(tmp_path)), failures))
    for generation in range(1, 60):
        for group in range(4):
            numbers = range(group * GROUP, (group + 1) * GROUP)
            index.apply([Upsert(_document(number, generation)) for number in numbers], generation)
        if stopped.wait(0.01):
            break
    stopped.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) > 5
    loaded = TenantIndex.load(tmp_path, DIMENSIONS, "made")
    assert loaded.version.size == ROWS


def _ignored(_: object) -> None:
    return None


def test_what_changes_during_a_rebuild_is_in_it() -> None:
    """More than is carried over at once, and some while the last is being carried over."""
    index = TenantIndex(DIMENSIONS, "made")
    index.apply([Upsert(_document(number, 0)) for number in range(2_000)], 1)
    looks = 0

    def change() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            assert index.status().state is BuildState.BUILDING
            index.apply([Delete(f"p{number}") for number in range(100)], 2)
            index.apply([Upsert(_document(number, 1)) for number in range(100, 1_000)], 3)
            index.apply([Upsert(_document(number, 1)) for number in range(2_000, 2_050)], 4)
            with pytest.raises(Conflict) as raised:
                index.rebuild()
            assert raised.value.reason == "REBUILD_IN_PROGRESS"
        return False

    version = index.rebuild(change)
    assert looks > 0
    assert (version.size, version.commit) == (1_950, 4)
    facet = version.facet("generation", version.everything, 10)
    assert {value.value: value.count for value in facet.values} == {"0": 1_000, "1": 950}
    assert version.lexical("generation1", 1, version.everything).found.count == 950
    vector = version.vector("p150")
    assert vector is not None
    np.testing.assert_allclose(vector, VECTORS[151], atol=1e-6)
    assert index.status().state is BuildState.READY


def test_a_rebuild_that_is_stopped_changes_nothing() -> None:
    index = TenantIndex(DIMENSIONS, "made")
    index.apply([Upsert(_document(number, 0)) for number in range(2_000)], 1)
    before = index.version
    with pytest.raises(BuildStopped):
        index.rebuild(lambda: True)
    assert index.version is before
    index.apply([Delete("p0")], 2)
    assert index.rebuild().size == 1_999


def test_it_says_when_a_rebuild_is_worth_it() -> None:
    index = TenantIndex(DIMENSIONS, "made")
    assert not index.needs_rebuild()
    index.apply([Upsert(_document(number, 0)) for number in range(500)], 1)
    assert not index.needs_rebuild()
    index.apply([Upsert(_document(number, 0)) for number in range(500, ROWS)], 2)
    assert index.needs_rebuild()
    index.rebuild()
    assert not index.needs_rebuild()
    index.apply([Delete(f"p{number}") for number in range(0, ROWS, 2)], 3)
    assert index.needs_rebuild()
    index.rebuild()
    assert not index.needs_rebuild()
    assert index.status().tombstones == 0
    # The same products with other prices: no vector moves, and no text.
    for commit in range(4, 12):
        index.apply([Upsert(_document(number, 0)) for number in range(1, ROWS, 2)], commit)
    assert index.status().delta_size == 0
    assert index.version.text_slots == ROWS // 2
    assert index.needs_rebuild()  # for the rows of the columns
