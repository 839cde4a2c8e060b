"""Whatever a client sends: a status that says it was the client's fault and which field, and a server that lives."""

import gzip
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.kpis.v1 import kpis_service_pb2 as kpis
from penstock.operations.v1 import operations_service_pb2 as operations
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from tests.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.faults]

METHODS: list[MethodDescriptor] = [
    method
    for contract in (pb, kpis, operations, pipeline)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
THEIR_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
}
ANSWER_S = 20.0
WATCH_S = 0.3  # a stream without end is watched so long
NOT_UTF8 = b"\xff\xfe\x80"
few = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def path(method: MethodDescriptor) -> str:
    """As it is called on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def empty_request(method: MethodDescriptor) -> Message:
    """A request with nothing in it."""
    made: Message = GetMessageClass(method.input_type)()
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose pipeline runs only when it is asked to: hundreds of small runs are most of the time else."""
    with ServerProcess(tmp_path_factory.mktemp("server"), env={"PENSTOCK_PIPELINE_ENABLED": "false"}) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """To the module's server."""
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as opened:
        yield opened


@pytest.fixture(autouse=True)
def unharmed(server: ServerProcess, channel: grpc.Channel) -> Iterator[None]:
    """After every test the server lives, takes events, and met nothing that it had not foreseen."""
    log = server.data_dir / "server.log"
    before = log.stat().st_size
    yield
    assert server.running()
    good = pb.BatchCollectRequest(events=[ev.Event(event_type="login")])
    assert invoke(channel, "BatchCollect", good.SerializeToString())[0] is grpc.StatusCode.OK
    with log.open("rb") as read:
        read.seek(before)
        said = read.read().decode(errors="replace")
    assert "Traceback" not in said, said
    assert "[error" not in said, said


def invoke(
    channel: grpc.Channel,
    name: str | MethodDescriptor,
    *requests: bytes,
    metadata: Iterable[tuple[str, str | bytes]] = (),
) -> tuple[grpc.StatusCode, list[bytes], grpc.RpcError | None]:
    """Sends bytes as they are: the status, the answers' bytes, and the error."""
    method = name if isinstance(name, MethodDescriptor) else next(each for each in METHODS if each.name == name)
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    call = getattr(channel, kind)(path(method))
    endless = method.server_streaming and not method.client_streaming
    answers: list[bytes] = []
    try:
        given_ = iter(requests) if method.client_streaming else requests[0]
        answer = call(given_, timeout=WATCH_S if endless else ANSWER_S, metadata=tuple(metadata))
        answers += answer if method.server_streaming else [answer]
    except grpc.RpcError as error:
        if endless and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return grpc.StatusCode.OK, answers, None
        return error.code(), answers, error
    return grpc.StatusCode.OK, answers, None


def assert_their_fault(code: grpc.StatusCode, error: grpc.RpcError | None) -> None:
    """OK, or a status that says it was the client's fault."""
    assert code is grpc.StatusCode.OK or code in THEIR_FAULT, f"{code} {error.details() if error else ''}"


def fields(error: grpc.RpcError | None) -> list[str]:
    """The fields that an error names."""
    assert error is not None
    found = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    bad = error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(found).details:
        detail.Unpack(bad)
    return [violation.field for violation in bad.field_violations]


# --- any bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_any_bytes(channel: grpc.Channel, method: MethodDescriptor) -> None:
    @few
    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    def check(requests: list[bytes]) -> None:
        code, _, error = invoke(channel, method, *requests)
        assert_their_fault(code, error)

    check()


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_requests_that_are_cut_or_have_a_wrong_bit(channel: grpc.Channel, method: MethodDescriptor) -> None:
    whole = filled(empty_request(method)).SerializeToString()

    @few
    @given(st.integers(0, max(0, len(whole) - 1)), st.integers(0, 7), st.booleans())
    def check(place: int, bit: int, cut: bool) -> None:
        if not whole:
            return
        spoilt = bytearray(whole[:place] if cut else whole)
        if not cut:
            spoilt[place] ^= 1 << bit
        code, _, error = invoke(channel, method, bytes(spoilt))
        assert_their_fault(code, error)

    check()


