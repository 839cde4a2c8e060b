"""Bytes that are no requests, too large, cut, misspelled; methods and metadata that nobody expects."""

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from penstock.events.v1 import events_service_pb2 as pb
from tests.faults.hostile.calls import ANSWER_S, METHODS, NOT_UTF8, assert_their_fault, invoke, path
from tests.faults.hostile.garbage import check_any_bytes, check_spoilt, not_utf8
from tests.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_any_bytes(channel: grpc.Channel, method: MethodDescriptor) -> None:
    check_any_bytes(channel, method)


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_requests_that_are_cut_or_have_a_wrong_bit(channel: grpc.Channel, method: MethodDescriptor) -> None:
    check_spoilt(channel, method)


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_text_that_is_not_utf8(channel: grpc.Channel, method: MethodDescriptor) -> None:
    for field, wire in not_utf8(method.input_type.fields):
        code, answers, error = invoke(channel, method, wire)
        if method.name == "StreamEvents" and code is grpc.StatusCode.OK:  # only that request is refused
            frames = [pb.AppendResponse.FromString(answer) for answer in answers]
            code = {3: grpc.StatusCode.INVALID_ARGUMENT}[frames[1].error.status.code]
        assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {code} {error.details() if error else ''}"


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
