"""What KPIs tell a tenant is the same whether or not others send events."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from penstock import limits
from penstock.errors import Overloaded
from penstock.kpis import freshness as fresh
from penstock.kpis.feature_export import FeatureExport
from penstock.kpis.features import FeatureReader
from penstock.kpis.feed import KpiFeed
from penstock.kpis.grain import MICROS, Shift
from penstock.kpis.moment import Moments
from penstock.kpis.quality import QualityReader
from penstock.kpis.quality_checks import PIPELINE_LAG
from penstock.kpis.query import Fill, KpiQueries, Query
from penstock.kpis.ranges import Range
from penstock.kpis.reader import KpiReader
from penstock.kpis.sources import Selection
from penstock.kpis.trends import TrendReader
from penstock.kpis.windows import Scope
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.kpis.conftest import Clock, statements_of
from tests.kpis.gold import NOON, Event, Gold
from tests.waiting import until

A, B = "default", "other"
MINE, SITE = Scope(B, "", 1), Scope(B, "shop", 1)
NOT_YET = "the first events are not processed yet"


@pytest.fixture(autouse=True)
def looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test waits for it."""
    monkeypatch.setattr(fresh, "LOOK_S", 0.0)


async def reasons(
    reader: KpiReader,
    trends: TrendReader,
    queries: KpiQueries,
    features: FeatureReader,
    moments: Moments,
    tenant: str = B,
) -> set[str]:
    """Why there is nothing, as every reader says it."""
    now = moments.now()
    return {
        (await reader.latest(Scope(tenant, "", 1))).reason,
        (await trends.revenue(Scope(tenant, "", 1), 60, now)).reason,
        (await trends.trend(Scope(tenant, "", 1), "orders", 60, now)).reason,
        (await queries.answer(_query(tenant, 1), now.version)).reason,
        (await features.aggregate(tenant, now.version)).reason,
    }


async def test_reasons_are_of_the_tenants_own_events(
    gold: Gold,
    reader: KpiReader,
    trends: TrendReader,
    queries: KpiQueries,
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    settings: Settings,
    moments: Moments,
) -> None:
    every = (reader, trends, queries, FeatureReader(engine, settings), moments)
    await gold.commit(A)
    assert await reasons(*every) == {"no events yet"}
    assert await reasons(*every, tenant=A) == {NOT_YET}
    await gold.run([Event(NOON)])
    assert await reasons(*every) == {"no events yet"}
    assert (await reader.latest(SITE)).reason == "no events yet"
    await gold.commit(B)
    await gold.run([Event(NOON)])
    # Gold is past its commit, whose events somebody else's run did not have.
    assert await reasons(*every) == {NOT_YET}


async def test_freshness_is_of_the_tenants_own_events(
    gold: Gold, reader: KpiReader, moments: Moments, commit_log: CommitLog, clock: Clock
) -> None:
    async def seen(tenant: str = B) -> dict[str, Any]:
        return asdict((await reader.snapshot(Scope(tenant, "", 1))).freshness)

    alone = await seen()
    assert alone == {"last_update": None, "lag_seconds": 0.0, "commit": 0}
    await gold.commit(A)
    assert await seen() == alone
    clock.now = commit_log.head_time.timestamp() + 9 if commit_log.head_time else 0.0
    assert (await seen(), (await seen(A))["lag_seconds"]) == (alone, pytest.approx(9, abs=0.01))
    await gold.run([Event(NOON)])
    assert await seen() == alone
    await gold.run([Event(NOON, tenant=B)])
    mine = await seen()
    assert (mine["last_update"], mine["lag_seconds"]) == (commit_log.gold.time, 0.0)
    assert mine["commit"] == commit_log.gold.last_commit
    version = commit_log.head
    for _ in range(2):
        await gold.run([Event(NOON)])
        await gold.commit(A)
        assert await seen() == mine
    await gold.commit(B)
    waiting = commit_log.head_time
    assert waiting is not None
    await gold.commit(A)
    clock.now = waiting.timestamp() + 5
    assert await seen() == {**mine, "lag_seconds": pytest.approx(5, abs=0.01)}
    for commit in (version, commit_log.head):
        then = (await reader.snapshot(MINE, await moments.of(B, commit, None))).freshness
        assert (then.last_update, then.commit) == (mine["last_update"], mine["commit"])
    await gold.run([Event(NOON, tenant=B)])
    assert (await seen())["lag_seconds"] == 0.0


