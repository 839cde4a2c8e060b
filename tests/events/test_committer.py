"""The queue in front of the commits: no tenant fills it for the others, and one alone has what it needs."""

import asyncio

import pytest

from penstock import limits
from penstock.errors import Overloaded, Unavailable
from penstock.events.batch import Batch, Origin, Stored
from penstock.events.committer import Committer
from penstock.events.streams import Streams
from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine

MESSAGE = pb.AppendRequest(event_rows=pb.EventRows(events=[ev.Event(event_type="t")])).SerializeToString()


def batch(tenant: str, size: int = 100) -> Batch:
    return Batch(Origin(tenant, "", "", ""), 1, size, False, message=MESSAGE)


@pytest.fixture
def committer(engine: ClickHouseEngine, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> Committer:
    """One that has not started, and whose queue holds 1,000 bytes, 800 of one tenant's."""
    monkeypatch.setattr(limits, "QUEUE_BYTES_MAX", 1_000)
    monkeypatch.setattr(limits, "QUEUE_TENANT_BYTES_MAX", 800)
    return Committer(engine, commit_log, Streams(commit_log))


async def filled(committer: Committer, tenant: str) -> tuple[list[Batch], asyncio.Task[None]]:
    """Has the tenant queue what it may; those batches, and the one that waits for room."""
    queued = []
    while True:
        made = batch(tenant)
        submitting = asyncio.create_task(committer.submit(made))
        await asyncio.sleep(0.01)
        queued.append(made)
        if not submitting.done():
            return queued, submitting


async def test_one_tenant_leaves_room_for_others(committer: Committer) -> None:
    ours, waiting = await filled(committer, "a")
    assert committer.queued_bytes == 800
    theirs = batch("b")
    await committer.submit(theirs)
    committer.start()
    done = await asyncio.gather(*(each.done for each in (*ours, theirs)))
    await waiting
    assert all(isinstance(each, Stored) for each in done)
    await committer.stop()
    assert committer.queued_bytes == 0
    assert (committer.totals_of("a").accepted, committer.totals_of("b").accepted) == (len(ours), 1)


async def test_a_batch_that_is_larger_than_the_queue_has_it_alone(committer: Committer) -> None:
    large, small = batch("a", 5_000), batch("b")
    await committer.submit(large)
    waiting = asyncio.create_task(committer.submit(small))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    committer.start()
    await asyncio.gather(large.done, small.done)
    await committer.stop()


async def test_who_waits_too_long_is_told_so(committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_FULL_WAIT_S_MAX", 0.05)
    _, waiting = await filled(committer, "a")
    with pytest.raises(Overloaded):
        await waiting
    assert committer.queued_bytes == 800


async def test_a_server_that_stops_takes_no_more(committer: Committer) -> None:
    await filled(committer, "a")
    committer.start()
    await committer.stop()
    with pytest.raises(Unavailable):
        await committer.submit(batch("a"))
    assert committer.queued_bytes == 0
