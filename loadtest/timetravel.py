"""Time travel over five million events: pages of gold and silver, and a day of gold, each as of some older version."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import timedelta

import grpc
import numpy as np

from loadtest.launch import server
from loadtest.month import END, SITES, START, month
from loadtest.result import Better, Result
from loadtest.scale import Scale
from loadtest.stream import CHANNEL_OPTIONS
from penstock.pipeline.v1 import pipeline_service_pb2 as pb
from penstock.pipeline.v1.pipeline_service_pb2_grpc import PipelineServiceStub

READ_MS_MAX = 200.0
PAGE_ROWS = 100
SEED = 20_260_301
KINDS = ("gold_page", "silver_page", "gold_hours")


async def timetravel_read(name: str, scale: Scale) -> Result:
    """`ListData` one after another, of versions drawn from all that changed gold; p95 of the slowest kind counts."""
    folder = await asyncio.to_thread(month, scale)
    waits_ms: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with server(folder, fsync=False, pipeline=False) as running:
        async with grpc.aio.insecure_channel(running.target, options=CHANNEL_OPTIONS) as channel:
            stub = PipelineServiceStub(channel)
            history = await stub.ListVersions(pb.ListVersionsRequest(table="gold", limit=1_000))
            chance = random.Random(SEED)
            versions = [each.version for each in history.versions]
            for kind in KINDS:
                await _read(stub, _request(kind, chance, versions), [])
            until = time.perf_counter() + scale.seconds * scale.rounds
            while time.perf_counter() < until:
                for kind in KINDS:
                    await _read(stub, _request(kind, chance, versions), waits_ms[kind])
    slowest = max(KINDS, key=lambda kind: _percentile(waits_ms[kind], 95))
    return Result(
        name, _percentile(waits_ms[slowest], 95), "ms", READ_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "events": scale.events, "versions": len(versions), "rows_a_page": PAGE_ROWS, "slowest": slowest,
            **{f"{kind}_p{p}_ms": _percentile(waits_ms[kind], p) for kind in KINDS for p in (50, 95)},
            **{f"{kind}_reads": len(waits_ms[kind]) for kind in KINDS},
        },
    )  # fmt: skip


def _request(kind: str, chance: random.Random, versions: Sequence[int]) -> pb.ListDataRequest:
    version = chance.choice(versions)
    if kind == "gold_hours":
        start = START + chance.random() * (END - START - timedelta(hours=6))
        window = f'minute >= "{start.isoformat()}" AND minute < "{(start + timedelta(hours=6)).isoformat()}"'
        site = f'site_id = "{chance.choice(SITES)}"'
        return pb.ListDataRequest(table="gold", version=version, limit=360, filter=f"{window} AND {site}")
    return pb.ListDataRequest(table=kind.removesuffix("_page"), version=version, limit=PAGE_ROWS)


async def _read(stub: PipelineServiceStub, request: pb.ListDataRequest, waits_ms: list[float]) -> None:
    started = time.perf_counter()
    await stub.ListData(request)
    waits_ms.append((time.perf_counter() - started) * 1e3)


def _percentile(waits_ms: list[float], percent: float) -> float:
    return float(np.percentile(np.array(waits_ms), percent))
