"""What a real scrape over HTTP tells, and what it never does."""

import asyncio
import random
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from penstock.cache.tally import KindStats
from penstock.errors import Conflict
from penstock.operations import metrics
from penstock.operations.metrics import (
    CODES,
    OTHER,
    AdmissionFigures,
    CacheFigures,
    Figures,
    IndexFigures,
    IngestMetrics,
    LaneFigures,
    MetricsServer,
    RpcMetrics,
)
from penstock.operations.service import IngestFigures
from penstock.rest import contract

METHODS = [rpc.path for rpc in contract.rpcs()]
KPIS = "/penstock.kpis.v1.KpiService/GetMetrics"
STREAM = "/penstock.events.v1.EventService/StreamEvents"

KIND = KindStats(
    local_hits=5, redis_hits=3, misses=2, sets=2, evictions=0, invalidations=0, get_us_mean=1.0, set_us_mean=1.0
)
FIGURES = Figures(
    version="1.2.3",
    ingest=lambda: IngestFigures(
        open_streams=1,
        queued_batches=2,
        queued_bytes=3,
        rows_accepted=2**33,
        rows_rejected=5,
        commits=6,
        last_commit=7,
    ),
    lag_s=lambda: 1.5,
    loop_lag_s=lambda: 0.02,
    cache=lambda: CacheFigures(entries=10, bytes=4_096, kinds={"search": KIND}),
    redis_up=lambda: True,
    index=lambda: IndexFigures(products=100_000, bytes=153_600_000),
    statements=lambda: {"read": LaneFigures(4, 9), "commit": LaneFigures(1, 0)},
    admission=lambda: {"read": AdmissionFigures(in_use=3, waiting=1, refused=8)},
    rate_limited=lambda: 11,
    auth_failures=lambda: {"CREDENTIAL_MISSING": 4, "TOKEN_EXPIRED": 2},
)

# Every label that Penstock gives, with all that may stand in it; None: a number, or of this machine.
LABELS: dict[str, set[str] | None] = {
    "method": {*METHODS, OTHER},
    "code": set(CODES),
    "le": None,
    "outcome": {"accepted", "rejected", "local", "redis", "miss"},
    "kind": {"search"},
    "lane": {"read", "commit"},
    "cost": {"read", "compute"},
    "reason": {"CREDENTIAL_MISSING", "TOKEN_EXPIRED"},
    "version": None,
    "implementation": None,
    "major": None,
    "minor": None,
    "patchlevel": None,
}


@asynccontextmanager
async def serving(*collectors: Collector) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(0, "127.0.0.1", collectors)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def scraped(server: MetricsServer, query: str = "") -> dict[str, Metric]:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics{query}", timeout=10) as answer:
            return str(answer.read().decode())

    return {family.name: family for family in text_string_to_metric_families(await asyncio.to_thread(get))}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return float(found)


