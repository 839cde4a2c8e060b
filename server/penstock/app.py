"""The one place where the parts are put together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health

from penstock.access.v1 import access_pb2
from penstock.discovery import Discovery, opened_encoders
from penstock.events.committer import Committer
from penstock.events.intake import Intake
from penstock.events.reader import EventReader
from penstock.events.rejected import RejectedEvents
from penstock.events.service import EventService
from penstock.events.streams import Streams
from penstock.events.tail import Tails
from penstock.events.v1 import events_service_pb2
from penstock.gatehouse import Gatehouse
from penstock.kpis.catalog import load_catalog
from penstock.kpis.feature_export import FeatureExport
from penstock.kpis.features import FeatureReader
from penstock.kpis.feed import KpiFeed
from penstock.kpis.latency import LatencyReader
from penstock.kpis.moment import Moments, seen
from penstock.kpis.newest import NewestMinutes
from penstock.kpis.outlooks import Outlooks
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.quality import QualityReader
from penstock.kpis.query import KpiQueries
from penstock.kpis.reader import KpiReader
from penstock.kpis.series import SeriesReader
from penstock.kpis.service import KpiService
from penstock.kpis.trends import TrendReader
from penstock.kpis.v1 import kpis_service_pb2
from penstock.operations.caches import Caches
from penstock.operations.health import HealthChecker
from penstock.operations.loop_lag import LoopLag
from penstock.operations.metrics import AdmissionFigures, CacheFigures, Figures, IndexFigures, LaneFigures
from penstock.operations.probes import CacheProbe, IndexProbe, IngestProbe, PipelineProbe, StorageProbe
from penstock.operations.service import IngestFigures, OperationsService
from penstock.operations.v1 import operations_service_pb2
from penstock.operations.versions import own_version
from penstock.pipeline.cleanup import Cleaner
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.diff import DiffReader
from penstock.pipeline.forget import Forgetter
from penstock.pipeline.forget_rows import PersonalTable
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.service import PipelineService
from penstock.pipeline.status import StatusReader
from penstock.pipeline.travel import DataReader
from penstock.pipeline.v1 import pipeline_service_pb2
from penstock.queries.ask import Asker, MetricNote
from penstock.queries.costs import CostRecorder
from penstock.queries.explain import Explainer
from penstock.queries.gate import Gate
from penstock.queries.runner import QueryRunner
from penstock.queries.service import QueryService
from penstock.queries.v1 import queries_service_pb2
from penstock.queries.views import VIEWS
from penstock.rest.openapi import document_json
from penstock.rpc.bind import Edge
from penstock.rpc.needs import cost_name
from penstock.rpc.operations import Operations
from penstock.rpc.server import listen, make_server
from penstock.rpc.standard import add_standard_services
from penstock.rpc.tags import Tags, VersionOf
from penstock.rpc.tls import certificates
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.lease import Lease
from penstock.storage.schema import migrate
from penstock.storage.user_sql.lane import open_user_sql
from penstock.watching import Watching
from penstock.workers import Workers

log = structlog.get_logger()

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of, as far as starting and stopping it needs to know."""

    committer: Committer
    runner: PipelineRunner
    cleaner: Cleaner
    operations: Operations
    feed: KpiFeed
    checker: HealthChecker
    health: health.aio.HealthServicer
    loop_lag: LoopLag
    discovery: Discovery
    forgetter: Forgetter
    services: Mapping[ServiceDescriptor, object]
    catalogs: Catalogs
    figures: Figures
    draining: asyncio.Event


@dataclass(frozen=True, slots=True)
class Core:
    """What all areas rest on."""

    settings: Settings
    engine: ClickHouseEngine
    commit_log: CommitLog
    workers: Workers
    discovery: Discovery
    gatehouse: Gatehouse
    watching: Watching


