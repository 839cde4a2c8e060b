"""The stream's contract: offsets, policies, takeover, flow control, errors that do and do not end it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pyarrow as pa
import pytest

from penstock import limits
from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_service_pb2_grpc import EventServiceStub
from tests.events.conftest import exchange, reason, rows, summary
from tests.process import ServerProcess


def ipc(table: pa.Table) -> pb.ArrowRows:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pb.ArrowRows(ipc_stream=sink.getvalue().to_pybytes())


async def test_batches_are_answered_in_order_with_their_offsets(events: EventServiceStub) -> None:
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id="in-order", offset=0, event_rows=rows(10)),
        pb.AppendRequest(offset=10, event_rows=rows(5)),
        pb.AppendRequest(event_rows=rows(1)),
    )
    assert summary(frames) == ["opened 0", "stored 0+10", "stored 10+5", "stored 15+1", "end 16"]
    assert frames[0].flow_control.max_request_rows == limits.REQUEST_ROWS_MAX
    assert [frame.HasField("flow_control") for frame in frames] == [True, False, False, False, False]
    assert frames[1].append_result.durability == ev.DURABILITY_COMMITTED
    assert frames[1].append_result.commit > 0


@pytest.mark.parametrize(
    ("offset", "count", "answer"),
    [
        (0, 10, "OFFSET_ALREADY_STORED 10"),
        (3, 5, "OFFSET_ALREADY_STORED 10"),
        (5, 10, "OFFSET_OVERLAP 10"),
        (11, 1, "OFFSET_GAP 10"),
        (10, 2, "stored 10+2"),
    ],
)
async def test_an_offset_that_does_not_fit_is_refused_and_the_stream_goes_on(
    events: EventServiceStub, offset: int, count: int, answer: str
) -> None:
    stream_id = f"offsets-{offset}-{count}"
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id=stream_id, offset=0, event_rows=rows(10)),
        pb.AppendRequest(offset=offset, event_rows=rows(count)),
        pb.AppendRequest(event_rows=rows(1)),
    )
    after = 12 if answer.startswith("stored") else 10
    assert summary(frames) == ["opened 0", "stored 0+10", answer, f"stored {after}+1", f"end {after + 1}"]


async def test_a_bad_row_refuses_its_whole_batch_and_leaves_no_gap(events: EventServiceStub) -> None:
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id="all-or-nothing", offset=0, event_rows=rows(10)),
        pb.AppendRequest(offset=10, event_rows=rows(10, bad=[2, 7])),
        pb.AppendRequest(offset=20, event_rows=rows(10)),
        pb.AppendRequest(offset=10, event_rows=rows(3)),
    )
    assert summary(frames) == [
        "opened 0", "stored 0+10", "ROWS_REJECTED 10", "OFFSET_GAP 10", "stored 10+3", "end 13",
    ]  # fmt: skip
    assert [(bad.index, bad.reason) for bad in frames[2].error.rejected] == [(2, "INVALID_PRICE"), (7, "INVALID_PRICE")]
    count = await events.CountEvents(pb.CountEventsRequest())
    listed = await events.ListEvents(pb.ListEventsRequest(page_size=1000))
    stored = [event for event in listed.events if event.stream_id == "all-or-nothing"]
    assert sorted(event.offset for event in stored) == list(range(13))
    assert count.counts["purchase"] >= 13


async def test_keep_good_keeps_the_bad_rows_apart(events: EventServiceStub) -> None:
    policy = ev.ROW_POLICY_KEEP_GOOD
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id="keep-good", offset=0, row_policy=policy, event_rows=rows(10, bad=[0, 9])),
        pb.AppendRequest(offset=10, event_rows=rows(2)),
    )
    assert summary(frames) == ["opened 0", "stored 0+8 bad [0, 9]", "stored 10+2", "end 12"]
    kept = await events.ListRejectedEvents(pb.ListRejectedEventsRequest(stream_id="keep-good"))
    assert [(row.offset, row.reason) for row in kept.rejected_events] == [(0, "INVALID_PRICE"), (9, "INVALID_PRICE")]
    assert ev.Event.FromString(kept.rejected_events[1].raw).user_id == "user-9"


async def test_a_text_is_bounded_in_characters_not_bytes(events: EventServiceStub) -> None:
    """Rows that the quick check of an insert cannot be sure of: within the bound, or just beyond."""
    batch = pb.EventRows(
        events=[
            ev.Event(event_type="ü" * limits.EVENT_TYPE_CHARS_MAX, user_id="plain"),
            ev.Event(event_type="x", user_id="ü" * limits.ID_CHARS_MAX),
            ev.Event(event_type="x", user_id="ü" * (limits.ID_CHARS_MAX + 1)),
            ev.Event(event_type="x"),
        ]
    )
    policy = ev.ROW_POLICY_KEEP_GOOD
    frames = await exchange(events, pb.AppendRequest(stream_id="umlauts", row_policy=policy, event_rows=batch))
    assert summary(frames) == ["opened 0", "stored 0+3 bad [2]", "end 4"]
    assert frames[1].append_result.rejected[0].message.startswith("user_id: ")
    frames = await exchange(
        events, pb.AppendRequest(stream_id="umlauts", event_rows=pb.EventRows(events=batch.events[:2]))
    )
    assert summary(frames) == ["opened 4", "stored 4+2", "end 6"]


async def test_the_default_stream_takes_rows_without_offsets(events: EventServiceStub) -> None:
    frames = await exchange(events, pb.AppendRequest(event_rows=rows(3)), pb.AppendRequest(event_rows=rows(2)))
    assert summary(frames) == ["opened 0", "stored 0+3", "stored 0+2", "end 0"]


async def test_arrow_columns_are_rows_too(events: EventServiceStub) -> None:
    table = pa.table(
        {
            "event_type": pa.array(["view", "purchase"]).dictionary_encode(),
            "timestamp": pa.array([1_700_000_000_000, None], pa.timestamp("ms", "Europe/Berlin")),
            "price": pa.array([None, 9], pa.int16()),
            "site_id": ["arrow-site", "arrow-site"],
            "utm_source": ["mail", None],
            "country": ["UK", None],
        }
    )
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id="arrow", offset=0, arrow_rows=ipc(table)),
        pb.AppendRequest(offset=2, event_rows=rows(1)),
    )
    assert summary(frames) == ["opened 0", "stored 0+2", "stored 2+1", "end 3"]
    listed = await events.ListEvents(pb.ListEventsRequest(site_id="arrow-site"))
    first, second = (each.event for each in listed.events)
    assert (first.event_type, first.timestamp.seconds, first.HasField("price")) == ("page_view", 1_700_000_000, False)
    assert (first.attribution.source, dict(first.properties)) == ("mail", {"country": "UK"})
    assert (second.price, dict(second.properties)) == (9.0, {})


async def test_batches_with_different_columns_share_a_commit(events: EventServiceStub) -> None:
    tables = [
        pa.table({"event_type": ["a"], "site_id": ["mixed"], "price": [1.5], "size": ["XL"]}),
        pa.table({"event_type": ["b"], "site_id": ["mixed"], "user_id": ["u"]}),
        pa.table({"event_type": ["c"], "site_id": ["mixed"], "timestamp": pa.array([None], pa.timestamp("us"))}),
    ]
    frames = await exchange(events, *(pb.AppendRequest(stream_id="mixed", arrow_rows=ipc(table)) for table in tables))
    assert summary(frames) == ["opened 0", "stored 0+1", "stored 1+1", "stored 2+1", "end 3"]
    listed = (await events.ListEvents(pb.ListEventsRequest(site_id="mixed"))).events
    by_type = {each.event.event_type: each.event for each in listed}
    assert (by_type["a"].price, dict(by_type["a"].properties)) == (1.5, {"size": "XL"})
    assert (by_type["b"].user_id, by_type["b"].HasField("price"), dict(by_type["b"].properties)) == ("u", False, {})
    assert by_type["c"].timestamp.seconds > 1_700_000_000


async def test_an_arrow_row_is_checked_as_any_other(events: EventServiceStub) -> None:
    table = pa.table({"event_type": ["a", "b", ""], "price": [1.0, float("inf"), 1.0]})
    frames = await exchange(
        events, pb.AppendRequest(stream_id="arrow-bad", row_policy=ev.ROW_POLICY_KEEP_GOOD, arrow_rows=ipc(table))
    )
    assert summary(frames) == ["opened 0", "stored 0+1 bad [1, 2]", "end 3"]
    assert [bad.reason for bad in frames[1].append_result.rejected] == ["INVALID_PRICE", "MISSING_EVENT_TYPE"]
    kept = await events.ListRejectedEvents(pb.ListRejectedEventsRequest(stream_id="arrow-bad"))
    assert ev.Event.FromString(kept.rejected_events[0].raw).event_type == "b"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (pb.AppendRequest(arrow_rows=pb.ArrowRows(ipc_stream=b"not arrow")), "MALFORMED_MESSAGE"),
        (pb.AppendRequest(arrow_rows=ipc(pa.table({"event_type": [["a"]]}))), "MALFORMED_MESSAGE"),
        (pb.AppendRequest(stream_id="another", event_rows=rows(1)), "STREAM_ID_CHANGED"),
        (pb.AppendRequest(event_rows=rows(limits.REQUEST_ROWS_MAX + 1)), "TOO_MANY_ROWS"),
        (pb.AppendRequest(offset=-1, event_rows=rows(1)), "INVALID_FIELD"),
    ],
)
async def test_a_request_that_is_wrong_is_refused_and_the_stream_goes_on(
    events: EventServiceStub, request_: pb.AppendRequest, answer: str
) -> None:
    stream_id = f"wrong-{answer}-{abs(hash(request_.SerializeToString()))}"
    frames = await exchange(
        events,
        pb.AppendRequest(stream_id=stream_id, event_rows=rows(1)),
        request_,
        pb.AppendRequest(event_rows=rows(1)),
    )
    assert summary(frames) == ["opened 0", "stored 0+1", f"{answer} 1", "stored 1+1", "end 2"]


@pytest.mark.parametrize(
    ("opening", "code", "answer"),
    [
        (pb.AppendRequest(stream_id="a/b"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_STREAM_ID"),
        (pb.AppendRequest(offset=0), grpc.StatusCode.INVALID_ARGUMENT, "OFFSET_WITHOUT_STREAM"),
        (
            pb.AppendRequest(min_durability=ev.DURABILITY_DURABLE),
            grpc.StatusCode.FAILED_PRECONDITION,
            "DURABILITY_NOT_OFFERED",
        ),
    ],
)
async def test_a_stream_that_cannot_be_opened_ends(
    events: EventServiceStub, opening: pb.AppendRequest, code: grpc.StatusCode, answer: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await exchange(events, opening)
    assert caught.value.code() == code
    assert answer.encode() in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]  # type: ignore[operator]


async def test_a_newer_connection_takes_the_stream_over(events: EventServiceStub) -> None:
    release = asyncio.Event()

    async def older() -> AsyncIterator[pb.AppendRequest]:
        yield pb.AppendRequest(stream_id="contested", offset=0, event_rows=rows(4))
        await release.wait()

    first = events.StreamEvents(older())
    assert summary([await first.read(), await first.read()]) == ["opened 0", "stored 0+4"]  # type: ignore[list-item]
    frames = await exchange(events, pb.AppendRequest(stream_id="contested", offset=4, event_rows=rows(1)))
    assert summary(frames) == ["opened 4", "stored 4+1", "end 5"]
    last = await first.read()
    assert isinstance(last, pb.AppendResponse)
    assert reason(last.error) == "STREAM_TAKEN_OVER"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await first.read()
    assert caught.value.code() == grpc.StatusCode.ABORTED
    release.set()


async def test_get_stream_says_where_to_go_on(events: EventServiceStub) -> None:
    never = await events.GetStream(pb.GetStreamRequest(stream_id="never"))
    assert (never.next_offset, never.open, never.commit) == (0, False, 0)
    await exchange(events, pb.AppendRequest(stream_id="known", event_rows=rows(7)))
    known = await events.GetStream(pb.GetStreamRequest(stream_id="known"))
    assert (known.next_offset, known.open) == (7, False)


async def test_forged_stamps_and_repeated_fields_store_what_the_contract_reads(events: EventServiceStub) -> None:
    """Fields in the server's own number range, and a oneof set twice, which parsers may join or not."""
    honest = pb.AppendRequest(stream_id="forged", event_rows=rows(2, site_id="forged-site")).SerializeToString()
    other = pb.AppendRequest(arrow_rows=pb.ArrowRows(ipc_stream=b"x")).SerializeToString()
    tenant = b"\xca\x3e\x06victim"  # field 1001, "victim"
    row_count = b"\xe0\x3e\x63"  # field 1004, 99

    async def sending() -> AsyncIterator[bytes]:
        yield honest + tenant + row_count
        yield honest + other + honest

    async def call(channel: grpc.aio.Channel) -> list[pb.AppendResponse]:
        method = channel.stream_stream(
            "/penstock.events.v1.EventService/StreamEvents",
            request_serializer=lambda data: data,
            response_deserializer=pb.AppendResponse.FromString,
        )
        return [frame async for frame in method(sending())]

    async with grpc.aio.insecure_channel(_target(events)) as channel:
        frames = await call(channel)
    assert summary(frames) == ["opened 0", "stored 0+2", "stored 2+2", "end 4"]
    listed = await events.ListEvents(pb.ListEventsRequest(site_id="forged-site"))
    assert len(listed.events) == 4


