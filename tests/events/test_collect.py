"""Events as trackers send them: every spelling is understood, nothing is dropped, what is wrong is named."""

import json
from datetime import UTC, datetime

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.events import collect
from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_service_pb2_grpc import EventServiceStub


def event(**fields: object) -> ev.Event:
    return collect.from_fields(fields)


def test_a_tracker_s_event_is_read_whole() -> None:
    read = collect.from_json(
        json.dumps(
            {
                "eventType": "page_view",
                "sessionId": "s-1",
                "visitorId": "v-1",
                "siteId": "shop",
                "timestamp": "2026-03-01T12:00:00+02:00",
                "url": "https://shop.example/a?b=c",
                "path": "/a",
                "attribution": {"utmParams": {"utm_source": "mail", "utmMedium": "newsletter"}, "gclid": "g"},
                "price": "19.90",
                "quantity": 2,
                "screen": {"width": 390, "height": 844},
                "loggedIn": True,
            }
        ).encode()
    )
    assert (read.event_type, read.session_id, read.visitor_id, read.site_id) == ("page_view", "s-1", "v-1", "shop")
    assert read.timestamp.ToDatetime(tzinfo=UTC) == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert (read.attribution.source, read.attribution.medium) == ("mail", "newsletter")
    assert (read.price, read.quantity) == (19.9, 2)
    assert dict(read.properties) == {
        "attribution.gclid": "g",
        "screen": '{"width":390,"height":844}',
        "loggedIn": "true",
    }


@pytest.mark.parametrize(
    "sent",
    [
        "2026-03-01T10:00:00Z",
        "2026-03-01T10:00:00.000000+00:00",
        "2026-03-01T15:30:00+05:30",
        "20260301T100000Z",
        "2026-03-01 10:00:00",
        1772359200,
        1772359200.0,
        1772359200_000,
        1772359200_000_000,
        1772359200_000_000_000,
        "1772359200",
    ],
)
def test_a_time_may_be_any_iso_form_or_a_unix_time(sent: object) -> None:
    read = event(event_type="x", timestamp=sent)
    assert read.timestamp.ToDatetime() == datetime(2026, 3, 1, 10)


