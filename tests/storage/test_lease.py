"""Several servers on one database: one writes, the others follow, and one that was overtaken changes nothing."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import pyarrow as pa
import pytest

from penstock.errors import Unavailable
from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.lease import Lease
from penstock.storage.payload import Payload
from tests.storage.clickhouse_http import ClickHouseHttp
from tests.storage.conftest import OpenEngine
from tests.storage.rows import count_bronze, write_bronze

VALID_S = 60.0  # so that none ends by itself, however slow the machine
SETTLE_S = 0.6


class Peer:
    """One server's storage."""

    def __init__(self, engine: ClickHouseEngine, name: str, valid_s: float) -> None:
        self.engine = engine
        self.lease = Lease(engine, holder=name, valid_s=valid_s, settle_s=SETTLE_S)
        self.log = CommitLog(engine, self.lease)

    async def append(self, rows: int = 3) -> int:
        async with self.log.transaction() as transaction:
            await write_bronze(self.engine, transaction.commit, rows)
            streams = [Advance("default", "s", 0, rows, rows, 0)]
            await transaction.append(Entry("append", rows=rows, streams=streams))
        return transaction.commit


class OpenPeer(Protocol):
    def __call__(self, name: str, valid_s: float = ...) -> Awaitable[Peer]: ...


@pytest.fixture
def peer(open_http: OpenEngine) -> OpenPeer:
    async def opened(name: str, valid_s: float = VALID_S) -> Peer:
        return Peer(await open_http(), name, valid_s)

    return opened


async def taken_over(old: Peer, new: Peer) -> None:
    """`old` stands still for longer than its lease, without noticing, and `new` takes it."""
    expire = "ALTER TABLE leases UPDATE expires = now64(6, 'UTC') WHERE 1 SETTINGS mutations_sync = 2"
    await new.engine.execute(expire)
    assert await new.lease.renew()
    assert new.lease.epoch > old.lease.epoch


async def held(peer: Peer) -> None:
    """Waits until its task has taken the lease."""
    async with asyncio.timeout(10):
        while not peer.lease.held:  # noqa: ASYNC110  (a property, by the clock)
            await asyncio.sleep(0.02)


async def test_one_writes_and_the_other_says_so(peer: OpenPeer) -> None:
    a, b = await peer("a"), await peer("b")
    assert await a.lease.renew()
    assert not await b.lease.renew()
    await a.log.open()
    await b.log.open()
    assert await a.append() == 1
    with pytest.raises(Unavailable, match="another server writes") as caught:
        await b.append()
    assert caught.value.reason == "NOT_LEADER"
    assert caught.value.retry_after_s
    with pytest.raises(Unavailable):
        await b.log.delete_void(["bronze_events"], "commit", 0)
    assert await count_bronze(a.engine) == 3


async def test_the_other_follows(peer: OpenPeer) -> None:
    a, b = await peer("a"), await peer("b")
    await a.lease.renew()
    await a.log.open()
    await b.log.open()
    following = asyncio.create_task(b.log.follow())
    waiting = asyncio.create_task(b.log.wait_beyond(0, timeout_s=5))
    await a.append()
    async with a.log.transaction() as transaction:
        await transaction.append(Entry("etl", run=1, last_commit=1))
    assert await waiting
    assert await b.log.wait_beyond(1, timeout_s=5)
    following.cancel()
    assert (b.log.head, b.log.last_append, b.log.gold) == (2, 1, a.log.gold)
    assert await b.log.next_offset("default", "s") == (3, 1)
    assert not await b.log.refresh()
    assert not await a.log.refresh()


async def test_a_server_stops_writing_before_another_may(peer: OpenPeer) -> None:
    a, b = await peer("a", 1.5), await peer("b")
    await a.lease.renew()
    while not await b.lease.renew():  # noqa: ASYNC110  (by the database's clock)
        await asyncio.sleep(0.05)
    assert not a.lease.held
    assert b.lease.epoch == a.lease.epoch + 1
    with pytest.raises(Unavailable):
        await a.append()


async def test_a_lease_that_is_not_renewed_goes_to_another(peer: OpenPeer) -> None:
    a, b = await peer("a"), await peer("b")
    await a.lease.renew()
    assert await a.append() == 1
    await taken_over(a, b)
    assert await b.append() == 2
    assert not await a.lease.renew()
    assert [row["epoch"] for row in await b.engine.rows("SELECT epoch FROM commits ORDER BY commit")] == [1, 2]


async def test_a_lease_is_renewed_by_itself(peer: OpenPeer) -> None:
    a = await peer("a", 2.0)
    keeping = asyncio.create_task(a.lease.keep())
    rows = "SELECT count() AS n, uniqExact(expires) AS times, max(epoch) AS epoch FROM leases"
    async with asyncio.timeout(20):
        while (found := (await a.engine.rows(rows))[0])["n"] < 3:  # noqa: ASYNC110  (another part of the server writes them)
            await asyncio.sleep(0.1)
    assert found["times"] >= 3
    assert a.lease.epoch == found["epoch"]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_server_that_ends_hands_over_at_once(peer: OpenPeer) -> None:
    a, b = await peer("a"), await peer("b")
    keeping = asyncio.create_task(a.lease.keep())
    await held(a)
    await a.append()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert not a.lease.held
    assert await b.lease.renew()
    assert await b.append() == 2


