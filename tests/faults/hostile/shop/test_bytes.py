"""Bytes that are no requests, cut, with wrong bits, and texts that are no UTF-8."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.hostile.calls import assert_their_fault, empty_request, few, invoke
from tests.faults.hostile.shop.methods import METHODS
from tests.faults.hostile.test_bytes import filled, not_utf8

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.mark.parametrize("name", METHODS)
def test_any_bytes(channel: grpc.Channel, name: str) -> None:
    @few
    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
    def check(requests: list[bytes]) -> None:
        code, _, error = invoke(channel, METHODS[name], *requests)
        assert_their_fault(code, error)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_requests_that_are_cut_or_have_a_wrong_bit(channel: grpc.Channel, name: str) -> None:
    whole = filled(empty_request(METHODS[name])).SerializeToString()

    @few
    @given(st.integers(0, max(0, len(whole) - 1)), st.integers(0, 7), st.booleans())
    def check(place: int, bit: int, cut: bool) -> None:
        if not whole:
            return
        spoilt = bytearray(whole[:place] if cut else whole)
        if not cut:
            spoilt[place] ^= 1 << bit
        code, _, error = invoke(channel, METHODS[name], bytes(spoilt))
        assert_their_fault(code, error)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_text_that_is_not_utf8(channel: grpc.Channel, name: str) -> None:
    for field, wire in not_utf8(METHODS[name].input_type.fields):
        code, _, error = invoke(channel, METHODS[name], wire)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {code} {error.details() if error else ''}"


@pytest.mark.parametrize(
    "name", ["UpsertProducts", "StreamProducts", "UploadProducts", "SearchVectors", "BatchFeedback"]
)
def test_a_message_that_is_too_large(channel: grpc.Channel, name: str) -> None:
    code, _, _ = invoke(channel, METHODS[name], b"\x00" * (50 << 20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