async def test_the_pipelines_lag_is_of_the_tenants_own_events(
    gold: Gold, reader: KpiReader, engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings, clock: Clock
) -> None:
    quality = QualityReader(engine, commit_log, settings, reader.freshness, clock)

    async def lag(tenant: str) -> float | None:
        found = await quality.quality(tenant, "", timedelta(days=1))
        every = (each for findings in found.findings.values() for each in findings)
        return next(each.value for each in every if each.check.name == PIPELINE_LAG.name)

    await gold.run([Event(NOON, tenant=B)])
    await gold.commit(A)
    assert commit_log.head_time is not None
    clock.now = commit_log.head_time.timestamp() + 60
    assert (await lag(A), await lag(B)) == (pytest.approx(60, abs=0.01), 0.0)


async def test_freshness_of_all_tenants_costs_a_statement_a_version(
    gold: Gold, reader: KpiReader, engine: ClickHouseEngine, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "LOOK_S", 60.0)
    tenants = [f"t{n}" for n in range(limits.KPI_ANSWERS_MAX + 1)]
    await gold.run([Event(NOON, tenant=tenant) for tenant in tenants])
    await gold.commit(*tenants)
    statements = statements_of(engine, monkeypatch)
    found = await asyncio.gather(*(reader.freshness(tenant, commit_log.gold) for tenant in tenants))
    assert len(statements) == 1
    assert {each.commit for each in found} == {commit_log.gold.last_commit}
    for tenant in tenants:
        await reader.freshness(tenant, commit_log.gold)
    assert len(statements) == 1


async def test_watches_and_exports_of_one_leave_room_for_others(
    gold: Gold, reader: KpiReader, engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings
) -> None:
    feed = KpiFeed(reader, commit_log, watchers_max=4)
    mine = [feed.watch(Scope(A, "", 1), 60.0) for _ in range(5)]
    for watch in mine[:4]:
        await anext(watch)
    with pytest.raises(Overloaded):
        await anext(mine[4])
    theirs = feed.watch(MINE, 60.0)
    await anext(theirs)
    await asyncio.gather(*(watch.aclose() for watch in (*mine, theirs)))
    await feed.close()

    export = FeatureExport(engine, FeatureReader(engine, settings))
    pieces = [export.pieces(A, commit_log.version, None) for _ in range(limits.FEATURE_EXPORTS_MAX + 1)]
    for each in pieces[:-1]:
        await anext(each)
    with pytest.raises(Overloaded):
        await anext(pieces[-1])
    others = export.pieces(B, commit_log.version, None)
    await anext(others)
    await asyncio.gather(*(each.aclose() for each in (*pieces, others)))


async def test_many_queries_of_one_do_not_stand_before_anothers(
    gold: Gold, queries: KpiQueries, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    go_on = asyncio.Event()
    part = queries._part

    async def wait(selection: Selection, *rest: Any) -> Any:
        begun.append(selection.tenant)
        if selection.tenant == A:
            await go_on.wait()
        return await part(selection, *rest)

    monkeypatch.setattr(queries, "_part", wait)
    many = [asyncio.create_task(queries.answer(_query(A, minutes), commit_log.version)) for minutes in range(1, 13)]
    await until(lambda: len(begun) == limits.KPI_QUERIES_AT_ONCE - 1)
    await queries.answer(_query(B, 1), commit_log.version)
    assert begun.count(A) == limits.KPI_QUERIES_AT_ONCE - 1
    go_on.set()
    await asyncio.gather(*many)


def _query(tenant: str, minutes: int) -> Query:
    covered = Range((NOON - 60 * minutes) * MICROS, NOON * MICROS, Shift(micros=60 * MICROS))
    return Query(tenant, ("orders",), (), (), covered, None, "UTC", None, Fill.NONE, ())
