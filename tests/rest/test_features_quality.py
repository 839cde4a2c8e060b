"""Features, their export, data quality and latency through the whole stack: real Envoy, real server, real engine."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
from google.api.httpbody_pb2 import HttpBody

from penstock.errors import Unavailable
from penstock.kpis.v1 import kpis_service_pb2
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub
from penstock.rest.envoy import EnvoyProcess
from penstock.rpc.bind import Edge
from penstock.rpc.call import Call
from penstock.settings import Settings
from tests.process import ServerProcess
from tests.rest.stand_in import StandIn
from tests.rest.test_transcoding import error_of
from tests.rpc.policies import open_policy

ARROW = "application/vnd.apache.arrow.stream"
NOT_FOUND, OUT_OF_RANGE, INVALID_ARGUMENT = 5, 11, 3


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`penstock up`, with a few events in it."""
    with ServerProcess(tmp_path_factory.mktemp("stack"), "--http-port", "0", command="up") as running:
        with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
            empty(client)
            fill(client)
        yield running


@pytest.fixture
def rest(stack: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as client:
        yield client


def empty(client: httpx.Client) -> None:
    """Before the first event, everything is an answer with a reason."""
    features = client.get("/ml/features").json()
    assert (features["aggregate"]["users"], features["reason"]) == (0, "no events yet")
    assert "avg_session_length" not in features["aggregate"]
    quality = client.get("/dq/status").json()
    assert (quality["grade"], quality["events"], quality["reason"]) == ("", 0, "no events yet")
    assert {quality[each]["status"] for each in ("completeness", "validity", "timeliness", "consistency")} == {
        "unknown"
    }
    latency = client.get("/latency").json()
    assert (latency["data"], latency["summary"]["status"], latency["reason"]) == ([], "unknown", "no events yet")
    answer = client.get("/v1/features:export")
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == 0


def fill(client: httpx.Client) -> None:
    """300 users who look, every third of whom buys."""
    events: list[dict[str, Any]] = []
    for number in range(300):
        common = {"user_id": f"user-{number}", "site_id": "shop", "timestamp": datetime.now(UTC).isoformat()}
        events.append({**common, "event_type": "page_view", "product_id": f"p{number % 7}"})
        if number % 3 == 0:
            order = {"event_type": "purchase", "order_id": f"o{number}", "price": number + 1, "product_id": "p1"}
            events.append({**common, **order, "event_id": str(uuid.uuid4())})
    assert client.post("/v1/events:batchCollect", json={"events": events}).json()["accepted_rows"] == 400
    deadline = time.monotonic() + 30
    while client.get("/ml/features").json()["aggregate"]["users"] < 300:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_features_of_a_user(rest: httpx.Client) -> None:
    body = rest.get("/ml/features", params={"user_id": "user-297"}).json()
    user = body["user"]
    assert (user["total_events"], user["purchases"], user["unique_products_viewed"]) == (2, 1, 1)
    assert (user["avg_order_value"], user["monetary"], user["monetary_score"], body["currency"]) == (298, 298, 5, "USD")
    assert "recency" not in rest.get("/ml/features", params={"user_id": "user-1"}).json()["user"]
    version = rest.get("/metrics").json()["freshness"]["commit"]
    assert rest.get("/ml/features", params={"user_id": "user-297", "as_of_time": "2100-01-01T00:00:00Z"}).json() == body
    error_of(rest.get("/ml/features?user_id=nobody"), 404, NOT_FOUND, "USER_NOT_FOUND")
    error_of(rest.get("/ml/features?as_of_version=999999999"), 400, OUT_OF_RANGE, "VERSION_NOT_FOUND")
    both = {"as_of_version": version, "as_of_time": "2026-01-01T00:00:00Z"}
    error_of(rest.get("/ml/features", params=both), 400, INVALID_ARGUMENT, "INVALID_FIELD")
    early = {"as_of_time": "0001-01-01T00:00:00Z"}
    error_of(rest.get("/ml/features", params=early), 400, INVALID_ARGUMENT, "INVALID_FIELD")


def test_features_of_all_users(rest: httpx.Client) -> None:
    aggregate = rest.get("/ml/features").json()["aggregate"]
    assert (aggregate["users"], aggregate["days"]) == (300, 1)
    assert aggregate["avg_conversion_rate"] == pytest.approx(1 / 3)
    assert "gmv_volatility" not in aggregate


def test_the_export_arrives_byte_by_byte(rest: httpx.Client, stack: ServerProcess) -> None:
    version = rest.get("/ml/features").json()  # of one version, so both ways show the same
    assert version["reason"] == ""
    answer = rest.get("/v1/features:export")
    assert answer.headers["content-type"] == ARROW
    with grpc.insecure_channel(stack.target) as channel:
        pieces = KpiServiceStub(channel).ExportFeatures(kpis_service_pb2.ExportFeaturesRequest(), timeout=30)
        assert answer.content == b"".join(piece.data for piece in pieces)
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.num_rows == 300
    row = next(row for row in table.to_pylist() if row["user_id"] == "user-297")
    assert row == rest.get("/ml/features", params={"user_id": "user-297"}).json()["user"]
    nobody = rest.get("/v1/features:export", params={"active_since": "2100-01-01T00:00:00Z"})
    assert pa.ipc.open_stream(nobody.content).read_all().num_rows == 0


def test_data_quality(rest: httpx.Client) -> None:
    body = rest.get("/dq/status").json()
    assert (body["events"], body["reason"]) == (400, "")
    assert body["grade"] in "AB"
    assert body["completeness"]["status"] == "ok"
    check = body["completeness"]["checks"][0]
    assert set(check) == {"name", "field", "value", "unit", "warning", "critical", "status", "description"}
    assert (check["name"], check["field"], check["value"], check["status"]) == ("null_rate", "user", 0, "ok")
    assert rest.get("/dq/status", params={"window": "60s", "site_id": "nowhere"}).json()["events"] == 0
    error_of(rest.get("/dq/status", params={"window": "1s"}), 400, INVALID_ARGUMENT, "INVALID_FIELD")


def test_latency(rest: httpx.Client) -> None:
    body = rest.get("/latency", params={"limit": 5}).json()
    assert body["summary"]["events_processed"] == 400
    assert body["summary"]["status"] in ("excellent", "good")
    assert body["summary"]["backfilled_share"] == 0
    point = body["data"][0]
    assert 0 <= point["p50_seconds"] <= point["p95_seconds"] <= point["p99_seconds"]
    assert point["minute"].endswith(":00Z")
    error_of(rest.get("/latency", params={"limit": 2000}), 400, INVALID_ARGUMENT, "INVALID_FIELD")


class BreaksOff(StandIn):
    """An export whose database goes away, as the real one ends: with a byte held back."""

    async def ExportFeatures(
        self, request: kpis_service_pb2.ExportFeaturesRequest, call: Call
    ) -> AsyncIterator[HttpBody]:
        schema = pa.schema([("user_id", pa.string())])
        batch = pa.RecordBatch.from_pylist([{"user_id": "u"}] * 100, schema)
        made = schema.serialize().to_pybytes() + batch.serialize().to_pybytes()
        yield HttpBody(content_type=ARROW, data=made[:-1])
        raise Unavailable("the database went away", reason="STORAGE_UNAVAILABLE", retry_after_s=1)


async def test_an_export_that_breaks_off_does_not_look_complete(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, grpc_port=0, http_port=0)
    service = kpis_service_pb2.DESCRIPTOR.services_by_name["KpiService"]
    server = grpc.aio.server()
    edge = Edge(trusted_proxies=settings.trusted_proxies, policy=open_policy())
    server.add_generic_rpc_handlers([edge.handlers(service, BreaksOff(service))])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    envoy = EnvoyProcess(settings, grpc_port=port)
    await envoy.start()
    try:
        received = b""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{envoy.http_port}", trust_env=False) as client:
            try:
                async with client.stream("GET", "/v1/features:export") as answer:
                    assert answer.headers["content-type"] == ARROW
                    async for data in answer.aiter_raw():
                        received += data
            except httpx.RemoteProtocolError:
                pass  # better still: the connection says so as well
        with pytest.raises((pa.ArrowInvalid, OSError)):
            pa.ipc.open_stream(received).read_all()
    finally:
        await envoy.stop()
        await server.stop(0)
