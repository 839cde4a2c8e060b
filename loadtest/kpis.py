"""KPIs over five million events: a month by day and two dimensions; the latest figures and trends, cached or not."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from loadtest.launch import server
from loadtest.month import END, SITES, START, month
from loadtest.result import Better, Result
from loadtest.scale import Scale
from loadtest.stream import CHANNEL_OPTIONS
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub

QUERY_MS_MAX = 200.0
UNCACHED_MS_MAX = 15.0
CACHED_MS_MAX = 5.0
CLIENTS = 8
SEED = 20_260_301

# A month by day: of each kind of metric some, by two dimensions that gold does not have as well as by those it has.
QUERIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "counts": (("page_views", "add_to_carts", "purchases"), ("site", "event_type")),
    "sales": (("orders", "gmv", "average_order_value"), ("site", "device")),
    "conversion": (("conversion_rate", "active_users"), ("source", "country")),
    "sessions": (("sessions", "bounce_rate", "average_session_length"), ("site", "source")),
    "by_site": (("orders", "gmv", "conversion_rate"), ("site",)),
}

Ask = Callable[[KpiServiceStub], Awaitable[object]]


async def kpis_query_month(name: str, scale: Scale) -> Result:
    """Queries one after another, none twice; p95 of the slowest kind counts."""
    waits_ms: dict[str, list[float]] = {kind: [] for kind in QUERIES}
    ends = itertools.count(1)
    async with _serving(scale) as stub:
        for kind in QUERIES:
            await _timed(stub, _query(kind, next(ends)), [])
        until = time.perf_counter() + scale.seconds * scale.rounds
        while time.perf_counter() < until:
            for kind in QUERIES:
                await _timed(stub, _query(kind, next(ends)), waits_ms[kind])
    slowest = max(QUERIES, key=lambda kind: _percentile(waits_ms[kind], 95))
    return Result(
        name, _percentile(waits_ms[slowest], 95), "ms", QUERY_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "events": scale.events, "slowest": slowest,
            **{f"{kind}_p{p}_ms": _percentile(waits_ms[kind], p) for kind in QUERIES for p in (50, 95)},
        },
    )  # fmt: skip


async def metrics_cached(name: str, scale: Scale) -> Result:
    """GetMetrics and both trends as they come to a dashboard, 8 clients at once; p95 of all."""

    questions = (
        partial(_get_metrics, pb.GetMetricsRequest()),
        partial(_get_conversion, pb.GetConversionTrendRequest()),
        partial(_get_revenue, pb.GetRevenueTrendRequest()),
    )

    async def client(stub: KpiServiceStub, seconds: float, into: list[float]) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for question in questions:
                await _timed(stub, question, into)

    waits_ms: list[float] = []
    async with _serving(scale) as stub:
        await asyncio.gather(*(client(stub, scale.warm_up_s, []) for _ in range(CLIENTS)))
        await asyncio.gather(*(client(stub, scale.seconds * scale.rounds, waits_ms) for _ in range(CLIENTS)))
    return _result(name, scale, waits_ms, CACHED_MS_MAX)


async def trend_uncached(name: str, scale: Scale) -> Result:
    """The same as when gold has just changed: all clients ask at once what nobody asked before; p95 of all."""
    chance = random.Random(SEED)
    questions: list[Ask] = []
    asked = [(site, minutes) for site in ("", *SITES) for minutes in range(1, 61)]
    chance.shuffle(asked)
    for site, minutes in asked:
        limit = 29 + minutes  # a window each
        metrics = pb.GetMetricsRequest(site_id=site, window=Duration(seconds=60 * minutes))
        conversion = pb.GetConversionTrendRequest(site_id=site, limit=limit)
        revenue = pb.GetRevenueTrendRequest(site_id=site, limit=limit)
        questions += [
            partial(_get_metrics, metrics),
            partial(_get_conversion, conversion),
            partial(_get_revenue, revenue),
        ]
    waits_ms: list[float] = []
    async with _serving(scale) as stub:
        until = time.perf_counter() + scale.seconds * scale.rounds
        for question in questions:
            if time.perf_counter() > until:
                break
            await asyncio.gather(*(_timed(stub, question, waits_ms) for _ in range(CLIENTS)))
    return _result(name, scale, waits_ms, UNCACHED_MS_MAX)


async def _get_metrics(request: pb.GetMetricsRequest, stub: KpiServiceStub) -> None:
    await stub.GetMetrics(request)


async def _get_conversion(request: pb.GetConversionTrendRequest, stub: KpiServiceStub) -> None:
    await stub.GetConversionTrend(request)


async def _get_revenue(request: pb.GetRevenueTrendRequest, stub: KpiServiceStub) -> None:
    await stub.GetRevenueTrend(request)


@asynccontextmanager
async def _serving(scale: Scale) -> AsyncIterator[KpiServiceStub]:
    folder = await asyncio.to_thread(month, scale)
    with server(folder, fsync=False, pipeline=False) as running:
        async with grpc.aio.insecure_channel(running.target, options=CHANNEL_OPTIONS) as channel:
            yield KpiServiceStub(channel)


def _result(name: str, scale: Scale, waits_ms: list[float], promised_ms: float) -> Result:
    return Result(
        name, _percentile(waits_ms, 95), "ms", promised_ms, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "events": scale.events, "clients": CLIENTS, "calls": len(waits_ms),
            **{f"p{p}_ms": _percentile(waits_ms, p) for p in (50, 99)},
        },
    )  # fmt: skip


def _query(kind: str, quarters: int) -> Ask:
    """The month but for its last quarters of an hour, so that no answer is there already."""
    metrics, dimensions = QUERIES[kind]
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(START)
    end.FromDatetime(END - timedelta(minutes=15 * quarters))
    request = pb.QueryKpisRequest(
        metrics=metrics,
        dimensions=dimensions,
        grain="day",
        range=pb.QueryKpisRequest.Range(start=start, end=end),
        time_zone="Europe/Berlin",
        page_size=10_000,
    )
    return partial(_query_kpis, request)


async def _query_kpis(request: pb.QueryKpisRequest, stub: KpiServiceStub) -> None:
    await stub.QueryKpis(request)


async def _timed(stub: KpiServiceStub, ask: Ask, waits_ms: list[float]) -> None:
    started = time.perf_counter()
    await ask(stub)
    waits_ms.append((time.perf_counter() - started) * 1e3)


def _percentile(waits_ms: list[float], percent: float) -> float:
    return float(np.percentile(np.array(waits_ms), percent))
