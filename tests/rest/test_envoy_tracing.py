"""Envoy's spans as a collector receives them: of one trace with the server's, and with nothing of a request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from penstock.cache.tally import Tallies
from penstock.events.v1 import events_service_pb2
from penstock.operations.metrics import RpcMetrics
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.watch import CallWatch
from penstock.rpc.bind import Edge
from penstock.settings import Settings
from penstock.tracing import Tracing
from tests.operations.test_tracing import Collector, attributes
from tests.rest.stand_in import Events
from tests.rest.test_envoy import client_of, running
from tests.rpc.policies import open_policy
from tests.waiting import until

SECRET = "f00dcafe5ec2e7"
PARENT = "b7ad6b7169203331"
# Envoy's thread sends so many spans at once; fewer lie with it for five seconds. A connection stays with its thread.
SENT_AT_ONCE = 5


@asynccontextmanager
async def serving(server: grpc.aio.Server) -> AsyncIterator[int]:
    """The port that it serves at."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """A collector behind a socket, and its endpoint."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    async with serving(server) as port:
        yield collector, f"http://127.0.0.1:{port}"


@asynccontextmanager
async def traced(settings: Settings, endpoint: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an Envoy before a server of events; both send their spans, the server's have arrived behind this."""
    traces = Tracing.open(endpoint, "1.2.3")
    watcher = CallWatch(RpcMetrics(()), Performance(), SlowCalls(), Tallies(), traces)
    edge = Edge(trusted_proxies=settings.trusted_proxies, policy=replace(open_policy(), watcher=watcher))
    service = events_service_pb2.DESCRIPTOR.services_by_name["EventService"]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((edge.handlers(service, Events(service)),))
    told = settings.model_copy(update={"otlp_endpoint": endpoint})
    try:
        async with serving(server) as port, running(told, grpc_port=port) as envoy, client_of(envoy) as client:
            yield client
    finally:
        await traces.close()


def spans_of(collector: Collector, service: str) -> list[Span]:
    """Those that the service of that name has sent."""
    return [
        span
        for request in collector.requests
        for of_resource in request.resource_spans
        if service in {each.value.string_value for each in of_resource.resource.attributes}
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


async def test_nothing_of_a_path_or_its_query_leaves_with_a_span(settings: Settings) -> None:
    calls = {
        f"/collect?uid={SECRET}&url=https://shop.example/{SECRET}": 200,
        f"/api/v1/auth/callback?code={SECRET}&state={SECRET}": 501,  # sign-ins have no server here, but Envoy's span
        f"/v1/streams/{SECRET}": 200,
        f"/no/such/path/{SECRET}?a={SECRET}": 404,
        f"/events/count?nope={SECRET}": 400,  # the last, for Envoy closes the connection with it
    }
    assert len(calls) >= SENT_AT_ONCE
    async with collecting() as (collector, endpoint), traced(settings, endpoint) as client:
        assert {path: (await client.get(path)).status_code for path in calls} == calls
        url = str(client.base_url).rstrip("/")
        await until(lambda: len(spans_of(collector, "penstock-envoy")) >= len(calls))
    spans = spans_of(collector, "penstock-envoy")
    assert SECRET.encode() not in b"".join(request.SerializeToString() for request in collector.requests)
    assert sorted(attributes(span)["http.status_code"] for span in spans) == sorted(map(str, calls.values()))
    assert {attributes(span)["http.url"] for span in spans} == {url}


async def test_the_servers_span_is_a_child_of_envoys_and_envoys_of_the_clients(settings: Settings) -> None:
    traces = [f"{number + 1:032x}" for number in range(SENT_AT_ONCE)]
    async with collecting() as (collector, endpoint), traced(settings, endpoint) as client:
        for trace in traces:
            answer = await client.get("/events/count", headers={"traceparent": f"00-{trace}-{PARENT}-01"})
            assert answer.status_code == 200
        for _ in range(SENT_AT_ONCE):
            assert (await client.get("/events/count")).status_code == 200
        await until(lambda: len(spans_of(collector, "penstock-envoy")) >= 2 * SENT_AT_ONCE)
    proxied = {span.span_id: span for span in spans_of(collector, "penstock-envoy")}
    assert sorted(span.trace_id.hex() for span in proxied.values() if span.parent_span_id.hex() == PARENT) == traces
    assert [span.parent_span_id for span in proxied.values()].count(b"") == SENT_AT_ONCE
    served = spans_of(collector, "penstock")
    assert {span.parent_span_id for span in served} == set(proxied)
    assert [span.trace_id for span in served] == [proxied[span.parent_span_id].trace_id for span in served]
