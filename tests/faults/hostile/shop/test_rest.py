"""What no honest client sends to the REST face: the answer is a 4xx that says what to mend, and the server lives."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.hostile.test_json import nested
from tests.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.faults]

UNKNOWN, INVALID_ARGUMENT, INTERNAL = 2, 3, 13
ANSWER_S = 30.0
PRODUCT: dict[str, object] = {"product_id": "lamp", "name": "Desk lamp", "price": 5}
CLICK: dict[str, object] = {"user_id": "u1", "product_id": "lamp", "interaction_type": "CLICK"}
VECTOR = [1.0] + [0.0] * 383


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`penstock up`."""
    with ServerProcess(tmp_path_factory.mktemp("stack"), "--http-port", "0", command="up") as running:
        yield running


@pytest.fixture(scope="module")
def rest(stack: ServerProcess) -> Iterator[httpx.Client]:
    """A client of its REST face, with a product that is found."""
    with httpx.Client(base_url=stack.url, timeout=ANSWER_S, trust_env=False) as client:
        assert client.post("/v1/products:upsert", json={"products": [PRODUCT]}).status_code == 200
        while client.get("/v1/index").status_code == 503:  # it is being read
            pass
        yield client


@pytest.fixture(autouse=True)
def found_after_all(stack: ServerProcess, rest: httpx.Client) -> Iterator[None]:
    """After every test the server lives, finds, and met nothing that it had not foreseen."""
    before = len(stack.log)
    yield
    found = rest.post("/api/v1/search", json={"query": "lamp"})
    assert found.status_code == 200, found.text
    assert "lamp" in [result["product"]["product_id"] for result in found.json()["results"]]
    said = stack.log[before:]
    assert "Traceback" not in said, said
    assert "[error" not in said, said


