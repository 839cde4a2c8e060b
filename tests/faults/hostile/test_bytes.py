"""Bytes that are no requests, too large, cut, misspelled; methods and metadata that nobody expects."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from penstock.events.v1 import events_service_pb2 as pb
from tests.faults.hostile.calls import ANSWER_S, METHODS, NOT_UTF8, assert_their_fault, empty_request, few, invoke, path
from tests.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.faults]


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
