"""Versions: which rows they show, how cuts fold, and how a number or a time becomes one."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import OutOfRange
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine
from penstock.storage.removals import detail_of
from penstock.storage.version import Cut, Gold, Version, without_covered

START = datetime(2026, 3, 1, tzinfo=UTC)
Row = tuple[str, int, int, int]  # tenant, run, commit, minute

numbers = st.integers(0, 4)
cuts = st.builds(
    lambda tenant, minute, through, processed, kept: Cut(
        "silver_events", tenant, START + timedelta(minutes=minute), through, processed, tuple(sorted(kept))
    ),
    st.sampled_from("ab"),
    numbers,
    numbers,
    st.none() | numbers,
    st.sets(numbers, max_size=2),
)
rows: st.SearchStrategy[Row] = st.tuples(st.sampled_from("ab"), numbers, numbers, numbers)


def gone(cut: Cut, row: Row) -> bool:
    """What the words of `Cut` say."""
    tenant, run, commit, minute = row
    return (
        tenant == cut.tenant
        and START + timedelta(minutes=minute) < cut.before
        and run <= cut.through
        and (cut.processed is None or commit <= cut.processed)
        and run not in cut.kept_runs
    )


@given(cuts, cuts, rows)
def test_what_a_covered_cut_removes_the_other_removes(one: Cut, other: Cut, row: Row) -> None:
    assert not (one.covers(other) and gone(other, row)) or gone(one, row)


@given(st.lists(cuts, max_size=6), st.lists(rows))
def test_fewer_cuts_remove_the_same(some: list[Cut], of: list[Row]) -> None:
    fewer = without_covered(some)
    for row in of:
        assert any(gone(cut, row) for cut in fewer) == any(gone(cut, row) for cut in some)
    for cut in fewer:
        assert not any(other.covers(cut) for other in fewer if other is not cut)


def test_a_later_cleanup_takes_the_place_of_the_one_before() -> None:
    days = [Cut("gold_kpis", "a", START + timedelta(days=day), through=day) for day in range(9)]
    assert without_covered(days) == (days[-1],)
    kept = Cut("gold_kpis", "a", START + timedelta(days=10), through=10, kept_runs=(3,))
    assert without_covered([*days, kept]) == (days[-1], kept)
    newer = Cut("gold_kpis", "a", START + timedelta(days=10), through=10, kept_runs=(9,))
    assert without_covered([*days, newer]) == (newer,)


async def test_visible_says_the_same_in_sql(engine: Engine) -> None:
    every = [(t, run, commit, minute) for t in "ab" for run in range(4) for commit in (0, 2) for minute in range(3)]
    values = ", ".join(
        f"('{t}', {run}, {commit}, toDateTime64('2026-03-01 00:0{minute}:00', 6, 'UTC'))"
        for t, run, commit, minute in every
    )
    table = f"VALUES('tenant String, run Int64, commit Int64, event_time DateTime64(6, \\'UTC\\')', {values})"
    of: Sequence[tuple[Cut, ...]] = (
        (),
        (Cut("silver_events", "a", START + timedelta(minutes=2), 2),),
        (
            Cut("silver_events", "a", START + timedelta(minutes=2), 2, processed=1),
            Cut("silver_events", "b", START + timedelta(minutes=1), 9, kept_runs=(1, 2)),
            Cut("bronze_events", "a", START + timedelta(days=9), 9),
        ),
    )
    for some in of:
        version = Version(9, Gold(run=2), some)
        found = await engine.rows(
            f"SELECT tenant, run, commit, toMinute(r.event_time) AS event_time FROM {table} AS r"
            f" WHERE {version.visible('silver_events', 'r')}"
        )
        mine = [cut for cut in some if cut.table == "silver_events"]
        wanted = [row for row in every if row[1] <= 2 and not any(gone(cut, row) for cut in mine)]
        assert sorted(tuple(row.values()) for row in found) == sorted(wanted)


def test_without_removals_conditions_are_plain() -> None:
    version = Version(7, Gold(run=3))
    assert version.visible("bronze_events") == "commit <= 7"
    assert version.visible("gold_kpis", "g") == "g.run <= 3"
    with pytest.raises(KeyError):
        version.visible("silver_ids")


async def write(log: CommitLog, *entries: Entry) -> list[int]:
    made = []
    for entry in entries:
        async with log.transaction() as transaction:
            await transaction.append(entry)
        made.append(transaction.commit)
        await asyncio.sleep(0.002)
    return made


def cleanup(tenant: str, through: int) -> Entry:
    cut = Cut("silver_events", tenant, START, through, processed=through)
    return Entry("cleanup", detail={"tenant": tenant, "cuts": detail_of((cut,))})


async def test_a_number_or_a_time_becomes_a_version(engine: Engine, commit_log: CommitLog) -> None:
    with pytest.raises(OutOfRange):
        await commit_log.as_of(commit=1)
    append, run, later = await write(commit_log, Entry("append"), Entry("etl", run=5, last_commit=1), Entry("append"))
    assert (await commit_log.as_of(commit=append)).gold == Gold()
    assert (await commit_log.as_of(commit=run)).gold.run == 5
    assert await commit_log.as_of(commit=later) == commit_log.version
    times = [row["time"].replace(tzinfo=UTC) for row in await engine.rows("SELECT time FROM commits ORDER BY commit")]
    for commit, time in zip((append, run, later), times, strict=True):
        assert (await commit_log.as_of(time=time)).commit == commit
    assert (await commit_log.as_of(time=times[1] - timedelta(microseconds=1))).commit == append
    assert (await commit_log.as_of(time=times[2] + timedelta(days=1))).commit == later
    for wrong in ({"commit": later + 1}, {"commit": 0}, {"time": times[0] - timedelta(microseconds=1)}):
        with pytest.raises(OutOfRange) as refused:
            await commit_log.as_of(**wrong)  # type: ignore[arg-type]
        assert refused.value.reason == "VERSION_NOT_FOUND"


async def test_removals_belong_to_the_versions_behind_them(engine: Engine, commit_log: CommitLog) -> None:
    await write(commit_log, Entry("append"))
    first, second, other, _ = await write(
        commit_log, cleanup("a", 1), cleanup("a", 2), cleanup("b", 1), Entry("append")
    )
    assert (await commit_log.as_of(commit=1)).cuts == ()
    assert [cut.through for cut in (await commit_log.as_of(commit=first)).cuts] == [1]
    assert [cut.through for cut in (await commit_log.as_of(commit=second)).cuts] == [2]
    assert [(cut.tenant, cut.through) for cut in commit_log.version.cuts] == [("a", 2), ("b", 1)]
    await write(commit_log, Entry("purge", detail={"tenant": "a", "through": first}))
    # Rows of the first may be there or not: nobody may see them, and no version that shows them is read.
    assert [cut.through for cut in (await commit_log.as_of(commit=first)).cuts] == [1]
    with pytest.raises(OutOfRange):
        await commit_log.as_of(commit=1)
    assert (await commit_log.as_of(commit=1, tenant="b")).cuts == ()
    await write(commit_log, Entry("purged", detail={"tenant": "a", "through": first}))
    assert (await commit_log.as_of(commit=first)).cuts == ()
    assert [each.commit for each in commit_log.removals.on_disk] == [second, other]
    again = CommitLog(engine)
    await again.open()
    assert (again.version, again.removals) == (commit_log.version, commit_log.removals)


async def test_a_cleanup_of_an_older_server_deleted_at_once(commit_log: CommitLog) -> None:
    await write(commit_log, Entry("append"), Entry("cleanup", detail={"tenant": "a", "cutoff": "2026-01-01 00:00:00"}))
    assert (commit_log.version.cuts, commit_log.oldest_version("a"), commit_log.oldest_version("b")) == ((), 2, 1)
