"""Storage is tried by the same tests with the embedded engine and over HTTP: what holds for one holds for the other."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.schema import migrate
from tests.storage.clickhouse_http import ClickHouseHttp

OpenEngine = Callable[[], Awaitable[ClickHouseEngine]]


@pytest.fixture(scope="session")
def clickhouse_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    """The stand-in for a ClickHouse server, shared by all tests of storage."""
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture
def clickhouse(clickhouse_process: ClickHouseHttp) -> Iterator[ClickHouseHttp]:
    """The stand-in, behaving well to begin with."""
    yield clickhouse_process
    clickhouse_process.behave()


@pytest.fixture
def http_settings(clickhouse: ClickHouseHttp, tmp_path: Path) -> Settings:
    """Settings of a server that uses a new database behind a URL."""
    return Settings(data_dir=tmp_path / "data", clickhouse_url=clickhouse.new_database())


@pytest.fixture
def embedded_settings(tmp_path: Path) -> Settings:
    """Settings of a server with the embedded engine."""
    return Settings(data_dir=tmp_path / "data", fsync=False)


@pytest.fixture(params=["embedded", "http"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Either of them; so the fixtures `engine` and `commit_log` come in both forms here."""
    chosen = request.getfixturevalue(f"{request.param}_settings")
    assert isinstance(chosen, Settings)
    return chosen


@pytest.fixture
async def open_http(http_settings: Settings) -> AsyncIterator[OpenEngine]:
    """Opens one more engine on the database of `http_settings`, as one more server would."""
    async with AsyncExitStack() as stack:

        async def opened() -> ClickHouseEngine:
            engine = open_engine(http_settings)
            stack.push_async_callback(engine.close)
            await migrate(engine, http_settings)
            return engine

        yield opened