class Server:
    """A server that serves: where, and how it is stopped."""

    def __init__(
        self, settings: Settings, parts: Parts, server: grpc.aio.Server, grpc_port: int, inner_port: int
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._server = server
        self._drained = False
        self.grpc_port = grpc_port
        self.inner_port = inner_port  # where Envoy, on this machine, reaches it without TLS

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Starts everything and serves gRPC; leaving the context drains and ends it.

        Raises Conflict when the port is taken, the data folder is open elsewhere, or the schema is newer than this
        program or cannot be migrated because another server writes; Unavailable when ClickHouse does not answer.
        """
        async with AsyncExitStack() as ending:
            encoders = await ending.enter_async_context(opened_encoders(settings))
            engine = open_engine(settings)
            ending.push_async_callback(engine.close)
            # Behind a URL other servers may be, so that who migrates and who writes has to be agreed upon.
            lease = None if engine.remote is None else Lease(engine)
            await migrate(engine, settings, lease)
            commit_log = await _commit_log(engine, lease, ending)
            queries, costs = await ending.enter_async_context(_queries(settings, engine, commit_log))
            workers = Workers()
            ending.push_async_callback(workers.close)
            discovery = await ending.enter_async_context(Discovery.open(settings, engine, commit_log, encoders))
            gatehouse = await ending.enter_async_context(Gatehouse.open(settings, engine, discovery.redis))
            watching = await ending.enter_async_context(Watching.open(settings, discovery.results.tallies))
            core = Core(settings, engine, commit_log, workers, discovery, gatehouse, watching)
            parts = _assemble(core, queries, costs)
            await parts.runner.open()
            if commit_log.leads:
                await parts.forgetter.resume()
            tags = Tags(own_version(), _versions(commit_log, parts.catalogs, discovery), parts.catalogs.of)
            policy = gatehouse.policy(tags, watching.calls)
            edge = Edge(trusted_proxies=settings.trusted_proxies, policy=policy)
            server = make_server([edge.handlers(service, part) for service, part in parts.services.items()])
            names = [service.full_name for service in parts.services]
            add_standard_services(server, parts.health, names, gatehouse.access)
            shown = certificates(settings)
            port = listen(server, settings.grpc_host, settings.grpc_port, shown)
            # Envoy, beside this server, need not prove itself to it.
            inner_port = port if shown is None else listen(server, LOOPBACK, 0)
            await ending.enter_async_context(watching.serving_metrics(settings, parts.figures))
            await _start(settings, parts, server)
            serving = cls(settings, parts, server, port, inner_port)
            ending.push_async_callback(serving.drain)
            log.info("serving gRPC", address=f"{settings.grpc_host}:{port}", version=own_version())
            yield serving

    async def wait_stopped(self) -> None:
        """Waits until gRPC has stopped, asked or not."""
        await self._server.wait_for_termination()

    async def drain(self) -> None:
        """Stops in order: no new work, what was taken is committed and answered, streams end with their last frame."""
        if self._drained:
            return
        self._drained = True
        parts = self._parts
        await parts.checker.drain()
        parts.draining.set()
        await parts.feed.close()
        # First, because what experiments showed is stored through the committer.
        await parts.discovery.stop_writing()
        await parts.committer.stop()
        # Streams have had their answers by now; the grace is for their clients to read them.
        await self._server.stop(self._settings.drain_s)
        await parts.operations.stop()
        await parts.forgetter.stop()
        await parts.cleaner.stop()
        await parts.runner.stop()
        await parts.checker.stop()
        parts.loop_lag.stop()
        log.info("drained")


async def _commit_log(engine: ClickHouseEngine, lease: Lease | None, ending: AsyncExitStack) -> CommitLog:
    """The open commit log. With a lease, that is kept and the log's head followed."""
    commit_log = CommitLog(engine, lease)
    if lease is None:
        await commit_log.open()
        return commit_log
    # First, because who migrated has the lease already, and opening the log then takes as long as it takes.
    ending.push_async_callback(_cancel, asyncio.create_task(lease.keep(), name="lease"))
    await commit_log.open()
    ending.push_async_callback(_cancel, asyncio.create_task(commit_log.follow(), name="follow-log"))
    return commit_log


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _queries(
    settings: Settings, engine: ClickHouseEngine, commit_log: CommitLog
) -> AsyncIterator[tuple[QueryService, CostRecorder]]:
    """SQL of users, on handles of its own."""
    sql = open_user_sql(settings)
    costs = CostRecorder(engine)
    runner = QueryRunner(Gate(), sql, commit_log, costs)
    metrics = [MetricNote(each.name, each.description, each.expression) for each in load_catalog().metrics.values()]
    asker = Asker(runner, settings, VIEWS, metrics)
    costs.start()
    try:
        yield QueryService(runner, Explainer(sql, engine), asker, costs), costs
    finally:
        await asker.close()
        await sql.close()
        await costs.stop()


def _assemble(core: Core, queries: QueryService, costs: CostRecorder) -> Parts:
    settings, engine, commit_log, discovery = core.settings, core.engine, core.commit_log, core.discovery
    draining = asyncio.Event()
    streams = Streams(commit_log)
    committer = Committer(engine, commit_log, streams, core.watching.ingest)
    intake = Intake(committer)
    events = EventService(
        committer,
        streams,
        intake,
        EventReader(engine, commit_log),
        Tails(engine, commit_log, draining),
        RejectedEvents(engine, commit_log, intake),
        durable=settings.fsync and settings.embedded,
        draining=draining,
    )
    runner = PipelineRunner(engine, commit_log, settings)
    cleaner = Cleaner(engine, commit_log, runner, settings)
    operations = Operations()
    daily = DailyCalculator(engine, commit_log, settings)
    forgetter = Forgetter(
        engine,
        commit_log,
        runner,
        cleaner,
        daily,
        settings,
        also=(PersonalTable("feedback", "user_id"),),
        before=(costs.flush,),
    )
    pipeline = PipelineService(
        runner,
        operations,
        daily,
        cleaner,
        StatusReader(engine, commit_log, runner, cleaner),
        HistoryReader(engine, commit_log),
        DataReader(engine, commit_log),
        DiffReader(engine, commit_log),
    )
    catalog = load_catalog(conversion_alert_threshold=settings.conversion_alert_threshold)
    catalogs = Catalogs(engine, commit_log, catalog)
    newest = NewestMinutes(engine)
    series = SeriesReader(engine, catalogs, newest, settings.currency)
    reader = KpiReader(engine, commit_log, settings, catalog, newest)
    feed = KpiFeed(reader, commit_log)
    features = FeatureReader(engine, settings)
    pipeline_probe = PipelineProbe(_lag_seconds(runner), lambda: commit_log.gold.last_commit)
    health_servicer = health.aio.HealthServicer()
    checker = HealthChecker(
        [
            StorageProbe(engine),
            IngestProbe(lambda: committer.queued_bytes),
            pipeline_probe,
            IndexProbe(discovery.loading),
            CacheProbe(discovery.redis),
        ],
        health_servicer,
    )
    loop_lag = LoopLag()
    found = discovery.services(intake, operations, forgetter)
    status = OperationsService(
        checker,
        loop_lag,
        ingest=lambda tenant: _ingest_figures(streams, committer, commit_log, tenant),
        lag_s=lambda: pipeline_probe.lag_s,
        openapi=document_json(own_version()),
        caches=Caches(discovery.results, discovery.redis, found.search, found.recommendations),
        index_size=discovery.index_size_of,
        performance=core.watching.performance,
        slow_calls=core.watching.slow_calls,
    )
    services: dict[ServiceDescriptor, object] = {
        events_service_pb2.DESCRIPTOR.services_by_name["EventService"]: events,
        pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"]: pipeline,
        kpis_service_pb2.DESCRIPTOR.services_by_name["KpiService"]: KpiService(
            catalogs,
            reader,
            feed,
            moments=Moments(commit_log),
            trends=TrendReader(series, catalogs, settings.currency),
            queries=KpiQueries(engine, catalogs, settings.currency),
            outlooks=Outlooks(series, catalogs, core.workers),
            features=features,
            feature_export=FeatureExport(engine, features),
            quality=QualityReader(engine, commit_log, settings, reader.freshness),
            latency=LatencyReader(engine, commit_log),
        ),
        queries_service_pb2.DESCRIPTOR.services_by_name["QueryService"]: queries,
        operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"]: status,
        **core.gatehouse.services(),
        **found.by_descriptor(),
    }
    return Parts(
        committer,
        runner,
        cleaner,
        operations,
        feed,
        checker,
        health_servicer,
        loop_lag,
        discovery,
        forgetter,
        services,
        catalogs,
        _figures(core, streams, committer, loop_lag, pipeline_probe),
        draining,
    )


def _lag_seconds(runner: PipelineRunner) -> Callable[[], Awaitable[float]]:
    async def read() -> float:
        return (await runner.lag()).seconds

    return read


def _versions(commit_log: CommitLog, catalogs: Catalogs, discovery: Discovery) -> Mapping[int, VersionOf]:
    """What answers depend on, by what the contract says of how long they stay right."""

    def gold(tenant: str) -> str | None:
        declared = catalogs.newest(tenant)
        return None if declared is None else f"{seen(commit_log.version)}.{declared}"

    return {
        access_pb2.CACHEABILITY_UNTIL_COMMIT: lambda _: f"{commit_log.version}",
        access_pb2.CACHEABILITY_UNTIL_GOLD: gold,
        access_pb2.CACHEABILITY_UNTIL_INDEX: discovery.content,
    }


def _figures(core: Core, streams: Streams, committer: Committer, loop_lag: LoopLag, pipeline: PipelineProbe) -> Figures:
    """What Prometheus is told besides of calls. Read in a thread of its own: numbers and copies only."""
    results, admissions, watch = core.discovery.results, core.gatehouse.admissions, core.watching.calls

    def admitted() -> dict[str, AdmissionFigures]:
        found = {}
        for cost, admission in admissions.items():
            load = admission.load
            found[cost_name(cost)] = AdmissionFigures(load.in_use, load.waiting, sum(load.refused.values()))
        return found

    return Figures(
        own_version(),
        ingest=lambda: _ingest_figures(streams, committer, core.commit_log),
        lag_s=lambda: pipeline.lag_s,
        loop_lag_s=lambda: loop_lag.max_ms / 1e3,
        cache=lambda: CacheFigures(*results.size, results.tallies.sums()),
        redis_up=(lambda: core.discovery.redis.available) if core.discovery.redis.configured else None,
        index=lambda: IndexFigures(*core.discovery.index_size()),
        statements=lambda: {lane: LaneFigures(*load) for lane, load in core.engine.load.items()},
        admission=admitted,
        rate_limited=lambda: watch.rate_limited,
        auth_failures=lambda: dict(watch.auth_failures),
    )


def _ingest_figures(
    streams: Streams, committer: Committer, commit_log: CommitLog, tenant: str | None = None
) -> IngestFigures:
    """How ingest stands, for a tenant or for all of them."""
    totals = committer.totals if tenant is None else committer.totals_of(tenant)
    return IngestFigures(
        open_streams=streams.open_count if tenant is None else streams.open_count_of(tenant),
        queued_batches=committer.queued_batches,
        queued_bytes=committer.queued_bytes,
        rows_accepted=totals.accepted,
        rows_rejected=totals.rejected,
        commits=committer.totals.commits,
        last_commit=commit_log.last_append,
    )


async def _start(settings: Settings, parts: Parts, server: grpc.aio.Server) -> None:
    parts.loop_lag.start()
    parts.committer.start()
    await parts.discovery.start()
    if settings.pipeline_enabled:
        parts.runner.start()
        parts.cleaner.start()
    parts.forgetter.start()
    await server.start()
    await parts.checker.start()