@pytest.mark.parametrize(
    ("body", "reason", "named"),
    [
        (b'{"eventType": "a",', "INVALID_JSON", "column 19"),
        (b"[1]", "INVALID_JSON", "object"),
        (b"\xff\xfe", "INVALID_JSON", "line 1"),
        (b"{}", "MISSING_EVENT_TYPE", "event_type"),
        (b'{"eventType": "a", "itemPrice": 1, "price": "cheap"}', "INVALID_PRICE", "price"),
        (b'{"eventType": "a", "price": 1e999}', "INVALID_JSON", "line 1"),
        (b'{"eventType": "a", "timeStamp": "yesterday"}', "INVALID_TIMESTAMP", "timeStamp"),
        (b'{"eventType": "a", "timestamp": 1e300}', "INVALID_TIMESTAMP", "timestamp"),
        (b'{"eventType": "a", "timestamp": [1]}', "INVALID_TIMESTAMP", "timestamp"),
        (b'{"eventType": {"a": 1}}', "INVALID_FIELD", "eventType"),
        (b'{"eventType": "a", "quantity": 1.5}', "INVALID_FIELD", "quantity"),
        (b'{"eventType": "a", "quantity": 3000000000}', "INVALID_FIELD", "quantity"),
        (b'{"eventType": "a", "deep": ' + b"[" * 40 + b"]" * 40 + b"}", "INVALID_PROPERTY", "deep"),
        (b'{"eventType": "a", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "INVALID_JSON", "line 1"),
        (
            json.dumps({"eventType": "a", **{f"p{n}": n for n in range(129)}}).encode(),
            "TOO_MANY_PROPERTIES",
            "p128",
        ),
    ],
)
def test_what_is_wrong_is_named_as_it_was_spelled(body: bytes, reason: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        collect.from_json(body)
    assert caught.value.reason == reason
    assert named in caught.value.message


SCALARS = (
    st.none()
    | st.booleans()
    | st.text()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=8))
def test_any_json_object_is_read_or_refused(fields: dict[str, object]) -> None:
    """And what is read has each field somewhere."""
    try:
        body = json.dumps({**fields, "event_type": "x"}).encode()
        read = collect.from_json(body)
    except InvalidInput:
        return
    assert read.event_type
    assert read.SerializeToString()


async def test_collect_answers_when_the_event_can_be_read_back(events: EventServiceStub) -> None:
    answer = await events.Collect(HttpBody(data=b'{"eventType": "view", "siteId": "collected", "colour": "red"}'))
    assert answer.status == "success"
    listed = await events.ListEvents(pb.ListEventsRequest(site_id="collected"))
    stored = listed.events[0]
    assert (stored.event.event_id, stored.event.event_type) == (answer.event_id, "page_view")
    assert stored.event.timestamp.seconds == answer.timestamp.seconds
    assert dict(stored.event.properties) == {"colour": "red"}
    assert stored.client_address in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"eventType": "a", "event_id": "not a uuid"}', "event_id"),
        (b'{"eventType": "a", "timestamp": "9999-01-01T00:00:00Z"}', "timestamp"),
        (b'{"eventType": "a", "timestamp": 0}', "timestamp"),
        (b'{"eventType": "a", "price": 1e12}', "price"),
        (b'{"eventType": "a", "currency": "pounds"}', "currency"),
        (json.dumps({"eventType": "a", "url": "x" * 5000}).encode(), "url"),
        (json.dumps({"eventType": "a", "k" * 200: "v"}).encode(), "properties"),
    ],
)
async def test_a_bad_field_is_refused_by_name_and_stores_nothing(
    events: EventServiceStub, body: bytes, named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events.Collect(HttpBody(data=body))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert named in str(caught.value.details())
    assert not (await events.ListRejectedEvents(pb.ListRejectedEventsRequest())).rejected_events


async def test_a_batch_has_a_result_for_each_row(events: EventServiceStub) -> None:
    given_id = "0b7e4a52-3f0f-4d3c-9d55-0b6d6b1d7b1c"
    rows = [
        ev.Event(event_type="a", event_id=given_id.upper()),
        ev.Event(event_type=""),
        ev.Event(event_type="c", price=float("inf")),
    ]
    answer = await events.BatchCollect(pb.BatchCollectRequest(events=rows))
    assert [result.accepted for result in answer.results] == [True, False, False]
    assert [result.reason for result in answer.results] == ["", "MISSING_EVENT_TYPE", "INVALID_PRICE"]
    assert answer.results[0].event_id == given_id
    assert (answer.accepted_rows, answer.rejected_rows) == (1, 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events.BatchCollect(pb.BatchCollectRequest(events=rows, row_policy=ev.ROW_POLICY_ALL_OR_NOTHING))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match="events"):
        await events.BatchCollect(pb.BatchCollectRequest())


async def upload(stub: EventServiceStub, *pieces: bytes) -> pb.UploadEventsResponse:
    requests = [pb.UploadEventsRequest(content=HttpBody(data=piece)) for piece in pieces]
    return await stub.UploadEvents(iter(requests))


async def test_an_upload_may_be_cut_anywhere_and_keeps_bad_lines_apart(events: EventServiceStub) -> None:
    good = [json.dumps({"eventType": "uploaded", "siteId": "upload", "n": n}).encode() for n in range(10)]
    lines = [*good[:4], b"{not json", b"", b'{"siteId": "upload"}', *good[4:]]
    body = b"\n".join(lines)
    answer = await upload(events, *(body[at : at + 7] for at in range(0, len(body), 7)))
    assert (answer.accepted_rows, answer.rejected_rows) == (10, 2)
    assert [(bad.index, bad.reason) for bad in answer.rejected] == [(4, "INVALID_JSON"), (5, "MISSING_EVENT_TYPE")]
    kept = await events.ListRejectedEvents(pb.ListRejectedEventsRequest(reason="INVALID_JSON"))
    assert [row.raw for row in kept.rejected_events] == [b"{not json"]
    assert kept.rejected_events[0].raw_format == ev.RAW_FORMAT_JSON


async def test_a_line_without_end_is_refused(events: EventServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="lines before it are stored"):
        await upload(events, b'{"eventType": "a"}\n', *[b"x" * 100_000] * 12)