def filled(message: Message, depth: int = 0) -> Message:
    """The message with something in every field."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if depth < 3 and not field.message_type.GetOptions().map_entry:
                inner = getattr(message, field.name)
                filled(inner.add() if field.is_repeated else inner, depth + 1)
                if not field.is_repeated:
                    inner.SetInParent()
            continue
        value: Any = {FieldDescriptor.CPPTYPE_STRING: b"7" if field.type == FieldDescriptor.TYPE_BYTES else "7"}.get(
            field.cpp_type, 1
        )
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_text_that_is_not_utf8(channel: grpc.Channel, method: MethodDescriptor) -> None:
    for field, wire in not_utf8(method.input_type.fields):
        code, answers, error = invoke(channel, method, wire)
        if method.name == "StreamEvents" and code is grpc.StatusCode.OK:  # only that request is refused
            frames = [pb.AppendResponse.FromString(answer) for answer in answers]
            code = {3: grpc.StatusCode.INVALID_ARGUMENT}[frames[1].error.status.code]
        assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {code} {error.details() if error else ''}"


def not_utf8(declared: Iterable[FieldDescriptor], depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Each text field, and a message in which it alone is set, to bytes that are no UTF-8."""
    for field in declared:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield field.name, delimited(field.number, NOT_UTF8)
        elif field.message_type is not None and depth < 4 and field.message_type.full_name.startswith("penstock."):
            for name, wire in not_utf8(field.message_type.fields, depth + 1):
                yield f"{field.name}.{name}", delimited(field.number, wire)


def delimited(number: int, data: bytes) -> bytes:
    """A length-delimited field of at most 127 bytes."""
    assert len(data) < 128
    return varint(number << 3 | 2) + bytes([len(data)]) + data


