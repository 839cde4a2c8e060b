"""How long things take under a steady load: until the ack, and until a KPI shows it.

The load is open-loop: batches are due by a schedule that waits for nobody, and every time is taken from when a batch
was due, so a server that stalls is charged for all that came due meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import grpc
import numpy as np

from loadtest import engine, rows
from loadtest.launch import apart, file_system, scratch, server
from loadtest.result import Better, Detail, Result
from loadtest.rows import Batches
from loadtest.scale import Scale
from loadtest.stream import Load, Stream, Tally, opened, run_all
from penstock.events.v1 import events_pb2
from penstock.events.v1 import events_service_pb2 as pb
from penstock.kpis.v1 import kpis_service_pb2 as kpis_pb2
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub

if TYPE_CHECKING:
    from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceAsyncStub

RATE = 50_000  # rows/s
STREAMS = 4
BATCH_ROWS = 500
NAMES = [f"steady-{number}" for number in range(STREAMS)]
ACK_MS_MAX = 100.0
GOLD_S_MAX = 2.0
BARE_COMMITS = 200
MARKER_SITE = "markers"
MARKERS_A_SECOND = 10
WATCH_INTERVAL_S = 0.1  # the least that the contract allows; frames are that much apart, which counts against us
SETTLE_S = 3.0  # for markers under way when the load ends


async def ack_p99(name: str, scale: Scale) -> Result:
    """p99 from due to acknowledged, without fsync, the pipeline at work beside it."""
    batches = await asyncio.to_thread(rows.as_messages, BATCH_ROWS, batches=64)
    with scratch() as folder:
        bare = await apart(engine.commit_times, folder / "bare", batches, fsync=False, commits=BARE_COMMITS)
        with server(folder / "server", fsync=False) as running:
            async with opened(running.target, NAMES) as streams:
                await run_all(streams, _steady(batches, scale.warm_up_s))
                tally = await run_all(streams, _steady(batches, scale.steady_s))
        kind = file_system(folder)
    waits_ms = np.array(tally.waits_s) * 1e3
    bare_ms = np.array(bare) * 1e3
    return Result(
        name, _percentile(waits_ms, 99), "ms", ACK_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            **_described(tally, kind),
            **{f"p{p}_ms": _percentile(waits_ms, p) for p in (50, 90, 99.9, 100)},
            "bare_commit_p50_ms": _percentile(bare_ms, 50),
            "bare_commit_p99_ms": _percentile(bare_ms, 99),
            "bare_commit_is": f"{BATCH_ROWS} rows inserted and their row in the commit log, without server or load",
        },
    )  # fmt: skip


async def gold_freshness_p95(name: str, scale: Scale) -> Result:
    """p95 from the send of an event until WatchMetrics pushes a figure with it, at a steady load."""
    batches = await asyncio.to_thread(rows.as_messages, BATCH_ROWS, batches=64, timestamps=False)
    with scratch() as folder, server(folder / "server", fsync=True) as running:
        async with opened(running.target, [*NAMES, MARKER_SITE]) as [*streams, marking], _watch(running.target) as seen:
            await run_all(streams, _steady(batches, scale.warm_up_s))
            async with asyncio.TaskGroup() as tasks:
                load = tasks.create_task(run_all(streams, _steady(batches, scale.steady_s)))
                markers = tasks.create_task(_mark(marking, scale.steady_s))
            await asyncio.sleep(SETTLE_S)
        kind = file_system(folder)
    sent = markers.result()
    waits_s = np.array([_seen_at(seen, number) - at for number, at in enumerate(sent, start=1)])
    return Result(
        name, _percentile(waits_s, 95), "s", GOLD_S_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            **_described(load.result(), kind),
            **{f"p{p}_s": _percentile(waits_s, p) for p in (50, 90, 99, 100)},
            "markers": len(sent),
            "markers_not_seen": int(np.isinf(waits_s).sum()),
            "frames": len(seen),
        },
    )  # fmt: skip


def _steady(batches: Batches, seconds: float) -> Load:
    return Load(batches, seconds, interval_s=STREAMS * BATCH_ROWS / RATE)


def _described(tally: Tally, kind: str) -> dict[str, Detail]:
    return {
        "offered_rows_per_s": RATE,
        "reached_rows_per_s": tally.rows_per_s,
        "streams": STREAMS,
        "rows_a_batch": BATCH_ROWS,
        "samples": len(tally.waits_s),
        "batches_not_sent": tally.not_sent,
        "file_system": kind,
    }


def _percentile(values: "np.typing.NDArray[np.float64]", percent: float) -> float:
    # No interpolation: a marker that was never seen waits for ever, and inf must not become nan.
    return float(np.percentile(values, percent, method="higher"))


async def _mark(stream: Stream, seconds: float) -> list[float]:
    """Appends a page view to MARKER_SITE ten times a second; when each was sent."""
    sent: list[float] = []
    started = time.perf_counter()
    for number in range(int(seconds * MARKERS_A_SECOND)):
        await asyncio.sleep(max(0.0, started + number / MARKERS_A_SECOND - time.perf_counter()))
        event = events_pb2.Event(event_type="page_view", visitor_id=f"marker-{number}", site_id=MARKER_SITE)
        sent.append(time.perf_counter())
        request = pb.AppendRequest(offset=stream.offset, event_rows=pb.EventRows(events=[event]))
        await stream.append(request.SerializeToString(), 1)
    return sent


@asynccontextmanager
async def _watch(target: str) -> AsyncIterator[list[tuple[float, int]]]:
    """Watches MARKER_SITE; the list fills with when a frame came and how many markers it counts."""
    seen: list[tuple[float, int]] = []
    request = kpis_pb2.WatchMetricsRequest(site_id=MARKER_SITE)
    request.window.seconds = 3_600
    request.interval.FromMilliseconds(int(WATCH_INTERVAL_S * 1e3))

    async def follow(channel: grpc.aio.Channel) -> None:
        async for frame in cast("KpiServiceAsyncStub", KpiServiceStub(channel)).WatchMetrics(request):
            at = time.perf_counter()
            if frame.HasField("metrics"):
                seen.append((at, frame.metrics.latest_kpis.page_views))

    async with grpc.aio.insecure_channel(target) as channel:
        following = asyncio.create_task(follow(channel))
        try:
            yield seen
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _seen_at(seen: list[tuple[float, int]], number: int) -> float:
    """When the first frame came that counts `number` markers; inf when none did."""
    return next((at for at, count in seen if count >= number), float("inf"))