async def test_what_is_done_under_a_renewed_lease_leaves_it_held(peer: OpenPeer) -> None:
    a, b = await peer("a", 2.0), await peer("b")
    assert await a.lease.renew()
    async with a.lease.renewed():
        async with asyncio.timeout(20):
            while (await a.engine.rows("SELECT count() AS n FROM leases"))[0]["n"] < 3:  # noqa: ASYNC110  (its task writes them)
                await asyncio.sleep(0.1)
    assert await a.lease.renew()
    assert not await b.lease.renew()
    with pytest.raises(ZeroDivisionError):
        async with a.lease.renewed():
            raise ZeroDivisionError
    assert not a.lease.held
    assert await b.lease.renew()


async def test_of_two_at_once_one_has_it(peer: OpenPeer) -> None:
    peers = [await peer(name) for name in ("b", "a", "c")]
    have = await asyncio.gather(*(each.lease.renew() for each in peers))
    assert have.count(True) == 1


async def test_of_two_holders_of_one_epoch_the_lowest_has_it(peer: OpenPeer) -> None:
    """As if both had looked before either wrote, and the other's row came late."""
    b = await peer("b")
    await b.lease.renew()
    await b.append()
    await b.engine.execute("INSERT INTO leases VALUES ('commits', 1, 'a', now64(6) + 10)")
    with pytest.raises(Unavailable):
        await b.append()
    assert not await b.lease.renew()
    assert (await b.engine.rows("SELECT count() AS n FROM commits"))[0]["n"] == 1


async def test_an_overtaken_server_changes_nothing(peer: OpenPeer) -> None:
    a, b = await peer("a"), await peer("b")
    await a.lease.renew()
    await a.append()
    await taken_over(a, b)
    await b.append()
    assert a.lease.held, "it has not noticed"

    with pytest.raises(Unavailable) as caught:
        async with a.log.transaction() as transaction:
            await transaction.append(Entry("append", rows=9))
    assert caught.value.reason == "NOT_LEADER"
    await a.engine.insert_arrow("bronze_events", pa.table({"tenant": ["x"], "commit": pa.array([1], pa.int64())}))
    payload = Payload([(b"\n\x01a",)], "name String", 'syntax = "proto3"; message Row { string name = 1; }', "Row")
    await a.engine.insert_payload(
        "INSERT INTO bronze_events (tenant) SELECT name FROM {source} SETTINGS {settings}", payload
    )
    await a.engine.delete_rows("bronze_events", "commit >= 0")

    found = await b.engine.rows("SELECT commit, epoch, rows FROM commits ORDER BY commit")
    assert found == [{"commit": 1, "epoch": 1, "rows": 3}, {"commit": 2, "epoch": 2, "rows": 3}]
    assert await count_bronze(b.engine) == 6
    assert await b.append() == 3


async def test_a_transaction_from_before_a_lost_lease_changes_nothing(peer: OpenPeer) -> None:
    """Even when this server has the lease again: the number is another commit's by now."""
    a, b = await peer("a"), await peer("b")
    await a.lease.renew()

    async def outlasts() -> None:
        async with a.log.transaction() as transaction:
            assert transaction.commit == 1
            await a.lease.release()
            assert await b.lease.renew()
            assert await b.append() == 1
            await b.lease.release()
            assert await a.lease.renew()
            rows = pa.table({"tenant": ["x"], "commit": pa.array([1], pa.int64())})
            await a.engine.insert_arrow("bronze_events", rows)
            await transaction.append(Entry("append"))

    with pytest.raises(Unavailable):
        await outlasts()
    assert await count_bronze(b.engine) == 3
    with pytest.raises(Unavailable, match="opened anew"):
        await a.log.delete_void(["silver_ids"], "run", 0)
    assert await a.log.refresh()
    assert await a.append() == 2


async def test_what_an_overtaken_server_left_half_done_is_removed(peer: OpenPeer, clickhouse: ClickHouseHttp) -> None:
    a, b = await peer("a"), await peer("b")
    await a.lease.renew()
    await a.append()
    await write_bronze(a.engine, 2)
    clickhouse.misbehave("late", "INSERT INTO bronze_events", seconds=2.5)
    with pytest.raises(Unavailable):
        await write_bronze(a.engine, 2, rows=5)
    await taken_over(a, b)
    assert await b.append(rows=1) == 2
    await asyncio.sleep(2.5)
    assert await count_bronze(b.engine) == 4


async def test_after_a_lost_answer_a_new_epoch_fences_what_may_come_late(
    peer: OpenPeer, clickhouse: ClickHouseHttp
) -> None:
    a = await peer("a")
    await a.lease.renew()
    await a.append()
    clickhouse.misbehave("lose_answer", "INSERT INTO commits")
    with pytest.raises(Unavailable):
        await a.append()
    assert await a.append() == 3
    assert a.lease.epoch == a.log.epoch == 2
    assert await count_bronze(a.engine, upto=a.log.head) == 9
