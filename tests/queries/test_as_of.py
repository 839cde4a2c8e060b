"""SQL and KPI queries as of every version of a random history say what they said then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TypeAlias

import pytest

from penstock.kpis.catalog import load_catalog
from penstock.kpis.grain import Shift, of, parsed
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.query import Fill, KpiQueries
from penstock.kpis.query import Query as KpiQuery
from penstock.kpis.ranges import Range
from penstock.queries.costs import CostRecorder
from penstock.queries.gate import Gate
from penstock.queries.runner import QueryRunner
from penstock.queries.statement import Caller, Query
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.storage.user_sql.lane import open_user_sql
from tests.pipeline.bronze import START
from tests.pipeline.history import TENANTS, History

STATEMENTS = (
    "SELECT event_type, count() AS n, sum(amount) AS total, uniqExact(visitor) AS people FROM events GROUP BY ALL",
    "SELECT count() AS n, sum(cityHash64(event_id)) AS ids FROM bronze_events",
    "SELECT minute, site_id, orders, gmv, active_users FROM gold_kpis",
    "SELECT session_id, start_time, events, converted FROM sessions",
    "SELECT date, site_id, sessions, gmv FROM daily_metrics",
)
# Over every table that KPIs are read from.
METRICS = (
    (("events", "page_views"), ("event_type",), "hour"),
    (("orders", "gmv", "active_users", "revenue_net"), ("site",), "day"),
    (("conversion_rate", "active_users"), ("source",), "day"),
    (("orders", "view_users"), ("product",), "day"),
    (("sessions", "bounce_rate"), ("site",), "day"),
)
ANSWERS = len(STATEMENTS) + len(METRICS)  # of one version, to one tenant
DAY = 86_400_000_000  # microseconds
Said: TypeAlias = dict[str, object]


class Readers:
    """Reads that remember nothing, so that what is found again was read again."""

    def __init__(self, engine: Engine, log: CommitLog, runner: QueryRunner) -> None:
        self._log = log
        self._runner = runner
        self._kpis = KpiQueries(engine, Catalogs(engine, log, load_catalog()), "USD")

    async def said(self, tenant: str, version: int) -> Said:
        """What is said as of a version."""
        found: Said = {}
        for sql in STATEMENTS:
            result = await self._runner.run(Query(tenant, sql, as_of_version=version), Caller("RunSql", "as-of"))
            found[sql] = sorted(map(repr, result.rows))
        seen = await self._log.as_of(commit=version, tenant=tenant)
        day = of(START.replace(hour=0, minute=0, second=0, microsecond=0))
        covered = Range(day - 20 * DAY, day + 5 * DAY, Shift(days=25))
        for metrics, dimensions, grain in METRICS:
            asked = KpiQuery(tenant, metrics, dimensions, (), covered, parsed(grain), "UTC", None, Fill.NONE, ())
            answer = await self._kpis.answer(asked, seen)
            found[f"{metrics} by {dimensions}"] = [asdict(row) for row in (*answer.rows, answer.total)]
        return found


@asynccontextmanager
async def readers(engine: Engine, log: CommitLog, settings: Settings) -> AsyncIterator[Readers]:
    sql = open_user_sql(settings)
    try:
        yield Readers(engine, log, QueryRunner(Gate(), sql, log, CostRecorder(engine)))
    finally:
        await sql.close()


async def relived(engine: Engine, log: CommitLog, settings: Settings, *, seed: int, versions: int) -> int:
    """Takes everything after each step of a history, until so many of its versions can be read that no purge took, and
    finds it again; how many answers were compared."""
    history = await History.begin(engine, log, settings, seed=seed)
    taken: dict[tuple[int, str], Said] = {}

    def left() -> list[tuple[int, str]]:
        return [(version, tenant) for version, tenant in taken if version in history.readable(tenant)]

    async with readers(engine, log, settings) as then:
        for kind in ("append", "run", "daily"):
            await history.step(kind)
        while len({version for version, _ in left()}) < versions:
            if await history.step():
                for tenant in TENANTS:
                    taken[log.head, tenant] = await then.said(tenant, log.head)
    compared = 0
    async with readers(engine, log, settings) as later:
        for version, tenant in left():
            said = taken[version, tenant]
            assert await later.said(tenant, version) == said, (version, tenant)
            compared += len(said)
    return compared


async def test_a_few_versions_are_found_again(engine: Engine, commit_log: CommitLog, settings: Settings) -> None:
    assert await relived(engine, commit_log, settings, seed=3, versions=4) >= 4 * ANSWERS


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_fifty_versions_are_found_again(engine: Engine, commit_log: CommitLog, settings: Settings) -> None:
    assert await relived(engine, commit_log, settings, seed=5, versions=50) >= 50 * ANSWERS
