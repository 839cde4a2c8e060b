"""A server that stands in for Penstock where the subject of a test is Envoy: the real edge, services of a few lines.

Run as `python -m tests.rest.stand_in DATA_DIR` it starts that server and an Envoy before it, writes where they are to
DATA_DIR/ready.json, and ends on SIGTERM.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import symbol_database
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from penstock import errors, limits
from penstock.events.v1 import events_pb2, events_service_pb2
from penstock.kpis.v1 import kpis_service_pb2
from penstock.operations.v1 import operations_service_pb2
from penstock.pipeline.v1 import pipeline_service_pb2
from penstock.rest.envoy import EnvoyProcess
from penstock.rpc.bind import Edge
from penstock.rpc.call import Call
from penstock.rpc.server import OPTIONS
from penstock.settings import Settings
from tests.rpc.policies import open_policy

LARGE_COMMIT = 2**60
TAIL_PAUSE_S = 0.3
QUIET_S = 2.0


class StandIn:
    """Answers every unary rpc of a service with an empty response; subclasses say what they want otherwise."""

    def __init__(self, service: ServiceDescriptor) -> None:
        self.service = service

    def __getattr__(self, name: str) -> Callable[[Any, Call], Any]:
        if name not in self.service.methods_by_name:
            raise AttributeError(name)
        response = symbol_database.Default().GetSymbol(self.service.methods_by_name[name].output_type.full_name)

        async def answer(request: Any, call: Call) -> Any:
            return response()

        return answer


class Events(StandIn):
    """What the tests of errors, streams, uploads and headers talk to."""

    async def StreamEvents(
        self, requests: AsyncIterator[events_service_pb2.AppendRequest], call: Call
    ) -> AsyncIterator[events_service_pb2.AppendResponse]:
        offset, stream_open = 0, False
        async for request in requests:
            if not stream_open:
                stream_open = True
                opened = events_service_pb2.StreamOpened(stream_id=request.stream_id)
                yield events_service_pb2.AppendResponse(opened=opened)
            rows = len(request.event_rows.events)
            result = events_service_pb2.AppendResult(offset=offset, accepted_rows=rows)
            yield events_service_pb2.AppendResponse(append_result=result)
            offset += rows
        yield events_service_pb2.AppendResponse(end=events_service_pb2.StreamEnd(next_offset=offset))

    async def Collect(self, request: HttpBody, call: Call) -> events_service_pb2.CollectResponse:
        """Tells what reached it, as JSON in `message`."""
        seen = {
            "data": request.data.decode(errors="replace")[:1000],
            "content_type": request.content_type,
            "address": call.client_address,
            "user_agent": call.user_agent,
            "request_id": call.request_id,
            "query": parse_qsl(urlsplit(call.metadata.get("x-envoy-original-path", "")).query),
        }
        return events_service_pb2.CollectResponse(status="success", message=json.dumps(seen))

    async def UploadEvents(
        self, requests: AsyncIterator[events_service_pb2.UploadEventsRequest], call: Call
    ) -> events_service_pb2.UploadEventsResponse:
        """`commit` is the bytes that came, `rejected_rows` the pieces."""
        lines = size = pieces = 0
        async for request in requests:
            lines += request.content.data.count(b"\n")
            size += len(request.content.data)
            pieces += 1
        return events_service_pb2.UploadEventsResponse(accepted_rows=lines, rejected_rows=pieces, commit=size)

    async def ListEvents(
        self, request: events_service_pb2.ListEventsRequest, call: Call
    ) -> events_service_pb2.ListEventsResponse:
        match request.event_type:
            case "overloaded":
                raise errors.Overloaded("the ingest queue is full", reason="OVERLOADED", retry_after_s=7)
            case "missing":
                raise errors.NotFound("no such thing", reason="THING_NOT_FOUND", metadata={"thing": "x"})
            case "away":
                raise errors.Unavailable("the database is away", reason="STORAGE_UNAVAILABLE", retry_after_s=1)
            case "fault":
                raise RuntimeError("a secret of the server")
            case "large":
                event = events_pb2.Event(url="x" * 1_000_000)
                return events_service_pb2.ListEventsResponse(events=[events_pb2.StoredEvent(event=event)] * 12)
            case "huge":
                event = events_pb2.Event(url="x" * 1_000_000)
                return events_service_pb2.ListEventsResponse(events=[events_pb2.StoredEvent(event=event)] * 20)
            case "compressible":
                event = events_pb2.Event(url="x" * 10_000)
                return events_service_pb2.ListEventsResponse(events=[events_pb2.StoredEvent(event=event)])
        return events_service_pb2.ListEventsResponse()

    async def CountEvents(
        self, request: events_service_pb2.CountEventsRequest, call: Call
    ) -> events_service_pb2.CountEventsResponse:
        return events_service_pb2.CountEventsResponse(counts={"purchase": 2}, total=2, commit=LARGE_COMMIT)

    async def TailEvents(
        self, request: events_service_pb2.TailEventsRequest, call: Call
    ) -> AsyncIterator[events_service_pb2.TailEventsResponse]:
        if request.resume_token == "refused":
            raise errors.OutOfRange("that token is too old", reason="RESUME_TOKEN_EXPIRED")
        if request.resume_token == "quiet":
            await asyncio.sleep(QUIET_S)
        for commit in range(1, 4):
            heartbeat = events_service_pb2.TailHeartbeat(commit=commit)
            yield events_service_pb2.TailEventsResponse(heartbeat=heartbeat)
            await asyncio.sleep(TAIL_PAUSE_S)
            if request.resume_token == "breaks":
                raise errors.Unavailable("the database went away", reason="STORAGE_UNAVAILABLE", retry_after_s=1)
        if request.resume_token == "tells":
            status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the database went away")
            yield events_service_pb2.TailEventsResponse(error=status)
        else:
            yield events_service_pb2.TailEventsResponse(end=events_service_pb2.TailEnd())

    async def GetStream(
        self, request: events_service_pb2.GetStreamRequest, call: Call
    ) -> events_service_pb2.GetStreamResponse:
        return events_service_pb2.GetStreamResponse(stream_id=request.stream_id)

    async def ListRejectedEvents(
        self, request: events_service_pb2.ListRejectedEventsRequest, call: Call
    ) -> events_service_pb2.ListRejectedEventsResponse:
        row = events_pb2.RejectedEvent(rejected_id="r", raw_format=events_pb2.RAW_FORMAT_JSON)
        return events_service_pb2.ListRejectedEventsResponse(rejected_events=[row])

    async def BatchCollect(
        self, request: events_service_pb2.BatchCollectRequest, call: Call
    ) -> events_service_pb2.BatchCollectResponse:
        """`commit` is the row policy's number, so that a test sees what the enum was read as."""
        return events_service_pb2.BatchCollectResponse(accepted_rows=len(request.events), commit=request.row_policy)


