"""Every REST path through the whole stack: real Envoy, real server, real engine; each in success and in failure."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.process import ServerProcess
from tests.rest import discovery, edge
from tests.rest.path_list import template_of
from tests.rest.test_transcoding import error_of

NDJSON = b'{"event_type": "page_view", "user_id": "upload-1"}\n{"event_type": "page_view", "user_id": "upload-2"}\n'
ROWS = {"event_rows": {"events": [{"event_type": "page_view", "user_id": "stream-1"}]}}
KPI = {
    "name": "signups",
    "label": "Sign-ups",
    "unit": "count",
    "type": "TYPE_COUNT",
    "expression": "count(event_type = 'signup')",
}
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, OUT_OF_RANGE = 3, 5, 9, 11

# Method, path, JSON body (bytes: as they are), fields that the answer must have.
SUCCESSES: list[tuple[str, str, object, set[str]]] = [
    ("GET", "/", None, {"name", "version", "links"}),
    ("GET", "/health", None, {"status", "timestamp", "uptime_seconds", "database", "lag_seconds"}),
    ("GET", "/healthz", None, {"status", "dependencies"}),
    ("GET", "/live", None, {"status"}),
    ("GET", "/ready", None, {"status", "dependencies"}),
    ("GET", "/status", None, {"status", "version", "dependencies", "versions", "ingest", "memory_bytes"}),
    ("GET", "/openapi.json", None, {"openapi", "paths", "components"}),
    ("POST", "/collect", {"eventType": "purchase", "userId": "u1", "price": 9.5, "more": [1]}, {"status", "event_id"}),
    ("GET", "/collect?event_type=page_view&user_id=u1&utm_source=mail&data=d", None, {"status", "event_id"}),
    ("POST", "/v1/events:batchCollect", {"events": [{"event_type": "page_view"}]}, {"results", "accepted_rows"}),
    ("POST", "/v1/events:upload", NDJSON, {"accepted_rows", "rejected_rows", "rejected", "commit"}),
    ("GET", "/events/recent?page_size=2&event_type=page_view", None, {"events", "next_page_token"}),
    ("GET", "/events/count", None, {"counts", "total", "commit"}),
    ("GET", "/v1/events:rejected", None, {"rejected_events", "next_page_token"}),
    ("POST", "/v1/events:replayRejected", {"reason": "NONE_SUCH"}, {"accepted_rows", "rejected", "commit"}),
    ("GET", "/v1/streams/never-written", None, {"stream_id", "next_offset", "open", "commit"}),
    ("POST", "/etl/run", {}, {"name", "done"}),
    ("POST", "/etl/run-sync", {}, {"runs", "rows_processed", "duration_ms"}),
    ("POST", "/etl/run-sync?batch_size=1000", None, {"runs", "rows_processed", "duration_ms"}),
    ("POST", "/etl/process/page_view?batch_size=1000", {}, {"runs", "rows_processed", "duration_ms"}),
    ("POST", "/etl/calculate-daily-metrics?target_date=2026-01-01", None, {"metrics"}),
    ("GET", "/etl/status", None, {"last_commit", "processed_commit", "lag_seconds", "unprocessed", "tables"}),
    ("GET", "/etl/recent-sessions?limit=5", None, {"sessions"}),
    ("POST", "/etl/cleanup", {"retention_days": 90, "dry_run": True}, {"dry_run", "cutoff", "removed"}),
    ("GET", "/timetravel/history?table=gold&limit=5", None, {"versions", "current_version", "oldest_version"}),
    ("GET", "/timetravel/data?table=silver&limit=5", None, {"version", "columns", "rows", "next_page_token"}),
    ("GET", "/metrics", None, {"recent_events", "freshness", "reason"}),
    ("GET", "/trend/conversion?limit=10", None, {"data", "summary", "reason"}),
    ("GET", "/trend/revenue?limit=10", None, {"data", "summary", "reason"}),
    ("GET", "/timetravel/diff?table=bronze&from_version=1", None, {"from_version", "to_version", "rows", "windows"}),
    ("GET", "/v1/kpis", None, {"kpis"}),
    ("GET", "/v1/kpis/gmv", None, {"kpi"}),
    ("POST", "/v1/kpis", KPI, {"kpi"}),
    ("PATCH", "/v1/kpis/signups?update_mask=label", {"label": "New accounts"}, {"kpi"}),
    ("DELETE", "/v1/kpis/signups", None, set()),
    ("POST", "/v1/kpis:query", {"metrics": ["gmv"], "grain": "day"}, {"rows", "total", "version", "currency"}),
    ("GET", "/v1/trends/gmv?limit=5", None, {"data", "summary", "reason"}),
    ("GET", "/anomaly/conversion?limit=5", None, {"data", "metric", "method", "method_reason", "reason"}),
    ("GET", "/v1/anomalies/gmv?method=mad&sensitivity=0.7", None, {"data", "metric", "anomalies"}),
    ("GET", "/forecast/conversion", None, {"trend_direction", "method", "data_points", "reason"}),
    ("GET", "/v1/forecasts/page_views?horizon=3&window=60s", None, {"data", "method", "reason"}),
    ("GET", "/ml/features", None, {"aggregate", "reason"}),
    ("GET", "/ml/features?user_id=u1", None, {"user", "reason"}),
    ("GET", "/dq/status", None, {"completeness", "validity", "timeliness", "consistency", "grade"}),
    ("GET", "/latency", None, {"data", "summary", "reason"}),
    ("POST", "/query", {"sql": "SELECT 1 AS one"}, {"sql", "columns", "data", "row_count", "statistics", "cached"}),
    ("POST", "/api/v1/sql/run", {"sql": "SELECT count() AS n FROM events"}, {"sql", "columns", "data", "truncated"}),
    ("POST", "/api/v1/sql/validate", {"sql": "SELECT url FROM system.tables"}, {"allowed", "reasons"}),
    ("POST", "/api/v1/sql/explain", {"sql": "SELECT count() AS n FROM events"}, {"version", "bytes"}),
    ("GET", "/v1/queries/costs", None, {"costs"}),
    *discovery.SUCCESSES,
    *edge.SUCCESSES,
]

# Method, path, JSON body, fields that the first frame must have.
STREAMS: list[tuple[str, str, object, set[str]]] = [
    ("GET", "/sse/metrics", None, {"metrics"}),
    ("GET", "/v1/events:tail", None, {"heartbeat", "resume_token"}),
    ("POST", "/v1/events:stream", [{"stream_id": "begun", "offset": 0, **ROWS}], {"opened", "flow_control"}),
    ("POST", "/api/v1/sql/stream", {"sql": "SELECT 1 AS one"}, {"header"}),
]

# Method, path, JSON body (bytes: as they are), HTTP status, gRPC code, reason.
FAILURES: list[tuple[str, str, object, int, int, str]] = [
    ("GET", "/?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/health?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/healthz?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/live?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/live", {}, 404, NOT_FOUND, "NO_SUCH_PATH"),
    ("GET", "/ready?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/ready", {}, 404, NOT_FOUND, "NO_SUCH_PATH"),
    ("GET", "/status?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/openapi.json?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/openapi.yaml", None, 404, NOT_FOUND, "NO_SUCH_PATH"),
    ("POST", "/collect", b'{"eventType": "x"', 400, INVALID_ARGUMENT, "INVALID_JSON"),
    ("POST", "/collect", {"userId": "u1"}, 400, INVALID_ARGUMENT, "MISSING_EVENT_TYPE"),
    ("GET", "/collect?user_id=u1", None, 400, INVALID_ARGUMENT, "MISSING_EVENT_TYPE"),
    ("POST", "/v1/events:batchCollect", {"events": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/events:stream", {"stream_id": "no-array"}, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/v1/events:upload", b'{"a": "' + b"x" * 1_100_000, 400, INVALID_ARGUMENT, "LINE_TOO_LONG"),
    ("GET", "/events/recent?page_size=1001", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/events/recent?page_token=nonsense", None, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    (
        *("GET", "/events/count?start_time=2026-02-01T00:00:00Z&end_time=2026-01-01T00:00:00Z", None),
        *(400, INVALID_ARGUMENT, "INVALID_TIME_RANGE"),
    ),
    ("GET", "/v1/events:rejected?page_token=nonsense", None, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    ("POST", "/v1/events:replayRejected", {"reason": "x" * 65}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/events:tail?resume_token=nonsense", None, 400, INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"),
    ("GET", "/v1/streams/no%20spaces", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/etl/run", {"batch_size": -1}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/etl/run-sync", {"batch_size": -1}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", f"/etl/process/{'x' * 65}", {}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/etl/calculate-daily-metrics", {"target_date": "today"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/etl/status?run_limit=101", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/etl/recent-sessions?limit=1001", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/etl/cleanup", {"retention_days": 4000}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/operations/none", None, 404, NOT_FOUND, "OPERATION_NOT_FOUND"),
    ("POST", "/v1/operations/none:cancel", {}, 404, NOT_FOUND, "OPERATION_NOT_FOUND"),
    ("GET", "/timetravel/history?table=golden", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/timetravel/data?table=gold&version=999999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/timetravel/data?table=gold&timestamp=2001-01-01T00:00:00Z", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/timetravel/data?table=gold&filter=gmv%20LIKE%201", None, 400, INVALID_ARGUMENT, "INVALID_FILTER"),
    ("GET", "/timetravel/diff?table=gold", None, 400, INVALID_ARGUMENT, "INVALID_VERSION"),
    ("GET", "/metrics?window=1s", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/sse/metrics?interval=0.001s", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/trend/conversion?limit=-1", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/trend/revenue?limit=many", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/v1/kpis?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/timetravel/diff?table=gold&from_version=999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/metrics?as_of_version=999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/v1/kpis/none_such", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
    ("POST", "/v1/kpis", {**KPI, "expression": "sum(secret)"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("PATCH", "/v1/kpis/gmv", {"label": "Mine"}, 400, FAILED_PRECONDITION, "KPI_BUILT_IN"),
    ("DELETE", "/v1/kpis/gmv", None, 400, FAILED_PRECONDITION, "KPI_BUILT_IN"),
    ("POST", "/v1/kpis:query", {"metrics": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/kpis:query", {"metrics": ["none_such"]}, 404, NOT_FOUND, "KPI_NOT_FOUND"),
    ("GET", "/v1/trends/none_such", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
    ("GET", "/anomaly/conversion?method=guess", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/anomalies/none_such", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
    ("GET", "/forecast/conversion?as_of_version=999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/v1/forecasts/gmv?horizon=1001", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/ml/features?user_id=nobody", None, 404, NOT_FOUND, "USER_NOT_FOUND"),
    ("GET", "/v1/features:export?as_of_version=999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("GET", "/dq/status?window=1s", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/latency?limit=1441", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/query", {"sql": "DROP TABLE events"}, 400, INVALID_ARGUMENT, "SQL_REFUSED"),
    ("POST", "/api/v1/sql/run", {"sql": ""}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/sql/validate", {"sql": ""}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/sql/explain", {"sql": "SELECT file('x')"}, 400, INVALID_ARGUMENT, "SQL_REFUSED"),
    ("POST", "/api/v1/sql/stream", {"sql": "DROP TABLE events"}, 400, INVALID_ARGUMENT, "SQL_REFUSED"),
    ("POST", "/query/natural", {"question": "how many?"}, 400, FAILED_PRECONDITION, "ASK_NOT_CONFIGURED"),
    ("GET", "/v1/queries/costs?page_token=nonsense", None, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    *discovery.FAILURES,
    *edge.FAILURES,
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`penstock up`."""
    folder = tmp_path_factory.mktemp("stack")
    with ServerProcess(folder, "--http-port", "0", command="up") as running:
        yield running


