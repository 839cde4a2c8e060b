"""Events whose fields are out of bounds, absurd, or no text, as messages and as columns."""

import math

import grpc
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from tests.events.encodings import wrong_kinds
from tests.faults.hostile.calls import NOT_UTF8, assert_their_fault, event, few, fields, invoke

pytestmark = [pytest.mark.slow, pytest.mark.faults]


HOSTILE: list[tuple[str, str, ev.Event]] = [
    ("price", "INVALID_PRICE", event(price=math.nan)),
    ("price", "INVALID_PRICE", event(price=math.inf)),
    ("price", "INVALID_PRICE", event(price=-math.inf)),
    ("price", "INVALID_PRICE", event(price=1.7976931348623157e308)),
    ("timestamp", "TIMESTAMP_IN_FUTURE", event(timestamp=Timestamp(seconds=253_402_300_799))),
    ("timestamp", "TIMESTAMP_IN_FUTURE", event(timestamp=Timestamp(seconds=2**63 - 1))),
    ("timestamp", "TIMESTAMP_TOO_OLD", event(timestamp=Timestamp(seconds=-62_167_219_200))),
    ("timestamp", "TIMESTAMP_TOO_OLD", event(timestamp=Timestamp(seconds=-(2**63)))),
    ("timestamp", "TIMESTAMP_TOO_OLD", event(timestamp=Timestamp())),
    ("timestamp", "INVALID_TIMESTAMP", event(timestamp=Timestamp(seconds=1_700_000_000, nanos=-1))),
    ("timestamp", "INVALID_TIMESTAMP", event(timestamp=Timestamp(seconds=1_700_000_000, nanos=2**31 - 1))),
    ("event_id", "INVALID_EVENT_ID", event(event_id="{" + "0" * 34 + "}")),
    ("event_id", "INVALID_EVENT_ID", event(event_id="0" * 100_000)),
    ("event_type", "MISSING_EVENT_TYPE", event(event_type="")),
    ("event_type", "FIELD_TOO_LONG", event(event_type="x" * 1_000_000)),
    ("currency", "INVALID_CURRENCY", event(currency="€€€")),
    ("currency", "INVALID_CURRENCY", event(currency="US\0")),
    *((name, "FIELD_TOO_LONG", event(**{name: "ä" * 5_000})) for name in (
        "user_id", "visitor_id", "session_id", "site_id", "product_id", "order_id", "url", "path", "referrer",
    )),
    *(("attribution", "FIELD_TOO_LONG", event(attribution=ev.Attribution(**{name: "x" * 300}))) for name in (
        "source", "medium", "campaign", "term", "content",
    )),
    ("properties", "TOO_MANY_PROPERTIES", event(properties={str(n): "" for n in range(10_000)})),
    ("properties", "INVALID_PROPERTY", event(properties={"": "x"})),
    ("properties", "INVALID_PROPERTY", event(properties={"x" * 10_000: "x"})),
    ("properties", "INVALID_PROPERTY", event(properties={"x": "x" * 100_000})),
]  # fmt: skip


