"""JSON that is none, too deep, too large, or of the wrong types."""

import gzip
import json
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events.v1 import events_service_pb2 as pb
from tests.faults.hostile.calls import (
    NOT_UTF8,
    assert_their_fault,
    few,
    fields,
    invoke,
)

pytestmark = [pytest.mark.slow, pytest.mark.faults]


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