BODIES: dict[str, dict[str, object]] = {
    "/v1/products:upsert": {"products": [PRODUCT]},
    "/api/v1/search": {"query": "lamp", "limit": 1},
    "/v1/search:vector": {"vectors": [{"values": VECTOR}]},
    "/v1/search:batch": {"requests": [{"query": "lamp"}]},
    "/v1/search:similar": {"product_id": "lamp"},
    "/api/v1/recommend": {"user_id": "u1"},
    "/v1/recommend:batch": {"requests": [{"user_id": "u1"}]},
    "/api/v1/feedback": CLICK,
    "/v1/feedback:batch": {"interactions": [CLICK]},
    "/v1/experiments": {"name": "rest", "variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]},
}
WRONG: tuple[object, ...] = ({"a": [{}]}, [[["x"]]], 1e300, "NaN" * 1_000, -1.5, True)
BROKEN = [
    b"{",
    b"\xff\xfe\x80",
    b"\x00",
    b"null",
    b"[]",
    b'"text"',
    b"1e999",
    b'{"a":1}}',
    b'{"query":"\xff\xfe"}',
    b'{"query":"\\ud800"}',
    nested("[", "]", 100_000, ""),
    nested('{"filters":', "}", 100_000, "1"),
]


@pytest.mark.parametrize("path", BODIES)
def test_bodies_that_are_no_request(rest: httpx.Client, path: str) -> None:
    for body in BROKEN:
        answer = rest.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code != 200, (body[:40], answer.text)
        assert_their_fault(answer)


@pytest.mark.parametrize("path", BODIES)
def test_fields_of_wrong_types(rest: httpx.Client, path: str) -> None:
    """Each field of a good body in turn becomes something else."""
    for name in BODIES[path]:
        for wrong in WRONG:
            answer = rest.post(path, json={**BODIES[path], name: wrong})
            assert_their_fault(answer)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/products:upsert", {"products": [{**PRODUCT, "price": "NaN"}]}, "products[0].price"),
        ("/v1/products:upsert", {"products": [{**PRODUCT, "price": "-Infinity"}]}, "products[0].price"),
        ("/v1/products:upsert", {"products": [{**PRODUCT, "price": 1e300}]}, "products[0].price"),
        ("/v1/products:upsert", {"products": [{**PRODUCT, "product_id": "x" * 300_000}]}, "products[0].product_id"),
        (
            "/v1/products:upsert",
            {"products": [{**PRODUCT, "attributes": {f"k{n}": "v" for n in range(10_000)}}]},
            "products[0].attributes",
        ),
        ("/api/v1/search", {"filters": {"min_price": "NaN"}}, "filters.min_price"),
        ("/api/v1/search", {"filters": {"min_price": 2, "max_price": 1}}, "filters.min_price"),
        ("/api/v1/search", {"filters": {"min_rating": "Infinity"}}, "filters.min_rating"),
        ("/api/v1/search", {"facets": ["prize"]}, "facets[0]"),
        ("/v1/search:vector", {"vectors": [{"values": ["-Infinity", *VECTOR[1:]]}]}, "vectors[0]"),
        ("/v1/search:vector", {"vectors": [{"packed": "AAAA"}]}, "vectors[0].packed"),
        ("/api/v1/recommend", {"user_id": "u1", "limit": 201}, "limit"),
        ("/api/v1/recommend", {"user_id": "u1", "context": "SEARCH"}, "query"),
        ("/api/v1/feedback", {**CLICK, "interaction_type": "RATING"}, "interaction.rating"),
        ("/api/v1/feedback", {**CLICK, "interaction_type": "RATING", "rating": "NaN"}, "interaction.rating"),
        ("/api/v1/feedback", {**CLICK, "user_id": ""}, "interaction.user_id"),
        ("/api/v1/feedback", {**CLICK, "timestamp": "0001-01-01T00:00:00Z"}, "interaction.timestamp"),
        ("/api/v1/feedback", {**CLICK, "timestamp": "9999-12-31T23:59:59.999999999Z"}, "interaction.timestamp"),
        ("/v1/feedback:batch", {"interactions": [CLICK, {**CLICK, "position": 0}]}, "interactions[1].position"),
        (
            "/v1/experiments",
            {"name": "e", "variants": [{"name": "a", "weight": "NaN"}, {"name": "b", "weight": 1}]},
            "experiment.variants[0].weight",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_bound_is_named(rest: httpx.Client, path: str, body: object, named: str) -> None:
    answer = rest.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()
    assert error["code"] == INVALID_ARGUMENT
    violations = [each for detail in error["details"] for each in detail.get("field_violations", [])]
    assert {each["field"] for each in violations} == {named}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "name", ["%00", "%2F", "%2E%2E%2F%2E%2E", "%FF%FE", "%E2%82", "a%0Ab", "'%20OR%201", "%25", "x" * 5_000, ":similar"]
)
@pytest.mark.parametrize("path", ["/v1/products/{}", "/v1/products/{}:similar", "/v1/users/{}/profile", "/v1/users/{}"])
def test_names_in_paths(rest: httpx.Client, method: str, path: str, name: str) -> None:
    answer = rest.request(method, path.format(name))
    assert_their_fault(answer)


@pytest.mark.parametrize(
    "query",
    [
        "page_size=x",
        "page_size=99999999999999999999",
        "min_price=NaN",
        "min_price=inf",
        "in_stock=perhaps",
        "as_of_version=-1",
        "as_of_version=1.5",
        "page_token=%FF",
        "page_token=%00",
        "products.name=x",
        "brand=%FF%FE",
        "brand=" + "x" * 5_000,
        "=&=&&",
        "brand=a&brand=b",
    ],
)
def test_parameters_of_a_list(rest: httpx.Client, query: str) -> None:
    answer = rest.get(f"/v1/products?{query}")
    assert_their_fault(answer)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-encoding": "gzip"},
        {"content-type": "application/grpc"},
        {"expect": "100-continue"},
        {"x-request-id": "x" * 5_000},
    ],
    ids=str,
)
def test_headers(rest: httpx.Client, headers: dict[str, str]) -> None:
    answer = rest.post("/api/v1/search", content=json.dumps({"query": "lamp"}), headers=headers)
    assert answer.status_code < 500, answer.text


def test_a_body_that_is_too_large(rest: httpx.Client) -> None:
    try:
        answer = rest.post(
            "/v1/products:upsert", content=b" " * (64 << 20), headers={"content-type": "application/json"}
        )
    except (httpx.WriteError, httpx.RemoteProtocolError):  # it was not read to its end
        return
    assert answer.status_code in (400, 413, 429), answer.text


def assert_their_fault(answer: httpx.Response) -> None:
    """OK, or an error in the shape of ours that says whose fault it was, also where Envoy made it."""
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/json", answer.text
        error = answer.json()
        assert error["code"] not in (UNKNOWN, INTERNAL), error
        reasons = [detail["reason"] for detail in error["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
        assert len(reasons) == 1, error