def varint(value: int) -> bytes:
    """A protobuf varint."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


@pytest.mark.parametrize("megabytes", [17, 50])
@pytest.mark.parametrize("name", ["BatchCollect", "StreamEvents", "UploadEvents", "Collect"])
def test_a_message_that_is_too_large(channel: grpc.Channel, name: str, megabytes: int) -> None:
    code, _, _ = invoke(channel, name, b"\x00" * (megabytes << 20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_that_grows_too_large(server: ServerProcess) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options, compression=grpc.Compression.Gzip) as small_on_the_wire:
        code, _, _ = invoke(small_on_the_wire, "Collect", b"\x00" * (200 << 20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("unknown", ["/penstock.events.v1.EventService/Nothing", "/no.Service/X", "/", "//", "/a/b/c"])
def test_a_method_that_is_not_there(channel: grpc.Channel, unknown: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(unknown)(b"", timeout=ANSWER_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("x-request-id", "x" * 5_000),
        ("x-request-id", ""),
        ("x-forwarded-for", "not an address, 999.1.1.1, [::1"),
        ("x-forwarded-for", ",".join(["10.0.0.1"] * 300)),
        ("x-user-agent", "x" * 5_000),
        ("x-envoy-original-path", "//[/collect?event_type=login"),
        ("x-envoy-original-path", "/collect?%ff=%fe&event_type=%c3%28&=&&&"),
        ("anything-bin", NOT_UTF8),
    ],
)
def test_metadata(channel: grpc.Channel, key: str, value: str | bytes) -> None:
    code, _, error = invoke(channel, "Collect", b"", metadata=[(key, value)])
    assert_their_fault(code, error)


# --- events -----------------------------------------------------------------------------------------------------------


def event(**given_: object) -> ev.Event:
    return ev.Event(**{"event_type": "login", **given_})  # type: ignore[arg-type]


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


# --- JSON -------------------------------------------------------------------------------------------------------------


def nested(opening: str, closing: str, levels: int, inside: str) -> bytes:
    return (opening * levels + inside + closing * levels).encode()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (nested("[", "]", 100_000, ""), ""),
        (nested('{"a":', "}", 100_000, "1"), ""),
        (nested('{"attribution":{"utmParams":', "}}", 400, "{}"), ""),
        (b'{"event_type":"a","attribution":' + nested('{"utmParams":', "}", 1_000, "{}") + b"}", "attribution"),
        (b'{"event_type":"a","x":' + nested("[", "]", 900, "") + b"}", "x"),
        (b'{"event_type":"a","properties":{"p":' + nested('{"a":', "}", 900, "1") + b"}}", "p"),
        (b"", ""),
        (b"\x00\xff", ""),
        (b"[]", ""),
        (b"null", ""),
        (b'"event"', ""),
        (b'{"event_type":"a"', ""),
        (b'{"event_type":"\xff\xfe"}', ""),
        (b'{"event_type":"\\ud800"}', ""),
        (b'{"event_type":"a","price":NaN}', ""),
        (b'{"event_type":"a","price":1e999}', ""),
        (b'{"event_type":"a","price":' + b"9" * 5_000 + b"}", ""),
        (b'{"event_type":"a","price":' + b"9" * 300 + b"}", "price"),
        (b'{"event_type":"a","price":"nan"}', "price"),
        (b'{"event_type":"a","price":"1e400"}', "price"),
        (b'{"event_type":"a","price":true}', "price"),
        (b'{"event_type":"a","price":[1]}', "price"),
        (b'{"event_type":"a","quantity":1.5}', "quantity"),
        (b'{"event_type":"a","quantity":1e30}', "quantity"),
        (b'{"event_type":"a","quantity":{}}', "quantity"),
        (b'{"event_type":["a"]}', "event_type"),
        (b'{"event_type":true}', "event_type"),
        (b'{"eventType":"a","visitorId":{}}', "visitorId"),
        (b'{"event_type":"a","timestamp":"yesterday"}', "timestamp"),
        (b'{"event_type":"a","timestamp":"9999-12-31T23:59:59-23:59"}', "timestamp"),
        (b'{"event_type":"a","timestamp":"0001-01-01T00:00:00+23:59"}', "timestamp"),
        (b'{"event_type":"a","timestamp":1e300}', "timestamp"),
        (b'{"event_type":"a","timestamp":-1e300}', "timestamp"),
        (b'{"event_type":"a","timestamp":"' + b"9" * 4_000 + b'"}', "timestamp"),
        (b'{"event_type":"a","timestamp":[]}', "timestamp"),
        (b'{"event_type":"a","timestamp":0}', "timestamp"),
        (b'{"event_type":"a","event_id":"x"}', "event_id"),
        (b'{"event_type":"a","attribution":{"utm_source":["x"]},"timestamp":{}}', "timestamp"),
        (b'{"event_type":"a","":"nameless"}', "properties"),
        (b'{"event_type":"a","x":"' + b"y" * 2_000_000 + b'"}', ""),
        (("{" + ",".join(f'"k{n}":1' for n in range(10_000)) + ',"event_type":"a"}').encode(), "k128"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_json(channel: grpc.Channel, body: bytes, named: str) -> None:
    request = HttpBody(content_type="application/json", data=body)
    code, _, error = invoke(channel, "Collect", request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT, error
    if named:
        assert fields(error) == [named]


def test_any_json(channel: grpc.Channel) -> None:
    names = st.sampled_from(["event_type", "eventType", "timestamp", "price", "quantity", "properties", "attribution"])
    texts = st.text(max_size=20)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=3),
        max_leaves=8,
    )

    @settings(few, max_examples=60)
    @given(st.dictionaries(names | texts, values, max_size=5))
    def check(body: dict[str, Any]) -> None:
        import json

        data = json.dumps({"event_type": "a", **body}).encode()
        code, _, error = invoke(channel, "Collect", HttpBody(data=data).SerializeToString())
        assert_their_fault(code, error)

    check()


@pytest.mark.parametrize(
    ("lines", "accepted", "rejected"),
    [
        ([b'{"event_type":"a"}', NOT_UTF8, nested("[", "]", 100_000, ""), b'{"event_type":"a"}'], 2, 2),
        ([b'{"event_type":"\\ud800"}', b'{"event_type":"a","price":1e999}', b"\r", b"\0"], 0, 3),
        ([gzip.compress(b'{"event_type":"a"}' * 100).replace(b"\n", b"")], 0, 1),
    ],
)
def test_lines(channel: grpc.Channel, lines: list[bytes], accepted: int, rejected: int) -> None:
    body = pb.UploadEventsRequest(content=HttpBody(data=b"\n".join(lines)))
    code, answers, error = invoke(channel, "UploadEvents", body.SerializeToString())
    assert code is grpc.StatusCode.OK, error
    answer = pb.UploadEventsResponse.FromString(answers[0])
    assert (answer.accepted_rows, answer.rejected_rows) == (accepted, rejected)
    assert len(answer.rejected) == rejected


def test_a_line_without_end(channel: grpc.Channel) -> None:
    piece = pb.UploadEventsRequest(content=HttpBody(data=b"x" * 600_000)).SerializeToString()
    code, _, _ = invoke(channel, "UploadEvents", piece, piece, piece)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


# --- requests that are well-formed and absurd -------------------------------------------------------------------------

FAR = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
BEYOND = Timestamp(seconds=2**63 - 1, nanos=-(2**31))


@pytest.mark.parametrize(
    ("name", "request_", "named"),
    [
        ("ListEvents", pb.ListEventsRequest(page_size=-1), "page_size"),
        ("ListEvents", pb.ListEventsRequest(page_size=2**31 - 1), "page_size"),
        ("ListEvents", pb.ListEventsRequest(event_type="x" * 65), "event_type"),
        ("ListEvents", pb.ListEventsRequest(page_token="€"), "page_token"),
        ("CountEvents", pb.CountEventsRequest(start_time=BEYOND), "start_time"),
        ("CountEvents", pb.CountEventsRequest(start_time=FAR, end_time=Timestamp(seconds=1)), "start_time"),
        ("TailEvents", pb.TailEventsRequest(resume_token="x" * 500), "resume_token"),
        ("TailEvents", pb.TailEventsRequest(heartbeat_interval=Duration(seconds=-1)), "heartbeat_interval"),
        ("TailEvents", pb.TailEventsRequest(heartbeat_interval=Duration(seconds=2**62)), "heartbeat_interval"),
        ("GetStream", pb.GetStreamRequest(), "stream_id"),
        ("GetStream", pb.GetStreamRequest(stream_id="a/../b"), "stream_id"),
        ("GetStream", pb.GetStreamRequest(stream_id="a\n"), "stream_id"),
        ("ReplayRejectedEvents", pb.ReplayRejectedEventsRequest(rejected_ids=["x"]), "rejected_ids"),
        ("BatchCollect", pb.BatchCollectRequest(), "events"),
        ("BatchCollect", pb.BatchCollectRequest(events=[event()] * 10_001), "events"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=59)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=61)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=60, nanos=-1)), "window"),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=2**63 - 1)), "window"),
        ("WatchMetrics", kpis.WatchMetricsRequest(interval=Duration(nanos=1)), "interval"),
        ("GetRevenueTrend", kpis.GetRevenueTrendRequest(limit=-5), "limit"),
        ("GetConversionTrend", kpis.GetConversionTrendRequest(limit=10_001), "limit"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="2024-02-30"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="0000-00-00"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="today"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="0001-01-01"), "target_date"),
        ("CalculateDailyMetrics", pipeline.CalculateDailyMetricsRequest(target_date="9999-12-31"), "target_date"),
        ("ProcessEventType", pipeline.ProcessEventTypeRequest(), "event_type"),
        ("RunPipeline", pipeline.RunPipelineRequest(batch_size=-1), "batch_size"),
        ("RunPipeline", pipeline.RunPipelineRequest(on_conflict=77), "on_conflict"),  # type: ignore[arg-type]
        ("Cleanup", pipeline.CleanupRequest(retention_days=-1), "retention_days"),
        ("GetOperation", pipeline.GetOperationRequest(id=""), "id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_out_of_bounds_names_its_field(
    channel: grpc.Channel, name: str, request_: Message, named: str
) -> None:
    code, _, error = invoke(channel, name, request_.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT, error
    assert [each.partition("[")[0].partition(".")[0] for each in fields(error)] == [named]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("CountEvents", pb.CountEventsRequest(start_time=Timestamp(seconds=-62_135_596_800), end_time=FAR)),
        ("CountEvents", pb.CountEventsRequest(end_time=Timestamp(seconds=1))),
        ("GetMetrics", kpis.GetMetricsRequest(site_id="'\\\0")),
        ("GetMetrics", kpis.GetMetricsRequest(window=Duration(seconds=2_678_400))),
        ("GetRevenueTrend", kpis.GetRevenueTrendRequest(limit=10_000, window=Duration(seconds=2_678_400))),
        ("ProcessEventType", pipeline.ProcessEventTypeRequest(event_type="'; --")),
        ("ListRejectedEvents", pb.ListRejectedEventsRequest(stream_id="'\0")),
        ("GetOperation", pipeline.GetOperationRequest(id="../../x")),
        ("CancelOperation", pipeline.CancelOperationRequest(id="\0")),
        ("Cleanup", pipeline.CleanupRequest(dry_run=True, retention_days=3_650)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_is_only_odd_is_answered(channel: grpc.Channel, name: str, request_: Message) -> None:
    code, _, error = invoke(channel, name, request_.SerializeToString())
    assert_their_fault(code, error)


def tokens() -> st.SearchStrategy[str]:
    """Tokens that nobody gave: any text, and JSON in the form that ours have."""
    import base64
    import json

    values = st.integers(-(10**30), 10**30) | st.text(max_size=10) | st.none() | st.floats(allow_nan=True)
    kinds = st.sampled_from(["events", "rejected", "tail", "list"])
    made = st.tuples(kinds, st.lists(values, max_size=4)).map(
        lambda each: base64.urlsafe_b64encode(json.dumps([each[0], *each[1]]).encode()).decode().rstrip("=")
    )
    return made | st.text(max_size=60)


TAKES_TOKEN: dict[str, Callable[[str], Message]] = {
    "ListEvents": lambda token: pb.ListEventsRequest(page_token=token),
    "ListRejectedEvents": lambda token: pb.ListRejectedEventsRequest(page_token=token),
    "TailEvents": lambda token: pb.TailEventsRequest(resume_token=token),
}


@pytest.mark.parametrize("name", TAKES_TOKEN)
def test_tokens_that_nobody_gave(channel: grpc.Channel, name: str) -> None:
    @settings(few, max_examples=40)
    @given(tokens())
    def check(token: str) -> None:
        if len(token) <= 512 and token.isprintable():
            code, _, error = invoke(channel, name, TAKES_TOKEN[name](token).SerializeToString())
            assert_their_fault(code, error)

    check()
