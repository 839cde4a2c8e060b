"""Cleanup removes what is too old and processed, counts it exactly, and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from penstock.errors import Conflict
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import model
from tests.pipeline.bronze import Sent
from tests.pipeline.conftest import Commit, until

TABLES = (
    *("silver_ids", "sessions", "gold_kpis", "gold_events"),
    *("daily_metrics", "bronze_events", "silver_events"),
)
RETENTION = Retention(event_days=30, daily_days=100, keep_aggregates=False)


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


async def counts(engine: Engine, tenant: str = "default") -> dict[str, int]:
    return {
        table: (await engine.rows(f"SELECT count() AS n FROM {table} WHERE tenant = '{tenant}'"))[0]["n"]
        for table in TABLES
    }


def less(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {table: before[table] - after[table] for table in before}


@pytest.fixture
def cleaner(engine: Engine, commit_log: CommitLog) -> Cleaner:
    return Cleaner(engine, commit_log)


@pytest.fixture
async def old_and_new(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> list[Sent]:
    """Three old events, one of them in a session that goes on, two new ones, one of another tenant; daily metrics."""
    kept = [Sent(visitor_id="c", event_time=days_ago(20)), Sent(session_id="x", event_time=days_ago(1))]
    await commit(
        Sent(visitor_id="a", event_time=days_ago(40)),
        Sent("purchase", visitor_id="b", event_time=days_ago(31)),
        Sent(session_id="x", event_time=days_ago(35)),
        Sent(tenant="other", visitor_id="a", event_time=days_ago(40)),
        *kept,
    )
    await runner.run()
    daily = DailyCalculator(engine, commit_log, settings)
    await daily.calculate("default", days_ago(20).date())
    await daily.calculate("default", days_ago(40).date())
    return kept


async def test_a_dry_run_counts_and_removes_nothing(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    before, head = await counts(engine), commit_log.head
    dry = await cleaner.run("default", RETENTION, dry_run=True)
    assert (await counts(engine), commit_log.head) == (before, head)
    wet = await cleaner.run("default", RETENTION, dry_run=False)
    assert (dry.dry_run, wet.dry_run, dry.commit) == (True, False, 0)
    assert dry.removed == wet.removed


async def test_what_it_says_is_what_it_removed(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    before, other = await counts(engine), await counts(engine, "other")
    cleaned = await cleaner.run("default", RETENTION, dry_run=False)
    assert cleaned.removed == less(before, await counts(engine))
    assert cleaned.removed == {
        "bronze_events": 3,
        "silver_events": 3,
        "silver_ids": 3,
        "sessions": 2,
        "gold_kpis": 3,
        "gold_events": 3,
        "daily_metrics": 0,
    }
    assert cleaned.commit == commit_log.head
    assert await counts(engine, "other") == other
    mine = {key: figures for key, figures in (await model.stored_gold(engine, commit_log)).items() if key[0] != "other"}
    assert mine == model.gold(old_and_new)
    again = await cleaner.run("default", RETENTION, dry_run=False)
    assert set(again.removed.values()) == {0}
    assert again.commit == 0


async def test_what_is_not_processed_stays(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, runner: PipelineRunner, commit: Commit
) -> None:
    done, late = (Sent("purchase", visitor_id=name, event_time=days_ago(40)) for name in "ab")
    view = Sent(visitor_id="c", event_time=days_ago(40))
    await commit(done)
    await runner.run()
    await commit(late, view)
    await runner.run(event_type="page_view")
    cleaned = await cleaner.run("default", RETENTION, dry_run=False)
    assert cleaned.kept_unprocessed == 2
    assert (cleaned.removed["bronze_events"], cleaned.removed["silver_events"]) == (1, 1)
    await runner.run()
    assert await model.stored_gold(engine, commit_log) == model.gold([late, view])


async def test_aggregates_may_outlive_their_events(engine: Engine, cleaner: Cleaner, old_and_new: list[Sent]) -> None:
    before = await counts(engine)
    await cleaner.run("default", Retention(30, 30, keep_aggregates=True), dry_run=False)
    removed = less(before, await counts(engine))
    assert (removed["gold_kpis"], removed["gold_events"]) == (0, 0)
    assert (removed["silver_events"], removed["daily_metrics"]) == (3, 1)


async def test_a_second_cleanup_is_refused_and_a_late_caller_does_not_stop_one(
    cleaner: Cleaner, engine: Engine, old_and_new: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, reached, go_on = engine.delete_rows, asyncio.Event(), asyncio.Event()

    async def wait(*arguments: object, **keywords: object) -> None:
        reached.set()
        await go_on.wait()
        await delete(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "delete_rows", wait)
    first = asyncio.create_task(cleaner.run("default", RETENTION, dry_run=False))
    await reached.wait()
    assert cleaner.progress is not None
    assert (cleaner.progress.table, cleaner.progress.done, cleaner.progress.total) == ("silver_ids", 0, 6)
    with pytest.raises(Conflict) as refused:
        await cleaner.run("default", RETENTION, dry_run=False)
    assert refused.value.reason == "RUN_IN_PROGRESS"
    first.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: cleaner.progress is None)
    assert (await counts(engine))["silver_events"] == 2


async def test_metrics_of_a_day_that_lost_events_are_kept(
    engine: Engine, commit_log: CommitLog, settings: Settings, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    daily = DailyCalculator(engine, commit_log, settings)
    await cleaner.run("default", RETENTION, dry_run=False)
    with pytest.raises(Conflict) as refused:
        await daily.calculate("default", days_ago(40).date())
    assert refused.value.reason == "EVENTS_REMOVED"
    assert (await counts(engine))["daily_metrics"] == 2
    assert len(await daily.calculate("default", days_ago(20).date())) == 1