@pytest.mark.parametrize(("field", "reason", "bad"), HOSTILE)
def test_an_event_with_a_hostile_field(channel: grpc.Channel, field: str, reason: str, bad: ev.Event) -> None:
    request = pb.BatchCollectRequest(events=[event(), bad])
    code, answers, _ = invoke(channel, "BatchCollect", request.SerializeToString())
    assert code is grpc.StatusCode.OK
    good, refused = pb.BatchCollectResponse.FromString(answers[0]).results
    assert (good.accepted, refused.accepted, refused.reason) == (True, False, reason)
    assert field.split(".")[0] in refused.message.replace("utm_", "attribution.utm_").partition(":")[0]
    request.row_policy = ev.ROW_POLICY_ALL_OR_NOTHING
    code, _, error = invoke(channel, "BatchCollect", request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [named.startswith("events[1].") for named in fields(error)] == [True]


@pytest.mark.parametrize(
    "odd",
    [
        event(quantity=-(2**31), price=1e9),
        event(quantity=2**31 - 1, price=-1e9, event_type="refund"),
        event(event_type="purchase", price=5e-324),
        event(event_type="'; DROP TABLE bronze_events; --", user_id="\\'\"`{x:Int64}%s", path="\0\n\t"),
        event(event_type="purchase", user_id="\N{RIGHT-TO-LEFT OVERRIDE}\N{COMBINING ACUTE ACCENT}" * 50),
        event(timestamp=Timestamp(seconds=946_684_800)),
        event(event_id="FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
        event(event_id="00000000-0000-0000-0000-000000000000"),
        event(properties={"\0": "\0", "{": "}", "a.b": "\\"}),
        event(url="http://[::1", path=""),
        event(url="//" * 2_000, path=""),
    ],
)
def test_what_is_odd_and_right_is_taken_and_comes_back(channel: grpc.Channel, odd: ev.Event) -> None:
    marked = ev.Event(site_id=f"odd-{hash(odd.SerializeToString())}")
    marked.MergeFrom(odd)
    code, _, error = invoke(channel, "BatchCollect", pb.BatchCollectRequest(events=[marked]).SerializeToString())
    assert code is grpc.StatusCode.OK, error
    code, _, error = invoke(channel, "RunPipeline", pipeline.RunPipelineRequest().SerializeToString())
    assert code is grpc.StatusCode.OK, error
    listed = pb.ListEventsRequest(site_id=marked.site_id)
    code, answers, error = invoke(channel, "ListEvents", listed.SerializeToString())
    assert code is grpc.StatusCode.OK, error
    (found,) = pb.ListEventsResponse.FromString(answers[0]).events
    assert (found.event.event_type, found.event.user_id) == (marked.event_type, marked.user_id)
    assert dict(found.event.properties) == dict(marked.properties)


def test_bytes_that_are_not_utf8_in_arrow_columns(channel: grpc.Channel) -> None:
    raw = pa.array([b"login", NOT_UTF8, b"login"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    for name in ("event_type", "user_id", "currency", "another"):
        columns = {"event_type": ["login"] * 3, "site_id": ["not-utf8"] * 3, name: text}
        frames = appended(channel, f"not-utf8-{name}", pa.table(columns))
        assert frames[1].WhichOneof("frame") in ("append_result", "error")
    for method, request in (
        ("ListEvents", pb.ListEventsRequest(page_size=1_000, site_id="not-utf8")),
        ("CountEvents", pb.CountEventsRequest()),
        ("ListRejectedEvents", pb.ListRejectedEventsRequest(page_size=1_000)),
        ("RunPipeline", pipeline.RunPipelineRequest()),
    ):
        code, _, error = invoke(channel, method, request.SerializeToString())
        assert code is grpc.StatusCode.OK, error


def test_arrow_streams_that_lie(channel: grpc.Channel) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"event_type": ["login"] * 100, "price": [1.0] * 100})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = sink.getvalue().to_pybytes()

    @settings(few, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes: list[tuple[int, int]]) -> None:
        spoilt = bytearray(whole)
        for place, value in changes:
            spoilt[place] = value
        request = pb.AppendRequest(arrow_rows=pb.ArrowRows(ipc_stream=bytes(spoilt)))
        code, _, error = invoke(channel, "StreamEvents", request.SerializeToString())
        assert_their_fault(code, error)

    check()


def appended(channel: grpc.Channel, stream_id: str, table: pa.Table) -> list[pb.AppendResponse]:
    """The frames of a stream to which the table is sent."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    request = pb.AppendRequest(
        stream_id=stream_id,
        row_policy=ev.ROW_POLICY_KEEP_GOOD,
        arrow_rows=pb.ArrowRows(ipc_stream=sink.getvalue().to_pybytes()),
    )
    code, answers, error = invoke(channel, "StreamEvents", request.SerializeToString())
    assert code is grpc.StatusCode.OK, error
    return [pb.AppendResponse.FromString(answer) for answer in answers]


def test_encodings_that_no_library_writes(channel: grpc.Channel) -> None:
    """Python's parser takes them and the engine's does not: they are stored as the contract reads them, or refused."""
    for name, raw in wrong_kinds():
        code, answers, _ = invoke(channel, "StreamEvents", raw)
        assert code is grpc.StatusCode.OK, name
        frame = pb.AppendResponse.FromString(answers[1])
        assert frame.HasField("append_result") or frame.error.status.code == 3, name
        events = pb.AppendRequest.FromString(raw).event_rows.events
        code, _, error = invoke(channel, "BatchCollect", pb.BatchCollectRequest(events=events).SerializeToString())
        assert_their_fault(code, error)
