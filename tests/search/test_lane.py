"""What the lane is given comes back to who gave it, or is refused."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from penstock import limits
from penstock.errors import InvalidInput, Overloaded, Unavailable
from penstock.search.index import Document, Filter, IndexVersion, InStock, TenantIndex, Upsert
from penstock.search.lane import SearchLane

DIMENSIONS = 8
VECTORS = np.random.default_rng(3).normal(size=(200, DIMENSIONS)).astype(np.float32)


@pytest.fixture
async def lane() -> AsyncIterator[SearchLane]:
    """Closed while the loop still runs, to which a thread that found nothing left to do has to say so."""
    made = SearchLane()
    yield made
    made.close()


@pytest.fixture(scope="module")
def version() -> IndexVersion:
    index = TenantIndex(DIMENSIONS, "made")
    documents = (
        Document(f"p{row:03}", title="thing", in_stock=row % 2 == 0, vector=vector)
        for row, vector in enumerate(VECTORS)
    )
    return index.apply([Upsert(document) for document in documents], 1)


async def test_all_that_come_at_once_are_answered_each_on_its_own(lane: SearchLane, version: IndexVersion) -> None:
    filters = (Filter(), Filter((InStock(True),)))
    found = await asyncio.gather(
        *(lane.nearest(version, VECTORS[row : row + 1], 1 + row % 3, filters[row // 2 % 2]) for row in range(0, 200, 2))
    )
    for row, neighbours in zip(range(0, 200, 2), found, strict=True):
        assert version.product_id(int(neighbours.hits[0].numbers[0])) == f"p{row:03}"
        assert len(neighbours.hits[0].numbers) == 1 + row % 3
        assert neighbours.matches == (100 if row // 2 % 2 else 200)


async def test_indexes_whose_versions_have_the_same_number_are_not_mixed_up(
    lane: SearchLane, version: IndexVersion
) -> None:
    other = replace(TenantIndex(DIMENSIONS, "made").apply([Upsert(_other())], 1), number=version.number)
    asked = [lane.nearest(each, VECTORS[5:6], 1, Filter()) for each in (version, other) * 20]
    for each, neighbours in zip((version, other) * 20, await asyncio.gather(*asked), strict=True):
        found = each.product_ids(neighbours.hits[0].numbers)
        assert found == (["theirs"] if each is other else ["p005"])


def _other() -> Document:
    return Document("theirs", title="thing", vector=-VECTORS[0])


async def test_what_is_wrong_is_told_to_whom_it_is_of(lane: SearchLane, version: IndexVersion) -> None:
    asked = [VECTORS[:1], np.zeros((1, DIMENSIONS), np.float32), VECTORS[1:2]]
    first, wrong, last = await asyncio.gather(
        *(lane.nearest(version, vectors, 1, Filter()) for vectors in asked), return_exceptions=True
    )
    assert isinstance(wrong, InvalidInput)
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)


async def test_work_returns_and_raises(lane: SearchLane) -> None:
    assert await lane.run("", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await lane.run("", divmod, 7, 0)

    def ended() -> None:
        raise SystemExit(3)

    for _ in range(limits.SEARCH_THREADS + 1):  # no thread ends of it
        with pytest.raises(SystemExit):
            await lane.run("", ended)
    assert await lane.run("", divmod, 7, 2) == (3, 1)


@pytest.fixture
async def short_lane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SearchLane]:
    monkeypatch.setattr(limits, "SEARCHES_WAITING_MAX", 3)
    made = SearchLane()
    yield made
    made.close()


async def test_past_its_bound_it_refuses_the_tenant_whose_they_are(
    short_lane: SearchLane, version: IndexVersion
) -> None:
    lane = short_lane
    go = threading.Event()
    waiting = [asyncio.create_task(lane.run("", go.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await lane.nearest(version, VECTORS[:1], 1, Filter())
    others = asyncio.create_task(lane.nearest(version, VECTORS[:1], 1, Filter(), tenant="other"))
    await asyncio.sleep(0)
    go.set()
    assert (await others).matches == 200
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert (await lane.nearest(version, VECTORS[:1], 1, Filter())).matches == 200


async def test_what_waits_is_cancelled_when_it_closes_and_what_runs_is_finished(version: IndexVersion) -> None:
    lane = SearchLane()
    go, running = threading.Event(), threading.Semaphore(0)

    def held() -> bool:
        running.release()
        return go.wait()

    runs = [asyncio.create_task(lane.run("", held)) for _ in range(limits.SEARCH_THREADS)]
    await asyncio.sleep(0)
    for _ in runs:
        await asyncio.to_thread(running.acquire)
    waits = [
        *(asyncio.create_task(lane.run("", divmod, 7, 2)) for _ in range(5)),
        *(asyncio.create_task(lane.nearest(version, VECTORS[:1], 1, Filter())) for _ in range(5)),
    ]
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(lane.close))
    while not lane.closing:  # noqa: ASYNC110  # a moment, in which another thread sets it
        await asyncio.sleep(0.001)
    go.set()
    await closing
    assert await asyncio.gather(*runs) == [True] * len(runs)
    ended = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    with pytest.raises(Unavailable):
        await lane.run("", divmod, 7, 2)
