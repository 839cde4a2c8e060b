"""The Connect protocol through Envoy, where it is switched on."""

import json
import struct
from collections.abc import Iterator

import httpx
import pytest

from penstock.kpis.v1 import kpis_service_pb2
from penstock.operations.v1 import operations_service_pb2 as pb
from tests.process import ServerProcess

VERSION = {"connect-protocol-version": "1"}
HEALTH = "/penstock.operations.v1.OperationsService/GetHealth"


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    env = {"PENSTOCK_CONNECT": "true"}
    folder = tmp_path_factory.mktemp("connect")
    with (
        ServerProcess(folder, "--http-port", "0", command="up", env=env) as stack,
        httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as client,
    ):
        yield client


def test_messages(rest: httpx.Client) -> None:
    headers = {**VERSION, "content-type": "application/proto"}
    answer = rest.post(HEALTH, content=b"", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/proto")
    assert pb.GetHealthResponse.FromString(answer.content).status == "healthy"
    wrong = kpis_service_pb2.GetMetricsRequest(as_of_version=-1).SerializeToString()
    refused = rest.post("/penstock.kpis.v1.KpiService/GetMetrics", content=wrong, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_argument")
    assert "as_of_version" in refused.json()["message"]


def test_json_is_refused_in_so_many_words(rest: httpx.Client) -> None:
    """A Connect client has to send messages (`useBinaryFormat`): gRPC, behind Envoy, knows no JSON."""
    refused = rest.post(HEALTH, json={}, headers=VERSION)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_argument")


def test_a_stream(rest: httpx.Client) -> None:
    request = kpis_service_pb2.WatchMetricsRequest().SerializeToString()
    body = b"\0" + struct.pack(">I", len(request)) + request
    headers = {**VERSION, "content-type": "application/connect+proto"}
    with rest.stream("POST", "/penstock.kpis.v1.KpiService/WatchMetrics", content=body, headers=headers) as answer:
        assert answer.headers["content-type"] == "application/connect+proto"
        first = next(answer.iter_raw())
    flags, size = first[0], struct.unpack(">I", first[1:5])[0]
    assert flags == 0
    frame = kpis_service_pb2.WatchMetricsResponse.FromString(first[5 : 5 + size])
    assert frame.WhichOneof("frame") is not None


def test_rest_is_as_it_was(rest: httpx.Client) -> None:
    assert rest.get("/health").json()["status"] == "healthy"
    assert json.loads(rest.get("/nowhere").content)["code"] == 5
