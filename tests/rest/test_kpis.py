"""Queries, trends and the catalogue through the whole stack: real Envoy, real server, real engine."""

from collections.abc import Iterator

import httpx
import pytest

from tests.process import ServerProcess
from tests.rest.test_transcoding import error_of

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE = 3, 5, 6, 9, 11
SIGNUPS = {
    "name": "signups",
    "label": "Sign-ups",
    "unit": "count",
    "type": "TYPE_COUNT",
    "expression": "count(event_type = 'signup' and properties.plan in ('pro', 'team'))",
    "good_direction": "DIRECTION_UP",
    "thresholds": {"warning": 1},
}
EVENTS = [
    {"event_type": "page_view", "user_id": "u1", "site_id": "shop", "timestamp": "2026-03-02T10:00:00Z"},
    {"event_type": "signup", "user_id": "u1", "site_id": "shop", "timestamp": "2026-03-02T10:01:00Z",
     "properties": {"plan": "pro"}},
    {"event_type": "signup", "user_id": "u2", "site_id": "blog", "timestamp": "2026-03-03T10:01:00Z",
     "properties": {"plan": "free"}},
    {"event_type": "purchase", "user_id": "u1", "site_id": "shop", "timestamp": "2026-03-03T10:05:00Z",
     "price": 12.5, "quantity": 2},
]  # fmt: skip
RANGE = {"start": "2026-03-02T00:00:00Z", "end": "2026-03-04T00:00:00Z"}


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`penstock up`, with a few events and a metric of the tenant's own in it."""
    with (
        ServerProcess(tmp_path_factory.mktemp("kpis"), "--http-port", "0", command="up") as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        created = client.post("/v1/kpis", json=SIGNUPS)
        assert created.status_code == 200, created.text
        assert client.post("/v1/events:batchCollect", json={"events": EVENTS}).json()["accepted_rows"] == 4
        assert client.post("/etl/run-sync", json={}).status_code == 200
        yield client


def test_a_query(rest: httpx.Client) -> None:
    asked = {
        "metrics": ["signups", "gmv", "conversion_rate"],
        "dimensions": ["site"],
        "grain": "day",
        "range": RANGE,
        "filters": [{"dimension": "site", "operator": "operator_not_in", "values": ["nowhere"]}],
        "order_by": "window_start desc, site",
        "page_size": 2,
    }
    first = rest.post("/v1/kpis:query", json=asked).json()
    assert [(row["dimensions"], row["values"]) for row in first["rows"]] == [
        ({"site": "blog"}, {"signups": 0, "gmv": 0}),
        ({"site": "shop"}, {"signups": 0, "gmv": 25}),
    ]
    assert (first["row_count"], first["currency"], first["reason"]) == (3, "USD", "")
    assert first["total"]["values"] == {"signups": 1, "gmv": 25, "conversion_rate": 1}
    assert first["rows"][0]["window_start"] == "2026-03-03T00:00:00Z"
    second = rest.post("/v1/kpis:query", json={**asked, "page_token": first["next_page_token"]}).json()
    assert [row["values"] for row in second["rows"]] == [{"signups": 1, "gmv": 0, "conversion_rate": 0}]
    assert second["next_page_token"] == ""
    then = rest.post("/v1/kpis:query", json={**asked, "as_of_version": "1"}).json()
    assert (then["rows"], then["reason"] != "") == ([], True)


def test_trends(rest: httpx.Client) -> None:
    own = rest.get("/v1/trends/signups?window=86400s").json()
    assert [(point["window_start"], point["value"]) for point in own["data"]] == [
        ("2026-03-02T00:00:00Z", 1),
        ("2026-03-03T00:00:00Z", 0),
    ]
    assert (own["summary"]["average"], own["summary"]["trend"], own["summary"]["unit"]) == (0.5, "stable", "count")
    sessions = rest.get("/v1/trends/bounce_rate?window=86400s&site_id=blog").json()
    assert [point["value"] for point in sessions["data"]] == [1]
    empty = rest.get("/v1/trends/gmv?site_id=nowhere").json()
    assert (empty["data"], empty["reason"]) == ([], "no events of this site yet")
    then = rest.get("/trend/revenue?as_of_version=1").json()
    assert then["data"] == []


def test_metrics_of_the_tenants_own(rest: httpx.Client) -> None:
    got = rest.get("/v1/kpis/signups").json()["kpi"]
    assert {name: got[name] for name in SIGNUPS} == SIGNUPS
    assert got["own"]
    assert "device" in got["dimensions"]
    assert {"signups", "gmv", "bounce_rate"} <= {kpi["name"] for kpi in rest.get("/v1/kpis").json()["kpis"]}
    assert rest.post("/v1/kpis", json=SIGNUPS).status_code == 200  # the same again

    made = {**SIGNUPS, "name": "per_view", "type": "TYPE_RATIO", "unit": "ratio", "expression": "signups / page_views"}
    assert rest.post("/v1/kpis", json=made).json()["kpi"]["type"] == "TYPE_RATIO"
    changed = rest.patch("/v1/kpis/per_view", json={"label": "Sign-ups by views"}).json()["kpi"]
    assert (changed["label"], changed["expression"]) == ("Sign-ups by views", "signups / page_views")
    in_use = rest.delete("/v1/kpis/signups")
    error_of(in_use, 400, FAILED_PRECONDITION, "KPI_IN_USE")
    assert rest.delete("/v1/kpis/per_view").json() == {}
    error_of(rest.get("/v1/kpis/per_view"), 404, NOT_FOUND, "KPI_NOT_FOUND")


QUERY = {"metrics": ["gmv"], "range": RANGE}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "reason"),
    [
        ("POST", "/v1/kpis:query", {"metrics": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis:query", {**QUERY, "metrics": ["nothing"]}, 404, NOT_FOUND, "KPI_NOT_FOUND"),
        ("POST", "/v1/kpis:query", {**QUERY, "grain": "fortnight"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis:query", {**QUERY, "dimensions": ["colour"]}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis:query", {**QUERY, "time_zone": "Nowhere"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis:query", {**QUERY, "page_token": "x"}, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
        ("POST", "/v1/kpis:query", {**QUERY, "as_of_version": "999999"}, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
        ("GET", "/v1/trends/nothing", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
        ("GET", "/v1/trends/gmv?limit=10001", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("GET", "/v1/kpis/nothing", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
        ("POST", "/v1/kpis", {**SIGNUPS, "name": "Mine"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis", {**SIGNUPS, "name": "gmv"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis", {**SIGNUPS, "name": "m", "type": None}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis", {**SIGNUPS, "name": "m", "expression": "1; DROP"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("POST", "/v1/kpis", {**SIGNUPS, "label": "Other"}, 409, ALREADY_EXISTS, "KPI_EXISTS"),
        ("PATCH", "/v1/kpis/gmv", {"label": "Mine"}, 400, FAILED_PRECONDITION, "KPI_BUILT_IN"),
        ("PATCH", "/v1/kpis/nothing", {"label": "Mine"}, 404, NOT_FOUND, "KPI_NOT_FOUND"),
        ("PATCH", "/v1/kpis/signups", {"expression": "signups + 1"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
        ("DELETE", "/v1/kpis/gmv", None, 400, FAILED_PRECONDITION, "KPI_BUILT_IN"),
        ("DELETE", "/v1/kpis/nothing", None, 404, NOT_FOUND, "KPI_NOT_FOUND"),
    ],
)
def test_failures(
    rest: httpx.Client, method: str, path: str, body: object, status: int, code: int, reason: str
) -> None:
    error_of(rest.request(method, path, json=body), status, code, reason)