_TARGETS: list[str] = []


@pytest.fixture(autouse=True)
def _remember(server: ServerProcess) -> None:
    _TARGETS[:] = [server.target]


def _target(_: EventServiceStub) -> str:
    return _TARGETS[0]


async def test_malformed_bytes_are_answered_and_the_stream_goes_on(server: ServerProcess) -> None:
    async def sending() -> AsyncIterator[bytes]:
        yield pb.AppendRequest(stream_id="garbage", event_rows=rows(1)).SerializeToString()
        yield b"\xff\xff\xff\xff garbage"
        yield pb.AppendRequest(event_rows=rows(1)).SerializeToString()[:-3]
        yield pb.AppendRequest(event_rows=rows(1)).SerializeToString()

    async with grpc.aio.insecure_channel(server.target) as channel:
        method = channel.stream_stream(
            "/penstock.events.v1.EventService/StreamEvents",
            request_serializer=lambda data: data,
            response_deserializer=pb.AppendResponse.FromString,
        )
        frames = [frame async for frame in method(sending())]
    assert summary(frames) == [
        "opened 0", "stored 0+1", "MALFORMED_MESSAGE 1", "MALFORMED_MESSAGE 1", "stored 1+1", "end 2",
    ]  # fmt: skip


async def test_a_client_that_reads_no_answers_is_pushed_back(server: ServerProcess) -> None:
    """It can have no more outstanding than announced, plus what the transport holds."""
    sent = 0
    bound = 50_000

    async def sending() -> AsyncIterator[pb.AppendRequest]:
        nonlocal sent
        payload = rows(1)
        while sent < bound:
            sent += 1
            yield pb.AppendRequest(stream_id="unread", event_rows=payload)

    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        call = EventServiceStub(channel).StreamEvents(sending())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(2.0)
        call.cancel()
    assert limits.STREAM_OUTSTANDING_REQUESTS_MAX <= sent < bound
