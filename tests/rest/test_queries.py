"""The paths of SQL through the whole stack: real Envoy, real server, real engine."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.process import ServerProcess
from tests.rest.test_transcoding import error_of

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE = 3, 8, 9, 11
BY_TYPE = "SELECT event_type, count() AS n, sum(amount) AS gmv FROM events GROUP BY event_type ORDER BY n"
ENDLESS = """
SELECT count() AS n
FROM (SELECT arrayJoin(range(1000)) AS x) AS a, (SELECT arrayJoin(range(1000)) AS x) AS b,
    (SELECT arrayJoin(range(100000)) AS x) AS c
WHERE NOT ignore(sipHash64(a.x, b.x, c.x))
"""


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """An endpoint whose model knows one statement."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"choices": [{"message": {"content": BY_TYPE}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("stack")
    ask = {"PENSTOCK_ASK_URL": model, "PENSTOCK_ASK_MODEL": "tiny"}
    with ServerProcess(folder, "--http-port", "0", command="up", env=ask) as running:
        yield running


@pytest.fixture(scope="module")
def rest(stack: ServerProcess) -> Iterator[httpx.Client]:
    """A client, and 30 events of which 10 are purchases of 2.50 each."""
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as client:
        purchase = {"event_type": "purchase", "price": 2.5, "user_id": "u1"}
        view = {"event_type": "page_view", "user_id": "u2"}
        client.post("/v1/events:batchCollect", json={"events": [purchase] * 10 + [view] * 20}).raise_for_status()
        client.post("/etl/run-sync", json={}).raise_for_status()
        yield client


def ask(rest: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = rest.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("path", ["/query", "/api/v1/sql/run"])
def test_run(rest: httpx.Client, path: str) -> None:
    found = ask(rest, path, {"sql": BY_TYPE})
    assert found["data"] == [
        {"event_type": "purchase", "n": 10, "gmv": 25},
        {"event_type": "page_view", "n": 20, "gmv": 0},
    ]
    assert found["columns"][1] == {"name": "n", "type": "UInt64"}
    assert (found["row_count"], found["truncated"], found["reason"]) == (2, False, "")
    assert {"sql", "statistics", "cached", "version"} <= set(found)
    assert ask(rest, path, {"sql": BY_TYPE})["cached"] is True


def test_run_with_parameters_as_of_a_version(rest: httpx.Client) -> None:
    now = ask(rest, "/query", {"sql": "SELECT count() AS n FROM events"})
    body = {
        "sql": "SELECT count() AS n FROM events WHERE event_type IN {types:Array(String)} AND quantity < {most:Int32}",
        "parameters": {"types": ["purchase", "refund"], "most": 5},
        "limit": 10,
        "as_of_version": now["version"],
    }
    assert ask(rest, "/query", body)["data"] == [{"n": 10}]
    assert ask(rest, "/query", {**body, "as_of_version": 1})["data"] == [{"n": 0}]


def test_values_as_json(rest: httpx.Client) -> None:
    sql = "SELECT toUInt64('9007199254740993') AS big, 1 / 0 AS inf, [(1, 'x')] AS l, map('k', 1.5) AS m, NULL AS n"
    assert ask(rest, "/query", {"sql": sql})["data"] == [
        {"big": "9007199254740993", "inf": None, "l": [[1, "x"]], "m": {"k": 1.5}, "n": None}
    ]


def test_refusals(rest: httpx.Client) -> None:
    for body, status, code, reason in (
        ({"sql": "SELECT file('/etc/passwd') AS x"}, 400, INVALID_ARGUMENT, "SQL_REFUSED"),
        ({"sql": "SELECT nothing FROM events"}, 400, INVALID_ARGUMENT, "INVALID_SQL"),
        ({"sql": "SELECT {a:Int8} AS x"}, 400, INVALID_ARGUMENT, "INVALID_PARAMETER"),
        ({"sql": "SELECT 1 AS a", "limit": 10_001}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ({"sql": "SELECT 1 AS a", "as_of_version": 99_999}, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
        ({"sql": "SELECT length(range(400000000)) AS n"}, 429, RESOURCE_EXHAUSTED, "QUERY_LIMIT"),
        ({}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ):
        for path in ("/query", "/api/v1/sql/run"):
            error_of(rest.post(path, json=body), status, code, reason)


def test_validate(rest: httpx.Client) -> None:
    found = ask(rest, "/api/v1/sql/validate", {"sql": f"{BY_TYPE} LIMIT {{n:UInt8}}"})
    assert (found["allowed"], found["reasons"], found["views"]) == (True, [], ["events"])
    assert found["parameters"] == [{"name": "n", "type": "UInt8"}]
    refused = ask(rest, "/api/v1/sql/validate", {"sql": "SELECT 1,\n  file('x')"})
    assert refused["allowed"] is False
    assert (refused["reasons"][0]["line"], refused["reasons"][0]["column"]) == (2, 3)
    error_of(rest.post("/api/v1/sql/validate", json={}), 400, INVALID_ARGUMENT, "INVALID_FIELD")


def test_explain(rest: httpx.Client) -> None:
    found = ask(rest, "/api/v1/sql/explain", {"sql": BY_TYPE})
    assert found["rows"] == 8192  # in steps of what the engine reads at once
    assert found["reads"][0]["table"] == "silver_events"
    assert found["steps"][0]["depth"] == 0
    error_of(rest.post("/api/v1/sql/explain", json={"sql": "DROP TABLE x"}), 400, INVALID_ARGUMENT, "SQL_REFUSED")


def test_stream(rest: httpx.Client) -> None:
    with rest.stream("POST", "/api/v1/sql/stream", json={"sql": BY_TYPE}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        frames = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert [next(iter(frame)) for frame in frames] == ["header", "rows", "end"]
    assert frames[1]["rows"]["rows"] == [["purchase", 10, 25], ["page_view", 20, 0]]
    error_of(rest.post("/api/v1/sql/stream", json={"sql": "DROP TABLE x"}), 400, INVALID_ARGUMENT, "SQL_REFUSED")


def test_a_question(rest: httpx.Client) -> None:
    found = ask(rest, "/query/natural", {"question": "events by type?"})
    assert (found["question"], found["model"], found["repaired"]) == ("events by type?", "tiny", False)
    assert found["result"]["row_count"] == 2
    assert "GROUP BY" in found["result"]["sql"]
    error_of(rest.post("/query/natural", json={}), 400, INVALID_ARGUMENT, "INVALID_FIELD")


def test_a_client_that_hangs_up_stops_its_statement_which_is_on_record(rest: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        rest.post("/query", json={"sql": ENDLESS}, timeout=1.0)
    found: list[dict[str, Any]] = []
    for _ in range(60):
        found = rest.get("/v1/queries/costs", params={"min_elapsed": "0.5s"}).json()["costs"]
        if found:
            break
        time.sleep(0.1)
    assert [cost["outcome"] for cost in found] == ["CANCELLED"]
    assert found[0]["statistics"]["elapsed_ms"] < 3_000
    assert found[0]["client_address"] == "127.0.0.1"


def test_costs(rest: httpx.Client) -> None:
    answer = rest.get("/v1/queries/costs?page_size=5")
    assert set(answer.json()) == {"costs", "next_page_token"}
    error_of(rest.get("/v1/queries/costs?page_token=nonsense"), 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