async def test_every_figure_is_told() -> None:
    rpc, ingest = RpcMetrics(METHODS), IngestMetrics()
    rpc.started(KPIS)
    rpc.finished(KPIS, "OK", 0.02)
    rpc.started(KPIS)
    ingest.committed(5_000, 1_000_000)
    ingest.acknowledged(0.004)
    async with serving(rpc, ingest, FIGURES) as server:
        found = await scraped(server)
    assert value(found, "penstock_rpc_requests_total", method=KPIS, code="OK") == 1
    assert value(found, "penstock_rpc_in_flight", method=KPIS) == 1
    assert value(found, "penstock_rpc_seconds_sum", method=KPIS) == pytest.approx(0.02)
    assert value(found, "penstock_ingest_rows_total", outcome="accepted") == 2**33
    assert value(found, "penstock_ingest_rows_total", outcome="rejected") == 5
    assert value(found, "penstock_ingest_bytes_total") == 1_000_000
    assert value(found, "penstock_ingest_commit_rows_bucket", le="5000.0") == 1
    assert value(found, "penstock_ingest_commit_rows_bucket", le="1000.0") == 0
    assert value(found, "penstock_ingest_ack_seconds_count") == 1
    assert value(found, "penstock_ingest_queued_bytes") == 3
    assert value(found, "penstock_ingest_streams") == 1
    assert value(found, "penstock_pipeline_lag_seconds") == 1.5
    assert value(found, "penstock_event_loop_lag_seconds_max") == 0.02
    outcomes = {"local": 5, "redis": 3, "miss": 2}
    for outcome, count in outcomes.items():
        assert value(found, "penstock_cache_requests_total", kind="search", outcome=outcome) == count
    assert value(found, "penstock_cache_entries") == 10
    assert value(found, "penstock_cache_bytes") == 4_096
    assert value(found, "penstock_redis_up") == 1
    assert value(found, "penstock_index_products") == 100_000
    assert value(found, "penstock_index_bytes") == 153_600_000
    assert value(found, "penstock_clickhouse_statements_in_flight", lane="read") == 4
    assert value(found, "penstock_clickhouse_waiting", lane="read") == 9
    assert value(found, "penstock_admission_in_use", cost="read") == 3
    assert value(found, "penstock_admission_waiting", cost="read") == 1
    assert value(found, "penstock_admission_refused_total", cost="read") == 8
    assert value(found, "penstock_rate_limited_total") == 11
    assert value(found, "penstock_auth_failures_total", reason="TOKEN_EXPIRED") == 2
    assert value(found, "penstock_build_info", version="1.2.3") == 1
    assert value(found, "process_resident_memory_bytes") > 10_000_000
    assert "python_info" in found


async def test_a_scrape_may_ask_for_some_families_alone() -> None:
    async with serving(RpcMetrics(METHODS), FIGURES) as server:
        assert set(await scraped(server, "?name[]=penstock_redis_up")) == {"penstock_redis_up"}


async def test_buckets_hold_what_does_not_exceed_their_bound_and_all_below() -> None:
    rpc = RpcMetrics([KPIS])
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 9.0, 11.0):
        rpc.started(KPIS)
        rpc.finished(KPIS, "OK", seconds)
    async with serving(rpc) as server:
        found = await scraped(server)
    counts = {
        bound: value(found, "penstock_rpc_seconds_bucket", method=KPIS, le=bound)
        for bound in ("0.001", "0.0025", "0.15", "0.3", "10.0", "+Inf")
    }
    assert counts == {"0.001": 2, "0.0025": 3, "0.15": 3, "0.3": 4, "10.0": 5, "+Inf": 6}
    assert value(found, "penstock_rpc_seconds_count", method=KPIS) == 6
    assert value(found, "penstock_rpc_in_flight", method=KPIS) == 0


async def test_streams_are_counted_and_have_no_time() -> None:
    rpc = RpcMetrics([STREAM])
    rpc.started(STREAM)
    rpc.finished(STREAM, "CANCELLED", None)
    async with serving(rpc) as server:
        found = await scraped(server)
    assert value(found, "penstock_rpc_requests_total", method=STREAM, code="CANCELLED") == 1
    assert value(found, "penstock_rpc_seconds_count", method=STREAM) == 0


async def test_every_method_has_a_count_before_its_first_call() -> None:
    async with serving(RpcMetrics(METHODS)) as server:
        found = await scraped(server)
    counted = {sample.labels["method"] for sample in found["penstock_rpc_requests"].samples}
    assert counted == {*METHODS, OTHER}


async def test_labels_hold_what_is_known_beforehand_whatever_is_called() -> None:
    rpc = RpcMetrics(METHODS)
    for number in range(5_000):
        method = f"/evil.Service/Method{number}" if number % 2 else random.choice(METHODS)
        rpc.started(method)
        rpc.finished(method, f"CODE_{number}" if number % 3 else "OK", 0.01)
    async with serving(rpc, IngestMetrics(), FIGURES) as server:
        found = await scraped(server)
    for family in found.values():
        for sample in family.samples:
            for label, word in sample.labels.items():
                known = LABELS[label]
                assert known is None or word in known, (sample.name, label, word)
    assert value(found, "penstock_rpc_requests_total", method=OTHER, code="UNKNOWN") > 1_000


