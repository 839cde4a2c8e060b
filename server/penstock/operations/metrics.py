"""What Prometheus is told, on a port of its own.

The event loop counts in plain Python numbers and lists: 0.3 µs for a call, where the library's own metrics, with a lock
each, take 2.5 µs. They are read when Prometheus asks, in the thread of its request. That needs no lock either: a number
is replaced as a whole, and `list(…)` and `dict(…)` of numbers copy without letting another thread in between. Numbers
that belong together, as a histogram's counts and its sum, may be one observation apart; the next scrape has both.

Labels hold nothing that a client chooses: methods are those of the contract, codes are gRPC's, reasons those of errors.
There are no tenants, because of their number and because whoever may read metrics need not know them.
"""

import asyncio
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore, Thread
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from penstock.cache.tally import KindStats
from penstock.errors import Conflict
from penstock.operations.service import IngestFigures

log = structlog.get_logger()

T = TypeVar("T")
Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)  # with bounds of grades
ROWS = (1.0, 10.0, 100.0, 500.0, 1e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5)
CODES = frozenset(code.name for code in grpc.StatusCode)
OTHER = "other"  # methods that are not of the contract
REASONS_MAX = 32  # labels of one family whose words come from other areas; further ones count as OTHER
SCRAPE_S_MAX = 10.0  # without a byte from the scraper
SCRAPES_MAX = 16  # at once
POLL_S = 0.1  # in which the server sees that it shall stop


class Histogram:
    """Counts of values by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value in the first bucket whose bound it does not exceed."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Adds it to a family as Prometheus has it: each bucket with those below it."""
        counts, total = list(self._counts), 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(repr, self._bounds), "+Inf"], counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, self._sum)


class _Method:
    __slots__ = ("codes", "in_flight", "seconds")

    def __init__(self) -> None:
        self.codes = {grpc.StatusCode.OK.name: 0}  # there before the first call, so that a rate has where to begin
        self.in_flight = 0
        self.seconds = Histogram(SECONDS)


class RpcMetrics:
    """Calls by method. For the event loop's thread alone, but for `collect`."""

    def __init__(self, methods: Iterable[str]) -> None:
        """`methods` are those of the contract, each as in `Call.method`."""
        self._other = _Method()
        self._methods = {method: _Method() for method in methods} | {OTHER: self._other}

    def started(self, method: str) -> None:
        """A call has begun; `finished` follows."""
        self._methods.get(method, self._other).in_flight += 1

    def finished(self, method: str, code: str, seconds: float | None) -> None:
        """A call has ended with the gRPC status of that name; no `seconds` for a stream: they are its client's."""
        found = self._methods.get(method, self._other)
        found.in_flight -= 1
        if code not in CODES:
            code = grpc.StatusCode.UNKNOWN.name
        found.codes[code] = found.codes.get(code, 0) + 1
        if seconds is not None:
            found.seconds.observe(seconds)

    def answered(self, method: str, seconds: Sequence[float]) -> None:
        """So many unary calls have begun and ended well, each in its time."""
        found = self._methods.get(method, self._other)
        found.codes[grpc.StatusCode.OK.name] += len(seconds)
        for each in seconds:
            found.seconds.observe(each)

    def collect(self) -> Iterator[Metric]:
        """What was counted. For any thread."""
        requests = CounterMetricFamily("penstock_rpc_requests", "Calls that ended", labels=["method", "code"])
        in_flight = GaugeMetricFamily("penstock_rpc_in_flight", "Calls under way", labels=["method"])
        seconds = HistogramMetricFamily("penstock_rpc_seconds", "Time of unary calls", labels=["method"])
        for name, method in self._methods.items():
            codes = dict(method.codes)
            for code, count in codes.items():
                requests.add_metric([name, code], count)
            in_flight.add_metric([name], method.in_flight)
            if sum(codes.values()):
                method.seconds.add_to(seconds, [name])
        yield from (requests, in_flight, seconds)


