"""An answer that a client has already is not sent again, nor computed."""

from collections.abc import Iterator

import httpx
import pytest

from tests.process import ServerProcess

PATHS = (
    "/metrics",
    "/trend/conversion?limit=5",
    "/v1/anomalies/gmv",
    "/events/count",
    "/v1/kpis",
    "/v1/kpis/gmv",
    "/v1/products",
    "/openapi.json",
    "/",
)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("tags")
    with (
        ServerProcess(folder, "--http-port", "0", command="up") as stack,
        httpx.Client(base_url=stack.url, timeout=60, trust_env=False, http2=False) as client,
    ):
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_what_is_known_is_not_sent_again(rest: httpx.Client, path: str) -> None:
    first = rest.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "private, no-cache"
    again = rest.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-cache-hit"] == "true"
    assert again.headers["etag"].rpartition("-")[0] == first.headers["etag"].rpartition("-")[0]
    several = rest.get(path, headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert several.status_code == 304
    assert rest.get(path, headers={"if-none-match": '"other"'}).json() is not None


def test_a_commit_is_something_new(rest: httpx.Client) -> None:
    for path in ("/events/count", "/metrics"):
        known = {"if-none-match": rest.get(path).headers["etag"]}
        assert rest.get(path, headers=known).status_code == 304
        rest.post("/v1/events:batchCollect", json={"events": [{"event_type": "page_view", "user_id": "tags"}]})
        rest.post("/etl/run-sync", json={})
        assert rest.get(path, headers=known).status_code == 200


def test_a_metric_that_means_something_else_is_something_new(rest: httpx.Client) -> None:
    kpi = {
        "name": "visits",
        "label": "v",
        "unit": "count",
        "type": "TYPE_COUNT",
        "expression": "count(event_type = 'a')",
    }
    assert rest.post("/v1/kpis", json=kpi).status_code == 200
    paths = ("/v1/anomalies/visits", "/v1/kpis/visits", "/v1/kpis")
    known = {path: {"if-none-match": rest.get(path).headers["etag"]} for path in paths}
    assert [rest.get(path, headers=known[path]).status_code for path in paths] == [304, 304, 304]
    assert rest.patch("/v1/kpis/visits?update_mask=label", json={"label": "w"}).status_code == 200
    assert [rest.get(path, headers=known[path]).status_code for path in paths] == [200, 200, 200]


def test_tags_are_of_one_request(rest: httpx.Client) -> None:
    tag = rest.get("/trend/conversion?limit=5").headers["etag"]
    assert rest.get("/trend/conversion?limit=6", headers={"if-none-match": tag}).status_code == 200


def test_what_changes_something_has_no_tag(rest: httpx.Client) -> None:
    assert "etag" not in rest.get("/status").headers
    assert "etag" not in rest.post("/etl/run-sync", json={}).headers
