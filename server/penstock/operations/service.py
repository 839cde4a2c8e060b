"""How the server is, over gRPC."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import psutil
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import Unavailable
from penstock.operations import wire
from penstock.operations.caches import Caches
from penstock.operations.health import HealthChecker, Report, State
from penstock.operations.loop_lag import LoopLag
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.v1 import operations_service_pb2 as pb
from penstock.operations.versions import own_version, part_versions
from penstock.rpc.call import Call
from penstock.rpc.principal import Kind

LINKS = {"docs": "/openapi.json", "openapi": "/openapi.json", "health": "/health", "metrics": "/metrics"}
WORDS = {State.UP: "healthy", State.DEGRADED: "degraded", State.DOWN: "unhealthy"}
SLOW_SHOWN_DEFAULT = 50
RETRY_S = 2.0  # a check later, things may be different


@dataclass(frozen=True, slots=True)
class IngestFigures:
    """How ingest stands; the names are those of the contract's IngestStatus."""

    open_streams: int  # of the tenant, as the rows
    queued_batches: int  # of all, as commits: they are what the server has to do
    queued_bytes: int
    rows_accepted: int  # since the start, as the two below
    rows_rejected: int
    commits: int
    last_commit: int


class OperationsService:
    """Serves `penstock.operations.v1.OperationsService`."""

    def __init__(
        self,
        checker: HealthChecker,
        loop_lag: LoopLag,
        *,
        ingest: Callable[[str], IngestFigures],
        lag_s: Callable[[], float],
        openapi: bytes,
        caches: Caches,
        index_size: Callable[[str], tuple[int, int]],
        performance: Performance,
        slow_calls: SlowCalls,
    ) -> None:
        """`ingest` (of a tenant), `lag_s` (of gold, in seconds) and `index_size` (of a tenant: products, bytes) are
        asked at every call and answer from memory."""
        self._checker = checker
        self._loop_lag = loop_lag
        self._ingest = ingest
        self._lag_s = lag_s
        self._openapi = openapi
        self._caches = caches
        self._index_size = index_size
        self._performance = performance
        self._slow_calls = slow_calls
        self._started = time.monotonic()
        self._process = psutil.Process()

    async def GetHealth(self, request: pb.GetHealthRequest, call: Call) -> pb.GetHealthResponse:
        report = await self._checker.report()
        now = Timestamp()
        now.GetCurrentTime()
        return pb.GetHealthResponse(
            status=WORDS[report.state],
            timestamp=now,
            uptime_seconds=self._uptime_s(),
            database="disconnected" if report.is_down("storage") else "connected",
            lag_seconds=self._lag_s(),
            cache=self._caches.summary(call.tenant) if call.principal.kind is not Kind.ANONYMOUS else None,
        )

    async def CheckHealth(self, request: pb.CheckHealthRequest, call: Call) -> pb.CheckHealthResponse:
        report = await self._checker.report()
        if report.state is State.DOWN:
            raise _unavailable(report, "UNHEALTHY")
        return pb.CheckHealthResponse(status=WORDS[report.state], dependencies=wire.dependencies(report.dependencies))

    async def CheckLive(self, request: pb.CheckLiveRequest, call: Call) -> pb.CheckLiveResponse:
        return pb.CheckLiveResponse(status="alive")

    async def CheckReady(self, request: pb.CheckReadyRequest, call: Call) -> pb.CheckReadyResponse:
        report = await self._checker.report()
        if report.draining or report.state is State.DOWN:
            raise _unavailable(report, "NOT_READY")
        return pb.CheckReadyResponse(status="ready", dependencies=wire.dependencies(report.dependencies))

    async def GetStatus(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        report = await self._checker.report()
        products, index_bytes = self._index_size(call.tenant)
        return pb.GetStatusResponse(
            status=WORDS[report.state],
            version=own_version(),
            uptime_seconds=self._uptime_s(),
            dependencies=wire.dependencies(report.dependencies),
            versions=part_versions(),
            ingest=pb.GetStatusResponse.IngestStatus(**asdict(self._ingest(call.tenant))),
            memory_bytes=self._process.memory_info().rss,
            event_loop_lag_ms_max=self._loop_lag.max_ms,
            sizes=pb.GetStatusResponse.Sizes(
                cache_entries=self._caches.stats(call.tenant).entries,
                index_products=products,
                index_bytes=index_bytes,
            ),
        )

    async def GetInfo(self, request: pb.GetInfoRequest, call: Call) -> pb.GetInfoResponse:
        return pb.GetInfoResponse(name="penstock", version=own_version(), links=LINKS)

    async def GetOpenApi(self, request: pb.GetOpenApiRequest, call: Call) -> HttpBody:
        return HttpBody(content_type="application/json", data=self._openapi)

    async def GetCacheStats(self, request: pb.GetCacheStatsRequest, call: Call) -> pb.GetCacheStatsResponse:
        return self._caches.stats(call.tenant)

    async def InvalidateCache(self, request: pb.InvalidateCacheRequest, call: Call) -> pb.InvalidateCacheResponse:
        kinds, everywhere = await self._caches.invalidate(call.tenant, request.kind, request.user_id)
        return pb.InvalidateCacheResponse(kinds=kinds, everywhere=everywhere)

    async def WarmCache(self, request: pb.WarmCacheRequest, call: Call) -> pb.WarmCacheResponse:
        searches, users = await self._caches.warm(call.tenant, request.limit or limits.WARMED_DEFAULT)
        return pb.WarmCacheResponse(
            searches=searches.computed, users=users.computed, already_cached=searches.kept + users.kept
        )

    async def GetPerformance(self, request: pb.GetPerformanceRequest, call: Call) -> pb.GetPerformanceResponse:
        return wire.performance(self._performance.report(call.tenant))

    async def ListSlowQueries(self, request: pb.ListSlowQueriesRequest, call: Call) -> pb.ListSlowQueriesResponse:
        return wire.slow_calls(self._slow_calls.report(call.tenant, request.limit or SLOW_SHOWN_DEFAULT))

    def _uptime_s(self) -> float:
        return time.monotonic() - self._started


def _unavailable(report: Report, reason: str) -> Unavailable:
    wrong = [f"{each.name}: {each.detail}" for each in report.dependencies if each.state is State.DOWN]
    if report.draining:
        wrong.append("server: stopping")
    return Unavailable("; ".join(wrong), reason=reason, metadata=report.states, retry_after_s=RETRY_S)
