"""Reading events back: lists, counts, tails, rejected rows and their replay."""

import asyncio
import uuid

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_service_pb2_grpc import EventServiceStub
from tests.events.conftest import exchange, rows


async def store(stub: EventServiceStub, *events: ev.Event) -> pb.BatchCollectResponse:
    return await stub.BatchCollect(pb.BatchCollectRequest(events=events))


async def test_pages_hold_each_event_once_while_others_arrive(events: EventServiceStub) -> None:
    for batch in range(3):
        await store(events, *(ev.Event(event_type="paged", site_id="paged", user_id=f"{batch}-{n}") for n in range(5)))
    seen: list[str] = []
    request = pb.ListEventsRequest(site_id="paged", page_size=4)
    while True:
        page = await events.ListEvents(request)
        seen += [event.event.user_id for event in page.events]
        if not page.next_page_token:
            break
        await store(events, ev.Event(event_type="paged", site_id="paged", user_id="late"))
        request.page_token = page.next_page_token
    assert seen == [f"{batch}-{n}" for batch in (2, 1, 0) for n in range(5)]


@pytest.mark.parametrize("token", ["nonsense", "WyJ0YWlsIiwxLCIiLDBd", "W10", "é"])
async def test_a_token_that_is_not_ours_is_refused(events: EventServiceStub, token: str) -> None:
    for call in (
        events.ListEvents(pb.ListEventsRequest(page_token=token)),
        events.ListRejectedEvents(pb.ListRejectedEventsRequest(page_token=token)),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="page_token") as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_lists_filter(events: EventServiceStub) -> None:
    await store(
        events,
        ev.Event(event_type="view", site_id="filtered", user_id="u1", session_id="s1"),
        ev.Event(event_type="pageview", site_id="filtered", user_id="u2", session_id="s1"),
        ev.Event(event_type="purchase", site_id="filtered", user_id="u2", session_id="s2"),
    )

    async def found(**which: str) -> int:
        return len((await events.ListEvents(pb.ListEventsRequest(site_id="filtered", **which))).events)

    assert await found() == 3
    assert await found(event_type="page_view") == 2
    assert await found(event_type="view") == 0
    assert await found(user_id="u2") == 2
    assert await found(session_id="s1", user_id="u2") == 1
    assert await found(session_id="' OR 1=1 --") == 0


async def test_counts_are_by_canonical_type_and_half_open_in_time(events: EventServiceStub) -> None:
    times = [Timestamp(seconds=1_700_000_000 + second) for second in range(4)]
    await store(events, *(ev.Event(event_type="view", site_id="counted", timestamp=time) for time in times))
    await store(events, ev.Event(event_type="purchase", site_id="counted", timestamp=times[1]))
    count = await events.CountEvents(pb.CountEventsRequest(site_id="counted", start_time=times[1], end_time=times[3]))
    assert dict(count.counts) == {"page_view": 2, "purchase": 1}
    assert count.total == 3
    with pytest.raises(grpc.aio.AioRpcError, match="start_time"):
        await events.CountEvents(pb.CountEventsRequest(start_time=times[3], end_time=times[1]))


async def tailed(stub: EventServiceStub, wanted: int, **request: object) -> list[pb.TailEventsResponse]:
    """The first `wanted` events of a tail, heartbeats left out."""
    call = stub.TailEvents(pb.TailEventsRequest(**request))  # type: ignore[arg-type]
    frames: list[pb.TailEventsResponse] = []
    async for frame in call:
        if frame.WhichOneof("frame") == "event":
            frames.append(frame)
        if len(frames) == wanted:
            call.cancel()
            break
    return frames


async def test_a_tail_shows_each_event_once_in_commit_order_and_resumes(events: EventServiceStub) -> None:
    beat = {"heartbeat_interval": Duration(seconds=1)}
    opening = events.TailEvents(pb.TailEventsRequest(site_id="tailed", **beat))  # type: ignore[arg-type]
    first = await opening.read()
    assert isinstance(first, pb.TailEventsResponse)
    assert first.WhichOneof("frame") == "heartbeat"
    opening.cancel()
    for batch in range(3):
        await store(events, *(ev.Event(event_type="t", site_id="tailed", user_id=f"{batch}{n}") for n in range(3)))
    some = await tailed(events, 4, site_id="tailed", resume_token=first.resume_token)
    rest = await tailed(events, 5, site_id="tailed", resume_token=some[-1].resume_token)
    assert [frame.event.event.user_id for frame in [*some, *rest]] == [f"{b}{n}" for b in range(3) for n in range(3)]


async def test_a_live_tail_sees_what_is_stored_while_it_is_open(events: EventServiceStub) -> None:
    waiting = asyncio.create_task(tailed(events, 3, site_id="live"))
    await asyncio.sleep(0.3)
    await exchange(events, pb.AppendRequest(stream_id="live", event_rows=rows(3, site_id="live")))
    frames = await asyncio.wait_for(waiting, 10)
    assert [frame.event.offset for frame in frames] == [0, 1, 2]


async def test_a_tail_refuses_a_token_that_is_not_ours(events: EventServiceStub) -> None:
    for token in ("nonsense", "WyJ0YWlsIiw5OTk5OTk5LCIiLDBd"):
        with pytest.raises(grpc.aio.AioRpcError, match="resume_token"):
            await tailed(events, 1, resume_token=token)


async def test_rejected_rows_are_replayed_once_after_a_fix(events: EventServiceStub) -> None:
    await store(
        events,
        ev.Event(event_type="refit", site_id="refit", price=float("nan"), user_id="kept"),
        ev.Event(event_type="refit", site_id="refit", currency="xx"),
    )
    waiting = (await events.ListRejectedEvents(pb.ListRejectedEventsRequest())).rejected_events
    assert {row.reason for row in waiting} == {"INVALID_PRICE", "INVALID_CURRENCY"}
    again = await events.ReplayRejectedEvents(pb.ReplayRejectedEventsRequest(overrides=ev.Event(price=9.5)))
    assert (again.accepted_rows, [bad.reason for bad in again.rejected]) == (1, ["INVALID_CURRENCY"])
    left = (await events.ListRejectedEvents(pb.ListRejectedEventsRequest())).rejected_events
    assert [row.reason for row in left] == ["INVALID_CURRENCY"]
    chosen = pb.ReplayRejectedEventsRequest(rejected_ids=[left[0].rejected_id], overrides=ev.Event(currency="EUR"))
    assert (await events.ReplayRejectedEvents(chosen)).accepted_rows == 1
    assert (await events.ReplayRejectedEvents(chosen)).accepted_rows == 0
    stored = (await events.ListEvents(pb.ListEventsRequest(site_id="refit"))).events
    assert sorted((row.event.price, row.event.currency) for row in stored) == [(0.0, "EUR"), (9.5, "")]
    everything = await events.ListRejectedEvents(pb.ListRejectedEventsRequest(include_replayed=True))
    assert all(row.HasField("replay_time") for row in everything.rejected_events)


async def test_replaying_asks_for_ids_that_are_ids(events: EventServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="rejected_ids"):
        await events.ReplayRejectedEvents(pb.ReplayRejectedEventsRequest(rejected_ids=["x"]))
    unknown = await events.ReplayRejectedEvents(pb.ReplayRejectedEventsRequest(rejected_ids=[str(uuid.uuid4())]))
    assert unknown.accepted_rows == 0
