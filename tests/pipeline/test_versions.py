"""The history of a table, and what changed between two of its versions."""

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from penstock.errors import InvalidInput, OutOfRange
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.diff import SUMMED, DiffReader
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.runs import Trigger
from penstock.pipeline.tables import FIGURES, TABLES
from penstock.pipeline.travel import Moment
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline.bronze import START, Sent, at
from tests.pipeline.conftest import Commit
from tests.pipeline.history import History

GOLD, SILVER, BRONZE = (TABLES[name] for name in ("gold", "silver", "bronze"))


@pytest.fixture
def history(engine: Engine, commit_log: CommitLog) -> HistoryReader:
    return HistoryReader(engine, commit_log)


@pytest.fixture
def diff(engine: Engine, commit_log: CommitLog) -> DiffReader:
    return DiffReader(engine, commit_log)


async def test_a_table_has_the_versions_that_changed_it(
    engine: Engine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    commit: Commit,
    history: HistoryReader,
) -> None:
    sent = [Sent(visitor_id="a"), Sent("purchase", visitor_id="a", price=Decimal(5)), Sent(tenant="other")]
    await commit(*sent)  # 1
    await runner.run(event_type="purchase")  # 2, and 3 for sessions
    await runner.run()  # 4, 5
    await commit(sent[0])  # 6
    await runner.run()  # 7, in which nothing is new
    await DailyCalculator(engine, commit_log, settings).calculate("default", START.date())  # 8
    await commit(Sent(tenant="other"))  # 9
    cleaner = Cleaner(engine, commit_log, runner, settings, lambda: START + timedelta(days=2))
    await cleaner.run("default", Retention(1, 9, keep_aggregates=True), dry_run=False)  # 10
    of = {name: (await history.page("default", name)).changes for name in TABLES}
    assert {name: [(each.version, each.operation) for each in changes] for name, changes in of.items()} == {
        "bronze": [(10, "cleanup"), (6, "append"), (1, "append")],
        "silver": [(10, "cleanup"), (4, "etl"), (2, "etl")],
        "gold": [(4, "etl"), (2, "etl")],
        "sessions": [(10, "cleanup"), (5, "etl"), (3, "etl")],
        "daily": [(8, "daily")],
    }
    cleaned, again, first = of["bronze"]
    assert (cleaned.rows, cleaned.cutoff) == (3, START + timedelta(days=1))
    assert (again.rows, first.rows) == (1, 2)
    assert [(each.stream_id, each.accepted) for each in first.streams] == [("", 2)]
    all_types, one_type = of["gold"]
    assert (one_type.event_type, one_type.rows, one_type.first_commit, one_type.last_commit) == ("purchase", 1, 1, 1)
    assert (all_types.event_type, all_types.rows, all_types.trigger) == ("", 1, Trigger.CALL)
    assert (all_types.run, all_types.first_commit, all_types.last_commit) == (all_types.run, 1, 1)
    assert of["daily"][0].date == START.date().isoformat()
    page = await history.page("default", "bronze", limit=2)
    assert (page.current, page.oldest) == (commit_log.head, 1)
    rest = await history.page("default", "bronze", limit=2, page_token=page.next_token)
    assert [*page.changes, *rest.changes] == of["bronze"]
    assert rest.next_token == ""
    with pytest.raises(InvalidInput):
        await history.page("default", "gold", page_token=page.next_token)
    await cleaner.run("default", Retention(1, 9, keep_aggregates=True), dry_run=False, purge=True)
    after = await history.page("default", "silver")
    assert ([each.version for each in after.changes], after.oldest) == ([10], 10)


