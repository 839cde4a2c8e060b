"""When an index is built anew: also once its catalogue is at rest, and then not again and again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock import limits
from penstock.search.hosted import HostedIndex
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.search.test_hosted import Hashes, House, encoded
from tests.waiting import until


@pytest.fixture
async def house(engine: ClickHouseEngine, commit_log: CommitLog, tmp_path: Path) -> AsyncIterator[House]:
    made = House(engine, commit_log, tmp_path / "index")
    made.writer.start()
    yield made
    await made.writer.stop()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INDEX_TEND_S", 0.01)
    monkeypatch.setattr(limits, "INDEX_STILL_ROWS_MIN", 3)
    monkeypatch.setattr(limits, "INDEX_STILL_S", 0.0)


def _beside(hosted: HostedIndex) -> int:
    return hosted.state().index.delta_size


async def test_what_is_left_beside_the_base_is_built_in_when_nothing_changes(house: House) -> None:
    await house.store("a lamp", "b hat", "c chair")
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
        await until(lambda: _beside(hosted) == 0)
        assert hosted.state().index.base_size == 3


async def test_too_little_is_left_where_it_is(house: House) -> None:
    await house.store("a lamp", "b hat")
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
        # It was looked at: what was encoded is measured by the same task, behind that look.
        await until(lambda: hosted.state().index.recall is not None)
        assert _beside(hosted) == 2


async def test_it_is_not_built_again_soon_after(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.store("a lamp", "b hat", "c chair")
    async with house.index(Hashes("one")) as hosted:
        await until(lambda: hosted.state().index.base_size == 3)
        built = hosted.state().index.build_time
        await house.store("d scarf", "e table", "f stool")
        await until(lambda: hosted.view.version.size == 6)
        await encoded(hosted)
        # Looked at again since: what is measured is measured by the same task, behind that look.
        monkeypatch.setattr(limits, "INDEX_RECALL_S", 0.0)
        before = hosted.state().index.recall
        await until(lambda: hosted.state().index.recall is not before)
        assert (hosted.state().index.build_time, _beside(hosted)) == (built, 3)
        monkeypatch.setattr(limits, "INDEX_STILL_AGAIN_S", 0.0)
        await until(lambda: _beside(hosted) == 0)