class IngestMetrics:
    """Commits and acknowledgements. For the event loop's thread alone, but for `collect`."""

    def __init__(self) -> None:
        self._bytes = 0
        self._rows = Histogram(ROWS)
        self._seconds = Histogram(SECONDS)

    def committed(self, rows: int, size: int) -> None:
        """A commit of so many rows and bytes is durable."""
        self._rows.observe(rows)
        self._bytes += size

    def acknowledged(self, seconds: float) -> None:
        """A batch was answered so long after it had come."""
        self._seconds.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """What was counted. For any thread."""
        rows = HistogramMetricFamily("penstock_ingest_commit_rows", "Rows of a commit", labels=[])
        self._rows.add_to(rows)
        seconds = HistogramMetricFamily("penstock_ingest_ack_seconds", "From a batch to its answer", labels=[])
        self._seconds.add_to(seconds)
        yield from (rows, seconds, CounterMetricFamily("penstock_ingest_bytes", "Bytes committed", self._bytes))


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """The cache of answers, all tenants together."""

    entries: int
    bytes: int
    kinds: Mapping[str, KindStats]


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """The indexes of products, all tenants together."""

    products: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One lane of statements to ClickHouse."""

    in_flight: int
    waiting: int  # for a handle


@dataclass(frozen=True, slots=True)
class AdmissionFigures:
    """How many calls are let in."""

    in_use: int
    waiting: int
    refused: int  # since the start


@dataclass(frozen=True, slots=True)
class Figures:
    """What other areas count, asked at each scrape in another thread than theirs.

    So they read numbers, or copy with `list` and `dict`; what iterates in Python over something that the event loop
    changes would fail now and then. One that is None, or fails, has its families left out.
    """

    version: str  # of this program
    ingest: Callable[[], IngestFigures] | None = None  # of all tenants together
    lag_s: Callable[[], float] | None = None  # of gold behind the newest commit
    loop_lag_s: Callable[[], float] | None = None  # the worst of late
    cache: Callable[[], CacheFigures] | None = None
    redis_up: Callable[[], bool] | None = None  # None where there is none to be up
    index: Callable[[], IndexFigures] | None = None
    statements: Callable[[], Mapping[str, LaneFigures]] | None = None  # by lane
    admission: Callable[[], Mapping[str, AdmissionFigures]] | None = None  # by what calls cost
    rate_limited: Callable[[], int] | None = None  # calls refused since the start
    auth_failures: Callable[[], Mapping[str, int]] | None = None  # by reason, since the start

    def collect(self) -> Iterator[Metric]:
        """What they say now."""
        version = GaugeMetricFamily("penstock_build_info", "The version", labels=["version"])
        yield _labelled(version, [([self.version], 1)])
        yield from _read("ingest", self.ingest, _ingest)
        yield from _read("lag_s", self.lag_s, _gauge("penstock_pipeline_lag_seconds", "Gold behind the last commit"))
        yield from _read("loop_lag_s", self.loop_lag_s, _gauge("penstock_event_loop_lag_seconds_max", "Worst of late"))
        yield from _read("cache", self.cache, _cache)
        yield from _read("redis_up", self.redis_up, _gauge("penstock_redis_up", "Whether Redis answers"))
        yield from _read("index", self.index, _index)
        yield from _read("statements", self.statements, _statements)
        yield from _read("admission", self.admission, _admission)
        yield from _read("rate_limited", self.rate_limited, _rate_limited)
        yield from _read("auth_failures", self.auth_failures, _auth_failures)


class MetricsServer:
    """Answers scrapes at `http://HOST:PORT/metrics`, each on a thread of its own."""

    def __init__(self, port: int, host: str, collectors: Iterable[Collector]) -> None:
        """With port 0 a free one is picked."""
        self._host = host
        self._registry = CollectorRegistry(support_collectors_without_names=True)
        for collector in (ProcessCollector(registry=None), PlatformCollector(registry=None), *collectors):
            self._registry.register(collector)
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None
        self.port = port

    async def start(self) -> int:
        """Listens; returns the port. Raises Conflict (PORT_TAKEN) when it cannot."""
        self._server = await asyncio.to_thread(self._listening)  # it asks DNS for the name of the host
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
        self._thread.start()
        return self.port

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            await asyncio.to_thread(self._thread.join)
            self._server.server_close()
            self._server = self._thread = None

    def _listening(self) -> WSGIServer:
        try:
            return make_server(self._host, self.port, make_wsgi_app(self._registry), _Server, _Handler)
        except OSError as error:
            raise Conflict(
                f"cannot serve metrics at {self._host}:{self.port} ({error.strerror}): choose another with"
                " PENSTOCK_METRICS_PORT",
                reason="PORT_TAKEN",
            ) from error


class _Server(ThreadingWSGIServer):
    """The library's server takes any number of connections, with a thread for each; this one takes SCRAPES_MAX."""

    request_queue_size = 64  # of the library's 5 a burst of connections would wait for seconds

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = BoundedSemaphore(SCRAPES_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_S_MAX  # the library's own waits for ever, and keeps a thread for it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # named so by what it overrides
        """Nothing: scrapes are many and all alike."""


def _read(name: str, read: Callable[[], T] | None, families: Callable[[T], Iterable[Metric]]) -> Iterable[Metric]:
    if read is None:
        return ()
    try:
        return list(families(read()))
    except Exception:
        # A fault in one figure shall show in the log, and not hide all the others.
        log.exception("a figure cannot be read", figure=name)
        return ()


def _labelled(family: Family, values: Iterable[tuple[Sequence[str], float]]) -> Family:
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _gauge(name: str, text: str) -> Callable[[float], list[Metric]]:
    return lambda value: [GaugeMetricFamily(name, text, value)]


def _ingest(found: IngestFigures) -> Iterator[Metric]:
    outcomes = ((["accepted"], found.rows_accepted), (["rejected"], found.rows_rejected))
    yield _labelled(CounterMetricFamily("penstock_ingest_rows", "Rows decided on", labels=["outcome"]), outcomes)
    yield GaugeMetricFamily("penstock_ingest_queued_bytes", "Bytes that wait for a commit", found.queued_bytes)
    yield GaugeMetricFamily("penstock_ingest_streams", "Streams that are open", found.open_streams)


def _cache(found: CacheFigures) -> Iterator[Metric]:
    requests = CounterMetricFamily("penstock_cache_requests", "Answers looked for", labels=["kind", "outcome"])
    for kind, stats in found.kinds.items():
        for outcome, count in (("local", stats.local_hits), ("redis", stats.redis_hits), ("miss", stats.misses)):
            requests.add_metric([kind, outcome], count)
    yield requests
    yield GaugeMetricFamily("penstock_cache_entries", "Answers kept in this process", found.entries)
    yield GaugeMetricFamily("penstock_cache_bytes", "Bytes that they take", found.bytes)


def _index(found: IndexFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("penstock_index_products", "Products that can be searched", found.products)
    yield GaugeMetricFamily("penstock_index_bytes", "Bytes that their indexes take", found.bytes)


def _statements(found: Mapping[str, LaneFigures]) -> Iterator[Metric]:
    running = GaugeMetricFamily("penstock_clickhouse_statements_in_flight", "Statements that run", labels=["lane"])
    waiting = GaugeMetricFamily("penstock_clickhouse_waiting", "Statements that wait for a handle", labels=["lane"])
    yield _labelled(running, (([lane], figures.in_flight) for lane, figures in found.items()))
    yield _labelled(waiting, (([lane], figures.waiting) for lane, figures in found.items()))


def _admission(found: Mapping[str, AdmissionFigures]) -> Iterator[Metric]:
    in_use = GaugeMetricFamily("penstock_admission_in_use", "Calls that were let in", labels=["cost"])
    waiting = GaugeMetricFamily("penstock_admission_waiting", "Calls that wait to be", labels=["cost"])
    refused = CounterMetricFamily("penstock_admission_refused", "Calls that were not", labels=["cost"])
    yield _labelled(in_use, (([cost], figures.in_use) for cost, figures in found.items()))
    yield _labelled(waiting, (([cost], figures.waiting) for cost, figures in found.items()))
    yield _labelled(refused, (([cost], figures.refused) for cost, figures in found.items()))


def _rate_limited(found: int) -> Iterator[Metric]:
    yield CounterMetricFamily("penstock_rate_limited", "Calls refused by rate limits", found)


def _auth_failures(found: Mapping[str, int]) -> Iterator[Metric]:
    counts: Counter[str] = Counter()
    for place, (reason, count) in enumerate(dict(found).items()):
        counts[reason if place < REASONS_MAX else OTHER] += count
    failures = CounterMetricFamily("penstock_auth_failures", "Calls with a credential that fails", labels=["reason"])
    yield _labelled(failures, (([reason], count) for reason, count in counts.items()))