async def test_a_late_event_shows_as_the_window_it_repairs(
    commit_log: CommitLog, runner: PipelineRunner, commit: Commit, diff: DiffReader
) -> None:
    await commit(
        Sent("purchase", at(0), user_id="u1", price=Decimal("10")), Sent("view", at(60), user_id="u1", site_id="blog")
    )
    await runner.run()
    before = commit_log.head
    await commit(Sent("purchase", at(9), user_id="u2", price=Decimal("2.5")), Sent("view", at(99), user_id="u3"))
    await runner.run()
    found = await diff.compare("default", GOLD, Moment(before), Moment())
    assert (found.older, found.newer, found.windows_in_all) == (before, commit_log.head, 2)
    new, repaired = found.windows
    assert (new.minute, set(new.before.values())) == (at(60), {0.0})
    assert (repaired.minute, repaired.site_id, repaired.currency) == (at(0), "shop", "USD")
    assert {name: (repaired.before[name], repaired.after[name]) for name in ("gmv", "orders", "purchase_users")} == {
        "gmv": (10.0, 12.5),
        "orders": (1.0, 2.0),
        "purchase_users": (1.0, 2.0),
    }
    assert found.differences == dict(zip(SUMMED, (2.5, 0, 1, 1, 0, 2), strict=True))
    assert not (await diff.compare("default", GOLD, Moment(before), Moment(before))).windows
    assert not (await diff.compare("other", GOLD, Moment(before), Moment())).windows
    rows = await diff.compare("default", SILVER, Moment(before), Moment())
    assert [(each.event_type, each.added, each.removed) for each in rows.rows] == [
        ("page_view", 1, 0),
        ("purchase", 1, 0),
    ]
    assert [each.event_type for each in (await diff.compare("default", BRONZE, Moment(before), Moment())).rows] == [
        "purchase",
        "view",
    ]


async def test_sides_that_cannot_be_compared(commit: Commit, diff: DiffReader) -> None:
    await commit(Sent())
    await commit(Sent())
    for older, newer, reason in (
        (Moment(), Moment(1), "INVALID_VERSION"),
        (Moment(2), Moment(1), "INVALID_VERSION_RANGE"),
        (Moment(1, at(0)), Moment(), "INVALID_VERSION"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await diff.compare("default", GOLD, older, newer)
        assert refused.value.reason == reason
    with pytest.raises(OutOfRange):
        await diff.compare("default", GOLD, Moment(1), Moment(3))


async def test_a_diff_is_the_difference_of_two_copies(
    engine: Engine, commit_log: CommitLog, settings: Settings, diff: DiffReader
) -> None:
    history = await History.begin(engine, commit_log, settings, seed=11)
    while len(history.copies) < 14:
        await history.step()
    chance = random.Random(1)
    for _ in range(4):
        older, newer = sorted(chance.choices(history.readable("default"), k=2))
        was, now = (history.copies[version]["default"] for version in (older, newer))
        windows, token = [], ""
        while not windows or token:
            page = await diff.compare("default", GOLD, Moment(older), Moment(newer), limit=3, page_token=token)
            windows += page.windows
            token = page.next_token
            if not page.windows:
                break
        assert len(windows) == page.windows_in_all
        seen = {(each.minute.replace(tzinfo=None), each.site_id, each.currency): each for each in windows}
        before, after = by_window(was["gold"]), by_window(now["gold"])
        nothing = dict.fromkeys(FIGURES, 0.0)
        for key in {*before, *after}:
            if before.get(key) != after.get(key):
                assert seen[key].before == before.get(key, nothing)
                assert seen[key].after == after.get(key, nothing)
        for name, difference in (page.differences or {}).items():
            wanted = sum(each[name] for each in after.values()) - sum(each[name] for each in before.values())
            assert difference == pytest.approx(wanted)
        for table in (BRONZE, SILVER):
            rows = (await diff.compare("default", table, Moment(older), Moment(newer))).rows
            ids = [{repr(row) for row in copy[table.name]} for copy in (was, now)]
            assert (sum(r.added for r in rows), sum(r.removed for r in rows)) == (
                len(ids[1] - ids[0]),
                len(ids[0] - ids[1]),
            )


def by_window(gold: list[dict[str, Any]]) -> dict[tuple[Any, str, str], dict[str, float]]:
    return {
        (row["minute"], row["site_id"], row["currency"]): {name: float(row[name]) for name in FIGURES} for row in gold
    }
