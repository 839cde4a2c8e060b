"""Who watches the server, put together: metrics, traces, grades, slow calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

import structlog

from penstock.cache.tally import Tallies
from penstock.operations.metrics import Figures, IngestMetrics, MetricsServer, RpcMetrics
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.operations.versions import own_version
from penstock.operations.watch import CallWatch
from penstock.rest import contract
from penstock.settings import Settings
from penstock.tracing import Tracing

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watching:
    """The parts that live as long as the server."""

    calls: CallWatch
    performance: Performance
    slow_calls: SlowCalls
    ingest: IngestMetrics
    rpc: RpcMetrics

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, tallies: Tallies) -> AsyncIterator[Self]:
        """Begins to watch; `tallies` are told of answers that areas keep by themselves. Raises Conflict."""
        async with AsyncExitStack() as ending:
            tracing: Tracing | None = None
            if settings.otlp_endpoint:
                # Loads its packages, which takes a while.
                tracing = await asyncio.to_thread(Tracing.open, settings.otlp_endpoint, own_version())
                ending.push_async_callback(tracing.close)
            rpc = RpcMetrics(each.path for each in contract.rpcs())
            performance, slow_calls = Performance(), SlowCalls()
            calls = CallWatch(rpc, performance, slow_calls, tallies, tracing)
            yield cls(calls, performance, slow_calls, IngestMetrics(), rpc)

    @asynccontextmanager
    async def serving_metrics(self, settings: Settings, figures: Figures) -> AsyncIterator[None]:
        """Serves them to Prometheus, where a port is set. Raises Conflict (PORT_TAKEN)."""
        if settings.metrics_port is None:
            yield
            return
        server = MetricsServer(settings.metrics_port, settings.metrics_host, (self.rpc, self.ingest, figures))
        port = await server.start()
        log.info("serving metrics", url=f"http://{settings.metrics_host}:{port}/metrics")
        try:
            yield
        finally:
            await server.stop()
