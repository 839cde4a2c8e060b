"""What becomes of requests, answers and errors between JSON and gRPC: a test for each trap of Envoy's transcoder."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from penstock import limits
from penstock.events.v1 import events_service_pb2, events_service_pb2_grpc
from tests.rest.conftest import StandInProcess
from tests.rest.stand_in import LARGE_COMMIT


def error_of(response: httpx.Response, status: int, code: int, reason: str) -> dict[str, Any]:
    """Checks an error's shape, wherever it comes from; returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body: dict[str, Any] = response.json()
    assert set(body) == {"code", "message", "details"}
    assert body["code"] == code
    infos = [detail for detail in body["details"] if detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"]
    assert [(info["reason"], info["domain"]) for info in infos] == [(reason, "penstock")]
    return body


def seen(response: httpx.Response) -> dict[str, Any]:
    """What the stand-in's Collect says that reached it."""
    assert response.status_code == 200, response.text
    found: dict[str, Any] = json.loads(response.json()["message"])
    return found


# --- the shape of answers --------------------------------------------------------------------------------------------


def test_counts_are_numbers_and_only_int64_is_a_string(rest: httpx.Client) -> None:
    body = rest.get("/events/count").json()
    assert body == {"counts": {"purchase": 2}, "total": 2, "commit": str(LARGE_COMMIT)}


def test_names_are_as_declared_and_defaults_are_printed(rest: httpx.Client) -> None:
    assert rest.get("/events/recent").json() == {"events": [], "next_page_token": ""}


def test_enums_are_printed_by_name(rest: httpx.Client) -> None:
    assert rest.get("/v1/events:rejected").json()["rejected_events"][0]["raw_format"] == "RAW_FORMAT_JSON"


@pytest.mark.parametrize("spelled", ["ROW_POLICY_KEEP_GOOD", "row_policy_keep_good", 2])
def test_enums_are_taken_in_any_case(rest: httpx.Client, spelled: object) -> None:
    body = {"events": [{"event_type": "x"}], "row_policy": spelled}
    assert rest.post("/v1/events:batchCollect", json=body).json()["commit"] == "2"


def test_both_spellings_of_a_field_are_taken(rest: httpx.Client) -> None:
    assert rest.post("/etl/cleanup", json={"retention_days": 7}).json()["commit"] == "7"
    assert rest.post("/etl/cleanup", json={"retentionDays": 7}).json()["commit"] == "7"


def test_an_unknown_field_of_a_body_vanishes(rest: httpx.Client) -> None:
    """Envoy cannot be told otherwise: so Collect takes the raw body, and OpenAPI says additionalProperties: false."""
    for misspelled in ("dryrun", "dry-run", "confirm"):
        answer = rest.post("/etl/cleanup", json={"retention_days": 30, misspelled: False})
        assert answer.status_code == 200
        assert answer.json()["dry_run"] is True  # so what destroys must be asked for in so many words
    assert rest.post("/etl/cleanup", json={"dry_run": False}).json()["dry_run"] is False
    assert rest.post("/etl/cleanup?dry_run=false").json()["dry_run"] is False


def test_a_raw_response_is_passed_as_it_is(rest: httpx.Client) -> None:
    answer = rest.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"openapi": "3.1.0"}'


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_shows_its_details_and_when_to_come_again(rest: httpx.Client) -> None:
    answer = rest.get("/events/recent", params={"event_type": "overloaded"})
    body = error_of(answer, 429, 8, "OVERLOADED")
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "7s"} in body["details"]
    assert answer.headers["retry-after"] == "7"


def test_metadata_of_an_error_is_told(rest: httpx.Client) -> None:
    body = error_of(rest.get("/events/recent", params={"event_type": "missing"}), 404, 5, "THING_NOT_FOUND")
    assert body["details"][0]["metadata"] == {"thing": "x"}


def test_an_unavailable_database_is_503_and_not_the_servers_fault(rest: httpx.Client) -> None:
    for _ in range(12):  # more than outlier detection would stand if it counted these
        answer = rest.get("/events/recent", params={"event_type": "away"})
        error_of(answer, 503, 14, "STORAGE_UNAVAILABLE")
    assert rest.get("/health").status_code == 200


def test_a_fault_tells_its_request_id_and_nothing_else(rest: httpx.Client) -> None:
    answer = rest.get("/events/recent", params={"event_type": "fault"}, headers={"x-request-id": "mine-1"})
    body = error_of(answer, 500, 13, "INTERNAL")
    assert "secret" not in answer.text
    assert "mine-1" in body["message"]