@pytest.fixture(scope="module")
def rest(stack: ServerProcess) -> Iterator[httpx.Client]:
    """A client of its REST face."""
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        yield client


def ask(rest: httpx.Client, method: str, path: str, body: object) -> httpx.Response:
    """The answer; of a stream, which may have no end, its first frame."""
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    with rest.stream(method, path, content=content, headers={"content-type": "application/json"}) as response:
        if response.headers.get("content-type") != "text/event-stream":
            response.read()
            return response
        line = next(line for line in response.iter_lines() if line)
    return httpx.Response(response.status_code, headers=response.headers, text=line.removeprefix("data: "))


def short(value: object) -> str:
    """A part of a test's name, the same in every run."""
    return ",".join(sorted(value))[:60] if isinstance(value, set) else str(value)[:60]


def answered(answer: httpx.Response, content_type: str, fields: set[str]) -> None:
    """It is a whole answer with these fields, or a stream whose first frame has them."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == content_type
    assert answer.headers["x-request-id"]
    assert fields <= set(answer.json())


@pytest.mark.parametrize(("method", "path", "body", "fields"), SUCCESSES, ids=short)
def test_success(rest: httpx.Client, method: str, path: str, body: object, fields: set[str]) -> None:
    answered(ask(rest, method, path, body), "application/json", fields)


@pytest.mark.parametrize(("method", "path", "body", "fields"), STREAMS, ids=short)
def test_a_stream_begins(rest: httpx.Client, method: str, path: str, body: object, fields: set[str]) -> None:
    answered(ask(rest, method, path, body), "text/event-stream", fields)


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "reason"), FAILURES, ids=short)
def test_failure(rest: httpx.Client, method: str, path: str, body: object, status: int, code: int, reason: str) -> None:
    error_of(ask(rest, method, path, body), status, code, reason)


def test_every_path_of_the_contract_is_asked_for(rest: httpx.Client) -> None:
    """A new binding without a row in FAILURES fails here."""
    spec = rest.get("/openapi.json").json()
    OpenAPIV31SpecValidator(spec).validate()
    asked = {template_of(*row[:2]) for row in FAILURES}
    declared = {(verb.upper(), path) for path, item in spec["paths"].items() for verb in item}
    assert declared - asked == set()


def test_looking_back(rest: httpx.Client) -> None:
    event = {"event_type": "purchase", "site_id": "back", "user_id": "b", "price": 9.5, "quantity": 2}
    first = rest.post("/v1/events:batchCollect", json={"events": [event]}).json()["commit"]
    rest.post("/etl/run-sync", json={})
    before = rest.get("/timetravel/history?table=gold&limit=1").json()["current_version"]
    rest.post("/v1/events:batchCollect", json={"events": [{**event, "price": 1}]})
    rest.post("/etl/run-sync", json={})
    asked = {"table": "gold", "filter": 'site_id = "back"'}
    then = rest.get("/timetravel/data", params={**asked, "version": before}).json()
    assert (then["version"], [(row["gmv"], row["purchases"]) for row in then["rows"]]) == (before, [(19.0, 1)])
    same = rest.get("/timetravel/data", params={**asked, "timestamp": then["time"]}).json()
    assert same == then
    now = rest.get("/timetravel/data", params=asked).json()
    assert sum(row["gmv"] for row in now["rows"]) == 21.0
    diff = rest.get("/timetravel/diff", params={"table": "gold", "from_version": before}).json()
    assert diff["summary"]["differences"]["gmv"] == 2.0
    assert sum(window["metrics"]["gmv"]["difference"] for window in diff["windows"]) == 2.0
    rows = rest.get("/timetravel/diff", params={"table": "bronze", "from_version": first}).json()["rows"]
    assert {"event_type": "purchase", "added": 1.0, "removed": 0.0} in rows


def followed(rest: httpx.Client) -> dict[str, Any]:
    """An operation at its end."""
    name = rest.post("/etl/run", json={}).json()["name"]
    operation: dict[str, Any] = {}
    for _ in range(200):
        operation = rest.get(f"/v1/{name}").json()
        if operation["done"]:
            break
        time.sleep(0.05)
    return operation


def test_an_operation_can_be_followed_to_its_end(rest: httpx.Client) -> None:
    assert followed(rest)["response"]["@type"].endswith("RunPipelineResponse")


def test_the_bidirectional_stream(rest: httpx.Client) -> None:
    requests = [{"stream_id": "rest-stream", "offset": 0, **ROWS}, {"offset": 1, **ROWS}]
    with rest.stream("POST", "/v1/events:stream", json=requests) as response:
        frames = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert [next(iter(frame)) for frame in frames] == ["opened", "append_result", "append_result", "end"]
    assert rest.get("/v1/streams/rest-stream").json()["next_offset"] == "2"


def test_the_bidirectional_stream_tells_why_it_cannot_open(rest: httpx.Client) -> None:
    answer = rest.post("/v1/events:stream", json=[{"offset": 5, **ROWS}])
    if answer.status_code == 200:  # the error came as the last frame
        frames = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
        reasons = [detail["reason"] for detail in frames[-1]["error"]["status"]["details"] if "reason" in detail]
        assert reasons == ["OFFSET_WITHOUT_STREAM"]
    else:
        error_of(answer, 400, INVALID_ARGUMENT, "OFFSET_WITHOUT_STREAM")


def test_the_tail_shows_what_is_collected(rest: httpx.Client, stack: ServerProcess) -> None:
    with rest.stream("GET", "/v1/events:tail?site_id=tailed") as response:
        assert response.headers["content-type"] == "text/event-stream"
        with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as another:
            another.post("/collect", json={"eventType": "page_view", "siteId": "tailed"}).raise_for_status()
        frames = (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line)
        opening, frame = next(frames), next(frames)
    assert "heartbeat" in opening
    assert frame["event"]["event"]["site_id"] == "tailed"
    assert frame["event"]["client_address"] == "127.0.0.1"


def test_metrics_are_pushed(rest: httpx.Client) -> None:
    assert set(ask(rest, "GET", "/sse/metrics", None).json()["metrics"]) >= {"recent_events", "freshness"}


def test_a_long_query_string_is_an_event_too(rest: httpx.Client) -> None:
    long = {name: name * 4000 for name in "abcde"}
    answer = rest.get("/collect", params={"event_type": "page_view", **long})
    assert answer.status_code == 200, answer.text


def test_collected_events_reach_the_kpis(rest: httpx.Client) -> None:
    rest.post("/collect", json={"eventType": "page_view", "userId": "kpi-1", "siteId": "kpi"}).raise_for_status()
    purchase = {"eventType": "purchase", "userId": "kpi-1", "siteId": "kpi", "price": 12.5, "quantity": 2}
    rest.post("/collect", json=purchase).raise_for_status()
    rest.post("/etl/run-sync", json={}).raise_for_status()
    window = rest.get("/metrics", params={"site_id": "kpi", "window": "3600s"}).json()["latest_kpis"]
    assert (window["orders"], window["gmv"], window["conversion_rate"]) == (1, 25, 1)