async def test_reasons_are_bounded_and_none_is_lost() -> None:
    reasons = {f"REASON_{number}": 1 for number in range(1_000)}
    async with serving(Figures("1", auth_failures=lambda: reasons)) as server:
        found = await scraped(server)
    samples = found["penstock_auth_failures"].samples
    assert len(samples) == metrics.REASONS_MAX + 1
    assert sum(sample.value for sample in samples) == 1_000


async def test_what_is_not_there_is_left_out() -> None:
    async with serving(Figures("1")) as server:
        found = await scraped(server)
    assert {name for name in found if name.startswith("penstock")} == {"penstock_build_info"}


async def test_a_figure_that_fails_hides_no_other_and_shows_in_the_log() -> None:
    def broken() -> float:
        raise RuntimeError("deque mutated during iteration")

    with capture_logs() as lines:
        async with serving(Figures("1", lag_s=broken, rate_limited=lambda: 3)) as server:
            found = await scraped(server)
    assert "penstock_pipeline_lag_seconds" not in found
    assert value(found, "penstock_rate_limited_total") == 3
    assert [line["figure"] for line in lines] == ["lag_s"]


async def test_scrapes_agree_with_themselves_while_calls_are_counted() -> None:
    rpc, ended = RpcMetrics(METHODS), threading.Event()

    def count() -> None:
        while not ended.is_set():
            for method in METHODS:
                rpc.started(method)
                rpc.finished(method, random.choice(sorted(CODES)), random.random())

    counting = threading.Thread(target=count)
    counting.start()
    try:
        async with serving(rpc) as server:
            before = 0.0
            for _ in range(10):
                found = await scraped(server)
                for method in METHODS[:10]:
                    buckets = [
                        sample.value
                        for sample in found["penstock_rpc_seconds"].samples
                        if sample.name.endswith("_bucket") and sample.labels["method"] == method
                    ]
                    assert buckets == sorted(buckets)
                    if buckets:
                        assert value(found, "penstock_rpc_seconds_count", method=method) == buckets[-1]
                total = sum(sample.value for sample in found["penstock_rpc_requests"].samples)
                assert total >= before, "a counter never falls"
                before = total
        assert before > 0
    finally:
        ended.set()
        counting.join()


# --- the server ------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_told() -> None:
    async with serving() as server:
        with pytest.raises(Conflict, match="choose another with PENSTOCK_METRICS_PORT") as caught:
            await MetricsServer(server.port, "127.0.0.1", []).start()
    assert caught.value.reason == "PORT_TAKEN"


async def test_it_stops_and_leaves_the_port() -> None:
    server = MetricsServer(0, "127.0.0.1", [])
    await server.stop()
    port = await server.start()
    assert port == server.port > 0
    began = time.monotonic()
    await server.stop()
    await server.stop()
    assert time.monotonic() - began < 20  # it does not wait for a scrape
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert await server.start() == port
    await server.stop()


async def test_who_connects_and_says_nothing_is_hung_up_on_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 1.0)
    async with serving(FIGURES) as server:
        mute = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(metrics.SCRAPES_MAX - 1)]
        assert "penstock_build_info" in await scraped(server)
        mute += [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
        assert server._server is not None
        assert sum("process_request_thread" in thread.name for thread in threading.enumerate()) <= metrics.SCRAPES_MAX
        async with asyncio.timeout(5):
            assert [await reader.read() for reader, _ in mute] == [b""] * len(mute)
        assert "penstock_build_info" in await scraped(server), "there is room again"
        for _, writer in mute:
            writer.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_it_listens_on_ipv6() -> None:
    server = MetricsServer(0, "::1", [])
    try:
        await server.start()
    except Conflict as error:
        pytest.skip(error.message)
    await server.stop()
