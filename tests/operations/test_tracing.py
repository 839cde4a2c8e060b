"""Spans as a collector receives them over OTLP, and that there is nothing of it where nobody asked for traces."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from penstock import tracing
from penstock.errors import Conflict
from penstock.storage.deadline import detached
from penstock.storage.payload import literal
from penstock.tracing import Tracing, statement, statement_name, traceparent

METHOD = "/penstock.kpis.v1.KpiService/GetMetrics"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """All spans."""
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def span(self, name: str) -> Span:
        """The one of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, Tracing]]:
    """A collector behind a socket, and tracing to it; what was traced inside has arrived behind `tracing.close`."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    opened = Tracing.open(f"http://127.0.0.1:{port}", "1.2.3")
    try:
        yield collector, opened
    finally:
        await opened.close()
        await server.stop(0)


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def in_a_task(opened: Tracing, code: str = "OK", metadata: dict[str, str] | None = None) -> str | None:
    """One rpc, in a task of its own as all are; the `traceparent` within it."""

    async def call() -> str | None:
        begun = opened.begin(METHOD, metadata or {}, "r-1")
        within = traceparent()
        begun.end(code, "acme")
        return within

    return await asyncio.create_task(call())


async def test_a_call_joins_the_trace_it_came_with_and_its_statements_join_the_call() -> None:
    told: list[str | None] = []

    async def call(opened: Tracing) -> None:
        begun = opened.begin(METHOD, SAMPLED, "r-1")
        with statement("SELECT kpi FROM gold_windows WHERE tenant = 'secret'", "read"):
            told.append(traceparent())
            await asyncio.sleep(0.01)
        told.append(traceparent())
        begun.end("OK", "acme")

    async with collecting() as (collector, opened):
        await asyncio.create_task(call(opened))
        assert traceparent() is None, "it belongs to the call's task"
        await opened.close()
        served, asked = collector.span("penstock.kpis.v1.KpiService/GetMetrics"), collector.span("SELECT gold_windows")
    assert (served.trace_id.hex(), served.parent_span_id.hex()) == (TRACE, PARENT)
    assert (asked.trace_id, asked.parent_span_id) == (served.trace_id, served.span_id)
    assert (served.kind, asked.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert told == [f"00-{TRACE}-{each.span_id.hex()}-01" for each in (asked, served)]
    assert asked.end_time_unix_nano - asked.start_time_unix_nano >= 10_000_000
    assert attributes(served) == {
        "rpc.system": "grpc",
        "rpc.service": "penstock.kpis.v1.KpiService",
        "rpc.method": "GetMetrics",
        "rpc.grpc.status_code": 0,
        "penstock.tenant": "acme",
        "penstock.request_id": "r-1",
    }
    assert attributes(asked)["db.query.summary"] == "SELECT gold_windows"
    resource = collector.requests[0].resource_spans[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}["service.version"] == "1.2.3"
    assert b"secret" not in b"".join(request.SerializeToString() for request in collector.requests)


async def test_calls_at_the_same_time_keep_apart_and_their_tasks_stay_with_them() -> None:
    async def part(number: int) -> None:
        with tracing.span(f"part {number}"):
            await asyncio.sleep(0.001)

    async def call(opened: Tracing, number: int) -> None:
        begun = opened.begin(METHOD, {"traceparent": f"00-{number + 1:032x}-{PARENT}-01"}, f"r-{number}")
        await asyncio.gather(part(number), part(number))
        begun.end("OK", "acme")

    async with collecting() as (collector, opened):
        await asyncio.gather(*(asyncio.create_task(call(opened, number)) for number in range(20)))
        await opened.close()
        served = {span.span_id: span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER}
        parts = [span for span in collector.spans if span.name.startswith("part")]
    assert (len(served), len(parts)) == (20, 40)
    for span in parts:
        parent = served[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        assert attributes(parent)["penstock.request_id"] == f"r-{span.name.removeprefix('part ')}"


@pytest.mark.parametrize(
    ("code", "number", "status"),
    [
        ("OK", 0, Status.STATUS_CODE_UNSET),
        ("INVALID_ARGUMENT", 3, Status.STATUS_CODE_UNSET),
        ("UNAVAILABLE", 14, Status.STATUS_CODE_ERROR),
        ("INTERNAL", 13, Status.STATUS_CODE_ERROR),
    ],
)
async def test_the_servers_errors_are_errors_of_the_span(code: str, number: int, status: int) -> None:
    async with collecting() as (collector, opened):
        await in_a_task(opened, code)
        await opened.close()
        (served,) = collector.spans
    assert attributes(served)["rpc.grpc.status_code"] == number
    assert served.status.code == status
    assert served.parent_span_id == b"", "without a traceparent it is the first of its trace"


async def test_a_statement_that_fails_says_how_and_not_with_what() -> None:
    async def call(opened: Tracing) -> None:
        begun = opened.begin(METHOD, {}, "r-1")
        with pytest.raises(ValueError, match="secret"), statement("SELECT 1", "read"):
            raise ValueError("secret")
        with tracing.span("next"):
            pass
        begun.end("OK", "acme")

    async with collecting() as (collector, opened):
        await asyncio.create_task(call(opened))
        await opened.close()
        failed, following = collector.span("SELECT"), collector.span("next")
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "ValueError"
    assert not failed.events
    assert following.parent_span_id == failed.parent_span_id
    assert b"secret" not in b"".join(request.SerializeToString() for request in collector.requests)


async def test_who_decided_against_a_trace_gets_none() -> None:
    async with collecting() as (collector, opened):
        within = await in_a_task(opened, metadata={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        await opened.close()
        assert collector.spans == []
    assert within is not None
    assert within.startswith(f"00-{TRACE}-")
    assert within.endswith("-00"), "ClickHouse is told of the decision too"


@pytest.mark.parametrize("sent", ["", "nonsense", "00-" + "0" * 32 + "-" + PARENT + "-01", "x" * 10_000])
async def test_a_traceparent_that_is_none_begins_a_trace(sent: str) -> None:
    async with collecting() as (collector, opened):
        await in_a_task(opened, metadata={"traceparent": sent})
        await opened.close()
        (served,) = collector.spans
    assert served.parent_span_id == b""


# --- statements' names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT version() AS version", "SELECT"),
        ("-- don't name me FROM here\nSELECT a FROM events", "SELECT events"),
        ("/* FROM it's */ WITH x AS (SELECT 1 FROM gold) SELECT * FROM x", "SELECT gold"),
        ("INSERT INTO events (a) SELECT a FROM {source} SETTINGS x = 1", "INSERT events"),
        ("INSERT INTO TABLE `db.events` VALUES", "INSERT db.events"),
        ("ALTER TABLE events_local ON CLUSTER 'c' DELETE WHERE x", "ALTER events_local"),
        ("DROP TABLE IF EXISTS old", "DROP old"),
        ("KILL QUERY WHERE query_id IN ['a']", "KILL"),
        ("SELECT 'FROM secret' AS a FROM events", "SELECT events"),
        (f"SELECT '{'x' * 5_000}' FROM events", "SELECT"),
        (f"SELECT a FROM {'t' * 500}", f"SELECT {'t' * 73}"),
        ("", "STATEMENT"),
    ],
)
def test_a_name_is_what_is_done_to_which_table(sql: str, name: str) -> None:
    assert statement_name(sql) == name


@given(st.text(max_size=200), st.integers(0, 5_000))
def test_no_value_ever_gets_into_a_name(value: str, padding: int) -> None:
    sql = f"SELECT {literal('x' * padding)}, {literal(value)} AS a FROM events"
    assert statement_name(sql) in ("SELECT events", "SELECT")


# --- off, and away ---------------------------------------------------------------------------------------------------


def test_without_a_trace_nothing_happens() -> None:
    def outside() -> None:
        with tracing.span("a"), statement("SELECT 1", "read"):
            assert traceparent() is None

    Context().run(outside)


def test_nothing_is_imported_before_there_is_an_endpoint() -> None:
    code = "import sys, penstock.tracing; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


async def test_detached_work_has_no_span() -> None:
    async def shared() -> str | None:
        return traceparent()

    async def call(opened: Tracing) -> str | None:
        opened.begin(METHOD, SAMPLED, "r-1").end("OK", "acme")
        return await detached(shared())

    async with collecting() as (_, opened):
        assert await asyncio.create_task(call(opened)) is None


def test_missing_packages_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(Conflict, match=r"install penstock\[tracing\]") as caught:
        Tracing.open("http://127.0.0.1:4317", "1.2.3")
    assert caught.value.reason == "TRACING_UNUSABLE"


@pytest.mark.parametrize("endpoint", ["localhost:4317", "http://", "collector", "grpc://host:4317"])
def test_what_is_no_endpoint_is_told(endpoint: str) -> None:
    with pytest.raises(Conflict, match="PENSTOCK_OTLP_ENDPOINT"):
        Tracing.open(endpoint, "1.2.3")


@pytest.mark.parametrize("answers", [False, True])
async def test_an_endpoint_that_is_away_costs_calls_nothing_and_the_end_a_moment(answers: bool) -> None:
    """Nothing listens; or something does, and never says a word. To wait for it would take half a minute and more."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if answers:
            mute.listen(1)
        opened = Tracing.open(f"http://127.0.0.1:{mute.getsockname()[1]}", "1.2.3")
        began = time.monotonic()
        for _ in range(tracing.SPANS_QUEUED_MAX + 500):
            await in_a_task(opened)
        assert time.monotonic() - began < 20
        began = time.monotonic()
        await opened.close()
        assert time.monotonic() - began < 20