class Pipeline(StandIn):
    """One rpc that shows what became of a body."""

    async def Cleanup(
        self, request: pipeline_service_pb2.CleanupRequest, call: Call
    ) -> pipeline_service_pb2.CleanupResponse:
        dry_run = not (request.HasField("dry_run") and not request.dry_run)
        return pipeline_service_pb2.CleanupResponse(dry_run=dry_run, commit=request.retention_days)


class Kpis(StandIn):
    """A watch that never ends by itself."""

    async def WatchMetrics(
        self, request: kpis_service_pb2.WatchMetricsRequest, call: Call
    ) -> AsyncIterator[kpis_service_pb2.WatchMetricsResponse]:
        while True:
            yield kpis_service_pb2.WatchMetricsResponse(heartbeat=kpis_service_pb2.WatchHeartbeat())
            await asyncio.sleep(0.05)


class Operations(StandIn):
    """The one raw response of the contract."""

    async def GetOpenApi(self, request: operations_service_pb2.GetOpenApiRequest, call: Call) -> HttpBody:
        return HttpBody(content_type="application/json", data=b'{"openapi": "3.1.0"}')


def stand_in_server(settings: Settings) -> grpc.aio.Server:
    """The server with all four services, not yet started."""
    server = grpc.aio.server(
        options=[
            *OPTIONS,
            ("grpc.max_metadata_size", limits.METADATA_BYTES_MAX),
            ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES_MAX),
        ]
    )
    edge = Edge(trusted_proxies=settings.trusted_proxies, policy=open_policy())
    for module, name, make in (
        (events_service_pb2, "EventService", Events),
        (pipeline_service_pb2, "PipelineService", Pipeline),
        (kpis_service_pb2, "KpiService", Kpis),
        (operations_service_pb2, "OperationsService", Operations),
    ):
        service = module.DESCRIPTOR.services_by_name[name]
        server.add_generic_rpc_handlers((edge.handlers(service, make(service)),))
    return server


async def main(data_dir: Path) -> None:
    """Serves until SIGTERM."""
    settings = Settings(data_dir=data_dir, grpc_port=0, http_port=0)
    server = stand_in_server(settings)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        envoy = EnvoyProcess(settings, grpc_port=grpc_port)
        await envoy.start()
        stack.push_async_callback(envoy.stop)
        ready = {"pid": os.getpid(), "grpc_port": grpc_port, "http_port": envoy.http_port, "envoy_pid": envoy.pid}
        written = data_dir / "ready.json.new"
        written.write_text(json.dumps(ready), encoding="utf-8")
        written.rename(data_dir / "ready.json")
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
