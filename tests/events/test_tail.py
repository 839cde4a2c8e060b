"""What a tail shows, and when, does not depend on what other tenants do."""

import asyncio
import time

import pytest

from penstock import limits
from penstock.errors import OutOfRange, Overloaded
from penstock.events.reader import Filter
from penstock.events.tail import Position, Tails
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine

EVERYTHING = Filter("", "", "", "")


@pytest.fixture
def tails(engine: ClickHouseEngine, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> Tails:
    monkeypatch.setattr(limits, "TAIL_WATCHERS_MAX", 4)
    return Tails(engine, commit_log, asyncio.Event())


async def add(commit_log: CommitLog, operation: str = "append", **detail: str) -> None:
    async with commit_log.transaction() as transaction:
        await transaction.append(Entry(operation, detail=detail))


async def test_a_token_outlives_another_tenant_s_cleanup(tails: Tails, commit_log: CommitLog) -> None:
    await add(commit_log)
    token = Position(commit_log.head).token("ours")
    await add(commit_log, "cleanup", tenant="theirs")
    following = tails.follow("ours", EVERYTHING, token, 1.0)
    assert (await anext(following))[0] is None
    await following.aclose()  # type: ignore[attr-defined]
    await add(commit_log, "cleanup", tenant="ours")
    with pytest.raises(OutOfRange, match=f"commit {commit_log.head}"):
        await anext(tails.follow("ours", EVERYTHING, token, 1.0))


async def test_heartbeats_come_in_time_while_another_tenant_writes(tails: Tails, commit_log: CommitLog) -> None:
    async def write() -> None:
        while True:
            await add(commit_log)
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    following = tails.follow("ours", EVERYTHING, "", 0.3)
    started, beats = time.monotonic(), 0
    async with asyncio.timeout(10):
        while beats < 4:
            row, _ = await anext(following)
            assert row is None
            beats += 1
    assert time.monotonic() - started > 0.8, "and no sooner"
    writing.cancel()
    await following.aclose()  # type: ignore[attr-defined]


async def test_a_tenant_does_not_open_all_tails(tails: Tails) -> None:
    opened = [tails.follow("ours", EVERYTHING, "", 1.0) for _ in range(4)]
    for each in opened[:3]:
        await anext(each)
    with pytest.raises(Overloaded):
        await anext(opened[3])
    theirs = tails.follow("theirs", EVERYTHING, "", 1.0)
    await anext(theirs)
    for each in (*opened[:3], theirs):
        await each.aclose()  # type: ignore[attr-defined]
    again = tails.follow("ours", EVERYTHING, "", 1.0)
    await anext(again)
    await again.aclose()  # type: ignore[attr-defined]
