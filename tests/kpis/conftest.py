"""Gold to read from, and a clock that tests set."""

from dataclasses import dataclass
from typing import Any

import pytest

from penstock.kpis.catalog import load_catalog
from penstock.kpis.moment import Moments
from penstock.kpis.newest import NewestMinutes
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.query import KpiQueries
from penstock.kpis.reader import KpiReader
from penstock.kpis.series import SeriesReader
from penstock.kpis.trends import TrendReader
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Row
from tests.kpis.gold import NOON, Gold


@dataclass
class Clock:
    """The server's clock, in seconds since the epoch."""

    now: float = NOON + 86_400.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A day after the noon that the events are around."""
    return Clock()


@pytest.fixture
def gold(engine: ClickHouseEngine, commit_log: CommitLog) -> Gold:
    """The gold of a fresh engine."""
    return Gold(engine, commit_log)


@pytest.fixture
def reader(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings, clock: Clock) -> KpiReader:
    """A reader of it."""
    return KpiReader(engine, commit_log, settings, load_catalog(), NewestMinutes(engine), clock)


@pytest.fixture
def moments(commit_log: CommitLog, clock: Clock) -> Moments:
    """Now, by that clock, and before."""
    return Moments(commit_log, clock)


@pytest.fixture
def catalogs(engine: ClickHouseEngine, commit_log: CommitLog) -> Catalogs:
    """The tenants' catalogues."""
    return Catalogs(engine, commit_log, load_catalog())


@pytest.fixture
def series(engine: ClickHouseEngine, catalogs: Catalogs, settings: Settings) -> SeriesReader:
    """A reader of series."""
    return SeriesReader(engine, catalogs, NewestMinutes(engine), settings.currency)


@pytest.fixture
def trends(series: SeriesReader, catalogs: Catalogs, settings: Settings) -> TrendReader:
    """A reader of trends."""
    return TrendReader(series, catalogs, settings.currency)


@pytest.fixture
def queries(engine: ClickHouseEngine, catalogs: Catalogs, settings: Settings) -> KpiQueries:
    """What answers kpis:query."""
    return KpiQueries(engine, catalogs, settings.currency)


def statements_of(engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SELECTs that the engine is given from now on; the list grows as they come."""
    statements: list[str] = []
    rows = engine.rows

    async def noted(sql: str, *arguments: Any, **options: Any) -> list[Row]:
        statements.append(sql)
        return await rows(sql, *arguments, **options)

    monkeypatch.setattr(engine, "rows", noted)
    return statements
