"""Watchers see every change once, at their own pace, and always a last frame."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import pytest

from penstock.errors import Overloaded, Unavailable
from penstock.kpis.feed import Ended, Failed, Frame, Heartbeat, KpiFeed
from penstock.kpis.reader import KpiReader
from penstock.kpis.windows import Scope, Snapshot
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.kpis.conftest import Clock, statements_of
from tests.kpis.gold import NOON, Event, Gold

EVERYTHING = Scope("default", "", 1)
LONG = 60.0  # an interval that no test waits out
Watch = AsyncGenerator[Frame, None]


@pytest.fixture
async def feed(reader: KpiReader, commit_log: CommitLog) -> AsyncIterator[KpiFeed]:
    made = KpiFeed(reader, commit_log)
    yield made
    await made.close()


async def following(watch: Watch, timeout_s: float = 5) -> Frame:
    async with asyncio.timeout(timeout_s):
        return await anext(watch)


async def changed(watch: Watch) -> Frame:
    """The next frame that is no heartbeat: how many of those come first depends on the machine."""
    while isinstance(frame := await following(watch), Heartbeat):
        pass
    return frame


def users(frame: Frame) -> int:
    assert isinstance(frame, Snapshot)
    assert frame.latest.window is not None
    return frame.latest.window.active_users


async def test_the_first_frame_comes_at_once(feed: KpiFeed, gold: Gold) -> None:
    async with aclosing(feed.watch(EVERYTHING, LONG)) as watch:
        first = await following(watch)
        assert isinstance(first, Snapshot)
        assert first.latest.reason == "no events yet"


async def test_a_change_is_pushed(feed: KpiFeed, gold: Gold) -> None:
    async with aclosing(feed.watch(EVERYTHING, 0.1)) as watch:
        await following(watch)
        await gold.run([Event(NOON, visitor="a")])
        assert users(await following(watch)) == 1
        await gold.run([Event(NOON, visitor="b")])
        frame = await following(watch)
        assert users(frame) == 2
        assert isinstance(frame, Snapshot)
        assert frame.freshness.commit == frame.latest.shown.gold.last_commit


async def test_a_run_that_changes_nothing_here_is_no_frame(feed: KpiFeed, gold: Gold) -> None:
    await gold.run([Event(NOON, visitor="a", site_id="shop")])
    async with aclosing(feed.watch(Scope("default", "shop", 1), 0.2)) as watch:
        await following(watch)
        await gold.run([Event(NOON, visitor="b", site_id="outlet")])
        beat = await following(watch)
        assert isinstance(beat, Heartbeat)
        assert beat.freshness.commit == 3  # two commits of events, and between them that of the first run


async def test_at_most_one_frame_an_interval_and_then_the_newest(feed: KpiFeed, gold: Gold) -> None:
    now = asyncio.get_running_loop().time
    came: list[float] = []

    async def watched() -> None:
        async with aclosing(feed.watch(EVERYTHING, 0.4)) as watch:
            async for frame in watch:
                came.append(now())
                if isinstance(frame, Snapshot) and frame.latest.window and users(frame) == 4:
                    return

    watching = asyncio.create_task(watched())
    for visitor in "abcd":
        await gold.run([Event(NOON, visitor=visitor)])
    await asyncio.wait_for(watching, 10)
    assert all(later - earlier >= 0.39 for earlier, later in pairwise(came))


async def test_a_heartbeat_comes_when_nothing_changed_for_three_intervals(
    feed: KpiFeed, gold: Gold, clock: Clock
) -> None:
    clock.now = time.time() + 5
    now = asyncio.get_running_loop().time
    async with aclosing(feed.watch(EVERYTHING, 0.1)) as watch:
        await following(watch)
        began = now()
        assert isinstance(await following(watch), Heartbeat)
        assert now() - began >= 0.25
        await gold.commit()
        beat = await following(watch)
        assert isinstance(beat, Heartbeat)
        assert 3 < beat.freshness.lag_seconds <= 5


async def test_one_computation_feeds_all_watchers(
    feed: KpiFeed, gold: Gold, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = [feed.watch(EVERYTHING, 0.1) for _ in range(40)]
    await asyncio.gather(*map(following, watches))
    waiting = [asyncio.create_task(changed(watch)) for watch in watches]
    await asyncio.sleep(0.15)
    unseen = await gold.write([Event(NOON, visitor="a")])
    statements = statements_of(engine, monkeypatch)
    await gold.show(unseen)
    assert {users(frame) for frame in await asyncio.gather(*waiting)} == {1}
    assert len([sql for sql in statements if "gold_kpis" in sql]) == 1
    for watch in watches:
        await watch.aclose()
    assert feed.watchers == 0


async def test_closing_ends_every_watch_with_its_last_frame(feed: KpiFeed, gold: Gold) -> None:
    resting, waiting = feed.watch(EVERYTHING, LONG), feed.watch(EVERYTHING, 0.3)
    await asyncio.gather(following(resting), following(waiting))
    nexts = [asyncio.create_task(changed(watch)) for watch in (resting, waiting)]
    await asyncio.sleep(0.4)
    await feed.close()
    assert await asyncio.gather(*nexts) == [Ended(), Ended()]
    for watch in (resting, waiting):
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
    assert [frame async for frame in feed.watch(EVERYTHING, LONG)] == [Ended()]
    assert feed.watchers == 0


async def test_an_error_is_the_last_frame(
    feed: KpiFeed, gold: Gold, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("the database is away", reason="STORAGE_UNAVAILABLE", retry_after_s=1)

    async with aclosing(feed.watch(EVERYTHING, 0.1)) as watch:
        await following(watch)
        unseen = await gold.write([Event(NOON)])
        monkeypatch.setattr(engine, "rows", away)
        await gold.show(unseen)
        failed = await following(watch)
        assert isinstance(failed, Failed)
        assert failed.error.reason == "STORAGE_UNAVAILABLE"
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_more_watchers_than_the_bound_are_refused(reader: KpiReader, commit_log: CommitLog) -> None:
    feed = KpiFeed(reader, commit_log, watchers_max=1)
    async with aclosing(feed.watch(EVERYTHING, LONG)) as watch:
        await following(watch)
        with pytest.raises(Overloaded):
            await anext(feed.watch(EVERYTHING, LONG))
    async with aclosing(feed.watch(EVERYTHING, LONG)) as watch:  # there is room again
        await following(watch)
    await feed.close()


async def test_a_slow_watcher_holds_up_nobody_and_gets_the_newest(feed: KpiFeed, gold: Gold) -> None:
    async with aclosing(feed.watch(EVERYTHING, 0.1)) as slow, aclosing(feed.watch(EVERYTHING, 0.1)) as quick:
        await asyncio.gather(following(slow), following(quick))
        for seen, visitor in enumerate("abc", start=1):
            await gold.run([Event(NOON, visitor=visitor)])
            assert users(await following(quick)) == seen
        assert users(await following(slow)) == 3
