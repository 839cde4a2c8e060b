"""Streams over HTTP: server-sent events, the JSON array in, gRPC-Web, and what a browser asks first."""

import base64
import json
import time
from typing import Any

import grpc
import httpx
import pytest

from penstock.events.v1 import events_service_pb2
from tests.rest.conftest import StandInProcess
from tests.rest.stand_in import QUIET_S, TAIL_PAUSE_S
from tests.rest.test_transcoding import error_of


def frames_of(response: httpx.Response) -> list[tuple[float, dict[str, Any]]]:
    """Each server-sent event, with when it came."""
    found = []
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: ")
            found.append((time.monotonic(), json.loads(line.removeprefix("data: "))))
    return found


def test_a_stream_is_server_sent_events_each_flushed_at_once(rest: httpx.Client) -> None:
    with rest.stream("GET", "/v1/events:tail", headers={"accept-encoding": "gzip"}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert "content-encoding" not in response.headers
        frames = frames_of(response)
    assert [next(iter(set(body) - {"resume_token"})) for _, body in frames] == ["heartbeat"] * 3 + ["end"]
    assert frames[-1][0] - frames[0][0] > 2 * TAIL_PAUSE_S, "the frames were held back"


def test_an_error_before_the_first_message_is_an_ordinary_error(rest: httpx.Client) -> None:
    answer = rest.get("/v1/events:tail", params={"resume_token": "refused"})
    assert answer.status_code == 400
    assert error_of(answer, 400, 11, "RESUME_TOKEN_EXPIRED")


def test_a_quiet_stream_tells_that_it_is_open(rest: httpx.Client) -> None:
    started = time.monotonic()
    with rest.stream("GET", "/v1/events:tail", params={"resume_token": "quiet"}) as response:
        assert response.status_code == 200
        assert time.monotonic() - started < QUIET_S / 2


def test_an_error_in_mid_stream_is_a_clean_end_to_rest(rest: httpx.Client) -> None:
    """Hence the explicit last frame: a reader that sees none knows that something is amiss."""
    with rest.stream("GET", "/v1/events:tail", params={"resume_token": "breaks"}) as response:
        assert response.status_code == 200
        frames = [body for _, body in frames_of(response)]
    assert all("heartbeat" in body for body in frames)


def test_the_error_frame_tells_what_the_status_cannot(rest: httpx.Client) -> None:
    with rest.stream("GET", "/v1/events:tail", params={"resume_token": "tells"}) as response:
        frames = [body for _, body in frames_of(response)]
    assert frames[-1]["error"]["code"] == 14


def test_an_array_of_requests_becomes_a_stream(rest: httpx.Client) -> None:
    rows = {"event_rows": {"events": [{"event_type": "a"}, {"event_type": "b"}]}}
    with rest.stream("POST", "/v1/events:stream", json=[{"stream_id": "s", **rows}, rows]) as response:
        frames = [body for _, body in frames_of(response)]
    assert frames[0]["opened"]["stream_id"] == "s"
    assert [frame["append_result"]["accepted_rows"] for frame in frames if "append_result" in frame] == [2, 2]
    assert frames[-1]["end"]["next_offset"] == "4"


def test_a_client_that_leaves_ends_the_call(rest: httpx.Client) -> None:
    with rest.stream("GET", "/sse/metrics") as response:
        next(response.iter_lines())
    assert rest.get("/health").status_code == 200


@pytest.mark.parametrize("encoding", ["application/grpc-web+proto", "application/grpc-web-text+proto"])
def test_grpc_web(rest: httpx.Client, encoding: str) -> None:
    text = "text" in encoding
    message = events_service_pb2.CountEventsRequest(event_type="purchase").SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    answer = rest.post(
        "/penstock.events.v1.EventService/CountEvents",
        content=base64.b64encode(frame) if text else frame,
        headers={"content-type": encoding, "accept": encoding, "x-grpc-web": "1"},
    )
    assert answer.headers["content-type"] == encoding
    body = (
        b"".join(base64.b64decode(part + b"=") for part in answer.content.split(b"=") if part)
        if text
        else answer.content
    )
    size = int.from_bytes(body[1:5], "big")
    assert events_service_pb2.CountEventsResponse.FromString(body[5 : 5 + size]).total == 2
    assert body[5 + size] == 0x80
    assert b"grpc-status:0" in body[10 + size :]


# --- browsers --------------------------------------------------------------------------------------------------------


def test_a_preflight_is_answered_for_any_origin(rest: httpx.Client) -> None:
    answer = rest.options(
        "/collect",
        headers={
            "origin": "https://shop.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-request-id",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-request-id" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/events/recent?event_type=missing", "/nowhere"])
def test_answers_and_errors_can_be_read_by_a_page(rest: httpx.Client, path: str) -> None:
    answer = rest.get(path, headers={"origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    exposed = answer.headers["access-control-expose-headers"]
    assert {"retry-after", "x-process-time", "x-request-id"} <= {name.strip() for name in exposed.split(",")}


def test_health_is_served_through_envoy_too(stand_in: StandInProcess) -> None:
    with grpc.insecure_channel(stand_in.http_target) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=10) == b"\x08\x01"
