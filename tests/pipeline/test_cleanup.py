"""Cleanup removes what is too old and processed, counts it exactly, and nothing else; purges delete it from disk."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from penstock.errors import Conflict, OutOfRange, Unavailable
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import model
from tests.pipeline.bronze import Sent
from tests.pipeline.conftest import Commit
from tests.waiting import until

TABLES = ("sessions", "gold_kpis", "gold_events", "gold_visits", "daily_metrics", "bronze_events", "silver_events")
RETENTION = Retention(event_days=30, daily_days=100, keep_aggregates=False)


class Clock:
    """Now, and later when a test says so."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


async def seen(engine: Engine, log: CommitLog, tenant: str = "default") -> dict[str, int]:
    """Rows of each table as readers see them."""
    return {
        table: (
            await engine.rows(
                f"SELECT count() AS n FROM {table} WHERE tenant = '{tenant}' AND {log.version.visible(table)}"
            )
        )[0]["n"]
        for table in TABLES
    }


async def on_disk(engine: Engine, tables: Sequence[str] = (*TABLES, "silver_ids")) -> dict[str, int]:
    """Rows of each table."""
    return {table: (await engine.rows(f"SELECT count() AS n FROM {table}"))[0]["n"] for table in tables}


def less(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {table: before[table] - after[table] for table in before}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cleaner(engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, clock: Clock) -> Cleaner:
    return Cleaner(engine, commit_log, runner, settings, clock)


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
    before, head = await seen(engine, commit_log), commit_log.head
    dry = await cleaner.run("default", RETENTION, dry_run=True, purge=True)
    assert (await seen(engine, commit_log), commit_log.head) == (before, head)
    wet = await cleaner.run("default", RETENTION, dry_run=False)
    assert (dry.dry_run, wet.dry_run, dry.commit, dry.purge_time) == (True, False, 0, None)
    assert dry.removed == wet.removed


async def test_what_it_says_is_what_it_removed(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    before, other = await seen(engine, commit_log), await seen(engine, commit_log, "other")
    stored = await on_disk(engine)
    cleaned = await cleaner.run("default", RETENTION, dry_run=False)
    assert cleaned.removed == less(before, await seen(engine, commit_log))
    assert cleaned.removed == {
        "bronze_events": 3,
        "silver_events": 3,
        "sessions": 2,
        "gold_kpis": 3,
        "gold_events": 3,
        "gold_visits": 3,
        "daily_metrics": 0,
    }
    assert cleaned.commit == commit_log.head
    assert await seen(engine, commit_log, "other") == other
    assert await on_disk(engine) == stored
    mine = {key: figures for key, figures in (await model.stored_gold(engine, commit_log)).items() if key[0] != "other"}
    assert mine == model.gold(old_and_new)
    again = await cleaner.run("default", RETENTION, dry_run=False)
    assert set(again.removed.values()) == {0}
    assert (again.commit, again.purge_time) == (0, None)


async def test_older_versions_still_show_what_was_removed(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    before, rows = commit_log.head, await seen(engine, commit_log)
    await cleaner.run("default", RETENTION, dry_run=False)
    version = await commit_log.as_of(commit=before)
    for table in TABLES:
        condition = f"tenant = 'default' AND {version.visible(table)}"
        assert (await engine.rows(f"SELECT count() AS n FROM {table} WHERE {condition}"))[0]["n"] == rows[table]
    again = CommitLog(engine)
    await again.open()
    assert again.version == commit_log.version
    assert await again.as_of(commit=before) == version


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


async def test_aggregates_may_outlive_their_events(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    before = await seen(engine, commit_log)
    await cleaner.run("default", Retention(30, 30, keep_aggregates=True), dry_run=False, purge=True)
    removed = less(before, await seen(engine, commit_log))
    assert (removed["gold_kpis"], removed["gold_events"]) == (0, 0)
    assert (removed["silver_events"], removed["daily_metrics"]) == (3, 1)
    later = await cleaner.run("default", RETENTION, dry_run=False)
    assert (later.removed["gold_kpis"], later.removed["silver_events"]) == (3, 0)


async def test_an_event_that_comes_for_a_removed_session_begins_another(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, runner: PipelineRunner, commit: Commit
) -> None:
    old = Sent(visitor_id="a", event_time=days_ago(40), path="/old")
    given = Sent(session_id="x", event_time=days_ago(40), path="/old")
    await commit(old, given)
    await runner.run()
    before = commit_log.head
    await cleaner.run("default", RETENTION, dry_run=False)
    assert await model.stored_sessions(engine, commit_log) == set()
    # The same ids again are duplicates for as long as the rows are on disk.
    late = [replace(each, event_id=Sent().event_id, path="/late") for each in (old, given)]
    await commit(old, given, *late)
    await runner.run()
    assert await model.stored_sessions(engine, commit_log) == model.sessions(late)
    assert await model.stored_gold(engine, commit_log) == model.gold(late)
    version = await commit_log.as_of(commit=before)
    then = await engine.rows(f"SELECT landing_page FROM {version.relation('sessions', repr('default'))}")
    assert [row["landing_page"] for row in then] == ["/old", "/old"]


async def test_sessions_are_made_anew_when_a_cleanup_comes_between(
    engine: Engine,
    commit_log: CommitLog,
    cleaner: Cleaner,
    runner: PipelineRunner,
    commit: Commit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from penstock.pipeline import sessions

    old = Sent(visitor_id="a", event_time=days_ago(40), path="/old")
    late = replace(old, event_id=Sent().event_id, path="/late")
    build, between = sessions.build, [True]

    async def clean_between(*arguments: object, **keywords: object) -> None:
        await build(*arguments, **keywords)  # type: ignore[arg-type]
        if len(between) < 2 and commit_log.head > first:
            between.append(True)
            await cleaner.run("default", RETENTION, dry_run=False)

    first = 10**9
    monkeypatch.setattr(sessions, "build", clean_between)
    await commit(old)
    await runner.run()
    first = commit_log.head
    await commit(late)
    await runner.run()
    assert len(between) == 2
    # Both events had been processed when the cleanup came, so nothing may be left of them.
    assert await model.stored_sessions(engine, commit_log) == set()
    assert await model.stored_gold(engine, commit_log) == {}


async def test_purges_wait_for_the_travel_time(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, clock: Clock, old_and_new: list[Sent]
) -> None:
    before = commit_log.head
    cleaned = await cleaner.run("default", RETENTION, dry_run=False)
    assert cleaned.purge_time is not None
    assert timedelta(days=6.9) < cleaned.purge_time - datetime.now(UTC) < timedelta(days=7)
    stored, visible = await on_disk(engine), await seen(engine, commit_log)
    clock.ahead = timedelta(days=6.9)
    await cleaner.purge_due()
    assert (await on_disk(engine), commit_log.oldest_version("default")) == (stored, 1)
    clock.ahead = timedelta(days=7.1)
    await cleaner.purge_due()
    assert less(stored, await on_disk(engine)) == {**cleaned.removed, "silver_ids": 3}
    assert await seen(engine, commit_log) == visible
    assert (commit_log.oldest_version("default"), commit_log.oldest_version("other")) == (cleaned.commit, 1)
    assert commit_log.version.cuts == ()
    with pytest.raises(OutOfRange) as refused:
        await commit_log.as_of(commit=before)
    assert refused.value.reason == "VERSION_REMOVED"
    assert refused.value.metadata == {"oldest_version": str(cleaned.commit)}
    assert (await commit_log.as_of(commit=cleaned.commit)).cuts == ()
    assert (await commit_log.as_of(commit=before, tenant="other")).commit == before
    head = commit_log.head
    await cleaner.purge_due()
    assert commit_log.head == head


async def test_a_purge_at_once_frees_ids(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, runner: PipelineRunner, commit: Commit
) -> None:
    old = Sent("purchase", visitor_id="a", event_time=days_ago(40))
    await commit(old)
    await runner.run()
    await cleaner.run("default", RETENTION, dry_run=False)
    cleaned = await cleaner.run("default", RETENTION, dry_run=False, purge=True)
    assert (cleaned.commit, cleaned.purge_time, cleaned.oldest_version) == (0, None, 4)
    assert set((await on_disk(engine)).values()) == {0}
    await commit(old)
    await runner.run()
    assert await model.stored_gold(engine, commit_log) == model.gold([old])


async def test_a_purge_that_broke_off_is_ended_later_and_shows_nothing_meanwhile(
    engine: Engine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    cleaner: Cleaner,
    old_and_new: list[Sent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delete, deleted = engine.delete_rows, [""]

    async def fail_at_the_third(table: str, condition: str, **keywords: object) -> None:
        deleted.append(table)
        if len(deleted) > 3:
            raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")
        await delete(table, condition, **keywords)  # type: ignore[arg-type]

    stored = await on_disk(engine)
    monkeypatch.setattr(engine, "delete_rows", fail_at_the_third)
    with pytest.raises(Unavailable):
        await cleaner.run("default", RETENTION, dry_run=False, purge=True)
    monkeypatch.undo()
    visible = await seen(engine, commit_log)
    assert 0 < sum(less(stored, await on_disk(engine)).values()) < 20
    restarted = CommitLog(engine)
    await restarted.open()
    assert restarted.oldest_version("default") == commit_log.oldest_version("default") > 1
    assert await seen(engine, restarted) == visible
    await Cleaner(engine, restarted, runner, settings).purge_due()
    assert sum(less(stored, await on_disk(engine)).values()) == 20
    assert await seen(engine, restarted) == visible
    assert restarted.removals.on_disk == ()


async def test_a_second_cleanup_is_refused_and_a_late_caller_does_not_stop_one(
    cleaner: Cleaner, engine: Engine, old_and_new: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, reached, go_on = engine.delete_rows, asyncio.Event(), asyncio.Event()

    async def wait(*arguments: object, **keywords: object) -> None:
        reached.set()
        await go_on.wait()
        await delete(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "delete_rows", wait)
    first = asyncio.create_task(cleaner.run("default", RETENTION, dry_run=False, purge=True))
    await reached.wait()
    assert cleaner.progress is not None
    assert (cleaner.progress.table, cleaner.progress.done, cleaner.progress.total) == ("silver_ids", 0, 7)
    with pytest.raises(Conflict) as refused:
        await cleaner.run("default", RETENTION, dry_run=False)
    assert refused.value.reason == "RUN_IN_PROGRESS"
    first.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: cleaner.progress is None)
    assert (await on_disk(engine))["silver_events"] == 3


async def test_the_loop_deletes_what_is_due(
    engine: Engine, commit_log: CommitLog, cleaner: Cleaner, clock: Clock, old_and_new: list[Sent]
) -> None:
    await cleaner.run("default", RETENTION, dry_run=False)
    clock.ahead = timedelta(days=8)
    cleaner.start()
    await until(lambda: commit_log.removals.on_disk == ())
    await cleaner.stop()
    assert (await on_disk(engine))["silver_events"] == 3


async def test_metrics_of_a_day_that_lost_events_are_kept(
    engine: Engine, commit_log: CommitLog, settings: Settings, cleaner: Cleaner, old_and_new: list[Sent]
) -> None:
    daily = DailyCalculator(engine, commit_log, settings)
    await cleaner.run("default", RETENTION, dry_run=False)
    with pytest.raises(Conflict) as refused:
        await daily.calculate("default", days_ago(40).date())
    assert refused.value.reason == "EVENTS_REMOVED"
    assert (await seen(engine, commit_log))["daily_metrics"] == 2
    assert len(await daily.calculate("default", days_ago(20).date())) == 1
