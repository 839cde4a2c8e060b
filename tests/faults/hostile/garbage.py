"""Bytes that are no requests, and that a method which gets them says so."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.hostile.calls import NOT_UTF8, assert_their_fault, empty_request, few, invoke


def check_any_bytes(channel: grpc.Channel, method: MethodDescriptor) -> None:
    """Sends any bytes."""

    @few
    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    def check(requests: list[bytes]) -> None:
        code, _, error = invoke(channel, method, *requests)
        assert_their_fault(code, error)

    check()


def check_spoilt(channel: grpc.Channel, method: MethodDescriptor) -> None:
    """Sends a request that is cut, or has a wrong bit."""
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
