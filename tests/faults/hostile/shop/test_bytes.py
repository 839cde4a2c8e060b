"""Bytes that are no requests, cut, with wrong bits, and texts that are no UTF-8."""

import grpc
import pytest

from tests.faults.hostile.calls import invoke
from tests.faults.hostile.garbage import check_any_bytes, check_spoilt, not_utf8
from tests.faults.hostile.shop.methods import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.mark.parametrize("name", METHODS)
def test_any_bytes(channel: grpc.Channel, name: str) -> None:
    check_any_bytes(channel, METHODS[name])


@pytest.mark.parametrize("name", METHODS)
def test_requests_that_are_cut_or_have_a_wrong_bit(channel: grpc.Channel, name: str) -> None:
    check_spoilt(channel, METHODS[name])


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