def test_a_broken_bound_names_its_field(rest: httpx.Client) -> None:
    body = error_of(rest.get("/events/recent", params={"page_size": 5000}), 400, 3, "INVALID_FIELD")
    violations = body["details"][1]["field_violations"]
    assert [violation["field"] for violation in violations] == ["page_size"]


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/events/recent?nope=1", None),  # an unknown query parameter
        ("GET", "/events/recent?page_size=many", None),
        ("POST", "/etl/cleanup", b'{"retention_days": '),
        ("POST", "/etl/cleanup", b'{"retention_days": "many"}'),
        ("POST", "/v1/events:batchCollect", b'{"events": [{"event_type": "a"}\n{"event_type": "b"}]}'),
        ("POST", "/v1/events:stream", b'{"stream_id": "a"}\n{"stream_id": "a"}\n'),  # NDJSON: only an array is taken
    ],
)
def test_what_cannot_be_transcoded_is_an_invalid_argument(
    rest: httpx.Client, method: str, path: str, content: bytes | None
) -> None:
    body = error_of(rest.request(method, path, content=content), 400, 3, "INVALID_REQUEST")
    assert body["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nowhere"), ("DELETE", "/health"), ("GET", "/v1/events:nothing")]
)
def test_an_unknown_path_or_method_is_not_found(rest: httpx.Client, method: str, path: str) -> None:
    error_of(rest.request(method, path), 404, 5, "NO_SUCH_PATH")


def test_a_grpc_path_is_no_rest_path(rest: httpx.Client) -> None:
    answer = rest.post("/penstock.operations.v1.OperationsService/GetHealth", json={})
    error_of(answer, 404, 5, "NO_SUCH_PATH")


# --- sizes -----------------------------------------------------------------------------------------------------------


def chunks(piece: bytes, times: int) -> Iterator[bytes]:
    for _ in range(times):
        yield piece


def test_a_body_past_the_limit_is_refused(rest: httpx.Client) -> None:
    event = b'{"event_type": "x", "url": "' + b"u" * 4000 + b'"},'
    body = b'{"events": [' + event * 12_500 + b'{"event_type": "x"}]}'
    assert len(body) > 50_000_000
    error_of(rest.post("/v1/events:batchCollect", content=body), 413, 3, "REQUEST_TOO_LARGE")


def test_a_body_past_grpcs_own_default_limit_is_taken(rest: httpx.Client) -> None:
    event = {"event_type": "x", "url": "u" * 4000}
    body = json.dumps({"events": [event] * 2_000}).encode()
    assert 4 * 1024 * 1024 < len(body) < limits.REQUEST_BYTES_MAX
    assert rest.post("/v1/events:batchCollect", content=body).json()["accepted_rows"] == 2_000


def test_one_event_has_a_limit_of_its_own(rest: httpx.Client) -> None:
    body = b'{"event_type": "' + b"x" * limits.COLLECT_BYTES_MAX + b'"}'
    error_of(rest.post("/collect", content=body), 413, 3, "REQUEST_TOO_LARGE")


