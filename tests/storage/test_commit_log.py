"""The commit log keeps its promises, with the embedded engine and over HTTP."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from penstock.errors import Unavailable
from penstock.storage import commit_log as commit_log_module
from penstock.storage.commit_log import Advance, CommitLog, Entry, Transaction
from penstock.storage.engine import ClickHouseEngine, Engine
from penstock.storage.version import Gold
from tests.storage.clickhouse_http import ClickHouseHttp, Kind
from tests.storage.conftest import OpenEngine
from tests.storage.rows import count_bronze, write_bronze


def advance(stream_id: str, first: int, end: int, tenant: str = "default") -> Advance:
    return Advance(tenant, stream_id, first, end, end - first, 0)


async def append(log: CommitLog, *streams: Advance) -> Transaction:
    async with log.transaction() as transaction:
        await transaction.append(Entry("append", rows=1, streams=streams))
    return transaction


async def reopened(engine: Engine) -> CommitLog:
    log = CommitLog(engine)
    await log.open()
    return log


async def test_an_empty_log(commit_log: CommitLog) -> None:
    assert (commit_log.head, commit_log.last_append, commit_log.gold) == (0, 0, Gold())
    assert await commit_log.next_offset("default", "s") == (0, 0)


async def test_numbers_and_times_rise(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    made = [await append(commit_log) for _ in range(4)]
    assert [each.commit for each in made] == [1, 2, 3, 4]
    assert all(earlier.time < later.time for earlier, later in itertools.pairwise(made))
    assert commit_log.head == commit_log.last_append == 4
    stored = await engine.rows("SELECT time FROM commits ORDER BY commit")
    assert [row["time"].replace(tzinfo=UTC) for row in stored] == [each.time for each in made]


async def test_times_rise_though_the_clock_goes_back(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    async with commit_log.transaction() as transaction:
        transaction.time = ahead
        await transaction.append(Entry("append"))
    later = await append(await reopened(engine))
    assert later.time == ahead + timedelta(microseconds=1)


async def test_a_log_opened_again_goes_on(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    await append(commit_log)
    async with commit_log.transaction() as transaction:
        await transaction.append(Entry("etl", run=3, first_commit=1, last_commit=1))
    log = await reopened(engine)
    assert (log.head, log.last_append, log.gold) == (2, 1, commit_log.gold)
    assert log.gold == Gold(3, 1, 2, transaction.time)
    assert (await append(log)).commit == 3


async def test_a_transaction_without_an_entry_leaves_nothing(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    async with commit_log.transaction() as transaction:
        await write_bronze(engine, transaction.commit)
    assert commit_log.head == 0
    async with commit_log.transaction() as following:
        assert following.commit > transaction.commit
        assert await count_bronze(engine) == 0


async def test_what_a_failed_transaction_wrote_is_removed_before_the_next(
    commit_log: CommitLog, engine: ClickHouseEngine
) -> None:
    await append(commit_log)

    async def fails() -> None:
        async with commit_log.transaction() as transaction:
            await write_bronze(engine, transaction.commit)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert await count_bronze(engine, upto=commit_log.head) == 0
    async with commit_log.transaction() as following:
        await write_bronze(engine, following.commit, rows=2)
        await following.append(Entry("append"))
    assert await count_bronze(engine, upto=commit_log.head) == 2
    assert await count_bronze(engine) == 2


async def test_what_nobody_committed_is_removed_at_open(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    async with commit_log.transaction() as transaction:
        await write_bronze(engine, transaction.commit, rows=2)
        await transaction.append(Entry("append"))
    await write_bronze(engine, 2)
    await write_bronze(engine, 3)
    log = await reopened(engine)
    assert await count_bronze(engine) == 2
    assert log.head == 1


async def test_rows_of_a_run_that_did_not_end_are_removed(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    async with commit_log.transaction() as transaction:
        await transaction.append(Entry("etl", run=1))
    await engine.execute(
        "INSERT INTO silver_ids (tenant, event_id, run) SELECT 'default', generateUUIDv4(), number FROM numbers(4)"
    )
    await commit_log.delete_void(["silver_ids"], "run", commit_log.gold.run)
    assert await engine.rows("SELECT run FROM silver_ids ORDER BY run") == [{"run": 0}, {"run": 1}]


async def test_a_cancelled_transaction_is_found_whole_or_removed(
    commit_log: CommitLog, engine: ClickHouseEngine
) -> None:
    """The statement of a caller that went away still runs when the next transaction begins."""

    async def work() -> None:
        async with commit_log.transaction() as transaction:
            await write_bronze(engine, transaction.commit)
            await transaction.append(Entry("append", streams=[advance("s", 0, 3)]))

    for pause in (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03):
        before = (await engine.rows("SELECT count() AS n FROM commits"))[0]["n"]
        task = asyncio.create_task(work())
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with commit_log.transaction():
            logged = (await engine.rows("SELECT count() AS n FROM commits"))[0]["n"] - before
            assert await count_bronze(engine) == 3 * (before + logged)
            assert await count_bronze(engine, upto=commit_log.head) == 3 * (before + logged)


async def test_transactions_wait_for_each_other(commit_log: CommitLog) -> None:
    made = await asyncio.gather(*(append(commit_log) for _ in range(5)))
    assert sorted(each.commit for each in made) == [1, 2, 3, 4, 5]


async def test_those_who_wait_are_told(commit_log: CommitLog) -> None:
    assert not await commit_log.wait_beyond(0, timeout_s=0.05)
    waiting = asyncio.create_task(commit_log.wait_beyond(1, timeout_s=10))
    await append(commit_log)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await append(commit_log)
    assert await waiting
    assert await commit_log.wait_beyond(0)


async def test_the_next_offset_stands_in_the_log(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    odd = "o'dd \\ {x:String} %s\n\0€"
    await append(commit_log, advance("a", 0, 5), advance("b", 0, 2), advance("", 0, 9))
    await append(commit_log, advance("a", 5, 9), advance("a", 0, 1, tenant="other"), advance(odd, 0, 4))
    log = await reopened(engine)
    assert await log.next_offset("default", "a") == (9, 2)
    assert await log.next_offset("default", "b") == (2, 1)
    assert await log.next_offset("other", "a") == (1, 2)
    assert await log.next_offset("default", odd) == (4, 2)
    assert await log.next_offset("default", "c") == (0, 0)


async def test_a_checkpoint_changes_no_offset(
    commit_log: CommitLog, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log_module, "CHECKPOINT_EVERY_COMMITS", 2)
    await append(commit_log, advance("a", 0, 5), advance("b", 0, 1))
    assert not await commit_log.checkpoint()
    await append(commit_log, advance("a", 5, 6), advance("", 0, 3))
    assert await commit_log.checkpoint()
    assert not await commit_log.checkpoint()
    assert (commit_log.head, commit_log.last_append) == (3, 2)
    await append(commit_log, advance("a", 6, 8))
    for log in (commit_log, await reopened(engine)):
        assert await log.next_offset("default", "a") == (8, 4)
        assert await log.next_offset("default", "b") == (1, 1)
        assert await log.next_offset("default", "") == (0, 0)  # the default stream has none


async def test_the_entry_is_stored_as_given(commit_log: CommitLog, engine: ClickHouseEngine) -> None:
    detail = {"table": "bronze", "note": "it's {x:String}"}
    async with commit_log.transaction() as transaction:
        await transaction.append(Entry("cleanup", 1, 2, 3, 4, 5, detail))
    (row,) = await engine.rows(
        "SELECT operation, run, first_commit, last_commit, rows, rejected, epoch,"
        " JSONExtractString(detail, 'note') AS note FROM commits"
    )
    assert list(row.values()) == ["cleanup", 1, 2, 3, 4, 5, 0, detail["note"]]


async def test_a_commit_is_known_by_number_and_time(commit_log: CommitLog) -> None:
    made = await append(commit_log)
    assert await commit_log.contains(made.commit, made.time)
    assert not await commit_log.contains(made.commit, made.time + timedelta(microseconds=1))
    assert not await commit_log.contains(made.commit + 1, made.time)


@pytest.mark.parametrize(("how", "stored"), [("lose_answer", True), ("drop", False), ("late", False)])
async def test_an_append_without_an_answer_is_found_or_void(
    open_http: OpenEngine, clickhouse: ClickHouseHttp, how: Kind, stored: bool
) -> None:
    engine = await open_http()
    log = await reopened(engine)
    clickhouse.misbehave(how, "INSERT INTO commits", seconds=0.5)
    started: list[Transaction] = []

    async def work() -> None:
        async with log.transaction() as transaction:
            started.append(transaction)
            await write_bronze(engine, transaction.commit)
            await transaction.append(Entry("append", streams=[advance("s", 0, 3)]))

    with pytest.raises(Unavailable):
        await work()
    (lost,) = started
    async with log.transaction() as following:
        assert following.commit == 2
        assert await log.contains(lost.commit, lost.time) == stored
        assert await log.next_offset("default", "s") == ((3, 1) if stored else (0, 0))
        assert await count_bronze(engine) == (3 if stored else 0)
    await asyncio.sleep(0.7 if how == "late" else 0)
    assert await log.contains(lost.commit, lost.time) == stored
