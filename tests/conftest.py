"""Fixtures that every area's tests use: a fresh engine in this process, and a real server in one of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.schema import migrate
from tests.process import ServerProcess

# How long an example takes to make or to run says something of the machine alone. Examples are the same each time, so
# that what fails is a change's doing; `--hypothesis-profile=random` looks further. Fixtures are those of all examples,
# and what an example leaves behind is part of the law.
MACHINE_DOES_NOT_COUNT = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
hypothesis_settings.register_profile("house", derandomize=True, **MACHINE_DOES_NOT_COUNT)
hypothesis_settings.register_profile("random", **MACHINE_DOES_NOT_COUNT)
hypothesis_settings.load_profile("house")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server on free ports with a data folder of its own; no fsync, which only costs time here."""
    return Settings(data_dir=tmp_path / "data", grpc_port=0, http_port=0, fsync=False)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[ClickHouseEngine]:
    """A fresh embedded engine with the schema in it."""
    opened = open_engine(settings)
    await migrate(opened, settings)
    yield opened
    await opened.close()


@pytest.fixture
async def commit_log(engine: ClickHouseEngine) -> CommitLog:
    """The commit log of `engine`."""
    opened = CommitLog(engine)
    await opened.open()
    return opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server in a process of its own, shared by the tests of a module: use ids of your own."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running