def test_an_upload_may_have_any_size(rest: httpx.Client) -> None:
    line = b'{"event_type": "page_view"}\n'
    piece, times = line * 10_000, 200
    assert len(piece) * times > 3 * limits.REQUEST_BYTES_MAX
    answer = rest.post(
        "/v1/events:upload", content=chunks(piece, times), headers={"content-type": "application/x-ndjson"}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["accepted_rows"] == 10_000 * times
    assert body["commit"] == str(len(piece) * times)
    assert body["rejected_rows"] > 1, "it came in one piece: it was not streamed"


def test_a_large_answer_comes_whole(rest: httpx.Client) -> None:
    events = rest.get("/events/recent", params={"event_type": "large"}).json()["events"]
    assert [len(event["event"]["url"]) for event in events] == [1_000_000] * 12


def test_an_answer_past_the_limit_is_an_error_of_the_usual_shape(rest: httpx.Client) -> None:
    answer = rest.get("/events/recent", params={"event_type": "huge"})
    assert answer.status_code >= 400
    assert set(answer.json()) == {"code", "message", "details"}


def test_a_long_query_string_reaches_the_rpc(rest: httpx.Client) -> None:
    answer = rest.get("/collect", params={"event_type": "x", "note": "n" * 20_000})
    assert dict(seen(answer)["query"])["note"] == "n" * 20_000


# --- collect ---------------------------------------------------------------------------------------------------------


def test_free_query_parameters_reach_collect(rest: httpx.Client) -> None:
    """`data` and `content_type` are fields of HttpBody, and Envoy's own capture of free parameters would lose them."""
    answer = rest.get("/collect?event_type=page%20view&utm_source=a+b%26c&x=1&x=2&data=d&content_type=c&a.b=3")
    assert seen(answer)["query"] == [
        ["event_type", "page view"],
        ["utm_source", "a b&c"],
        ["x", "1"],
        ["x", "2"],
        ["data", "d"],
        ["content_type", "c"],
        ["a.b", "3"],
    ]


def test_the_original_path_cannot_be_forged(rest: httpx.Client) -> None:
    answer = rest.get("/collect?event_type=true", headers={"x-envoy-original-path": "/collect?event_type=forged"})
    assert seen(answer)["query"] == [["event_type", "true"]]


def test_a_raw_body_reaches_collect_as_it_is(rest: httpx.Client) -> None:
    body = b'{"eventType":"x",  "anythingElse": {"deep": [1, 2]}}'
    answer = rest.post("/collect", content=body, headers={"content-type": "text/plain;charset=UTF-8"})
    assert seen(answer)["data"].encode() == body
    assert seen(answer)["content_type"] == "text/plain;charset=UTF-8"


# --- headers ---------------------------------------------------------------------------------------------------------


def test_a_request_id_is_kept_and_returned_once(rest: httpx.Client) -> None:
    answer = rest.get("/collect?event_type=x", headers={"x-request-id": "mine-2"})
    assert seen(answer)["request_id"] == "mine-2"
    assert answer.headers.get_list("x-request-id") == ["mine-2"]
    refused = rest.get("/events/recent", params={"event_type": "missing"}, headers={"x-request-id": "mine-3"})
    assert refused.headers.get_list("x-request-id") == ["mine-3"]
    assert rest.get("/nowhere", headers={"x-request-id": "mine-4"}).headers["x-request-id"] == "mine-4"


def test_without_a_request_id_one_is_made(rest: httpx.Client) -> None:
    answer = rest.get("/collect?event_type=x")
    assert answer.headers["x-request-id"] == seen(answer)["request_id"]


def test_the_process_time_is_told(rest: httpx.Client) -> None:
    assert rest.get("/health").headers["x-process-time"].endswith("ms")


def test_the_client_address_is_the_one_that_envoy_saw(rest: httpx.Client) -> None:
    assert seen(rest.get("/collect?event_type=x"))["address"] == "127.0.0.1"


def test_a_proxy_on_this_host_is_believed(rest: httpx.Client) -> None:
    headers = {"x-forwarded-for": "1.2.3.4, 203.0.113.9"}
    assert seen(rest.get("/collect?event_type=x", headers=headers))["address"] == "203.0.113.9"


def test_the_user_agent_is_the_clients(rest: httpx.Client) -> None:
    assert seen(rest.get("/collect?event_type=x", headers={"user-agent": "tracker/1"}))["user_agent"] == "tracker/1"


def test_json_is_compressed_for_those_who_ask(rest: httpx.Client) -> None:
    asked = rest.get("/events/recent", params={"event_type": "compressible"})
    assert asked.headers["content-encoding"] == "gzip"
    assert len(asked.json()["events"][0]["event"]["url"]) == 10_000
    plain = rest.get("/events/recent", params={"event_type": "compressible"}, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_a_stream_id_with_a_colon_is_no_custom_verb(rest: httpx.Client) -> None:
    assert rest.get("/v1/streams/shop:7").json()["stream_id"] == "shop:7"
    # One that ends like a path of the contract has to be escaped.
    assert rest.get("/v1/streams/shop%3Atail").json()["stream_id"] == "shop:tail"


# --- gRPC on the same listener ---------------------------------------------------------------------------------------


def test_grpc_passes_with_its_status_and_details(stand_in: StandInProcess) -> None:
    with grpc.insecure_channel(stand_in.http_target) as channel:
        stub = events_service_pb2_grpc.EventServiceStub(channel)
        assert stub.CountEvents(events_service_pb2.CountEventsRequest(), timeout=10).total == 2
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListEvents(events_service_pb2.ListEventsRequest(event_type="overloaded"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing = dict(caught.value.trailing_metadata())
        assert trailing["retry-after"] == "7"
        assert trailing["grpc-status-details-bin"]


def test_grpc_streams_both_ways(stand_in: StandInProcess) -> None:
    with grpc.insecure_channel(stand_in.http_target) as channel:
        stub = events_service_pb2_grpc.EventServiceStub(channel)
        requests = (events_service_pb2.AppendRequest(stream_id="s") for _ in range(3))
        frames = [answer.WhichOneof("frame") for answer in stub.StreamEvents(requests, timeout=10)]
    assert frames == ["opened", *["append_result"] * 3, "end"]
