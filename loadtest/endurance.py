"""Memory of the server: flat under a long load whose acks are read slowly, bounded under a flood."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from loadtest import rows
from loadtest.launch import rss_bytes, scratch, server
from loadtest.result import Better, Result
from loadtest.scale import Scale
from loadtest.stream import Load, opened, run_all
from penstock import limits

RATE = 200_000  # rows/s
STREAMS = 4
BATCH_ROWS = 1_000
ACK_PAUSE_S = 0.5  # a stream has some 25 answers unread when its reader comes back
SETTLING_SHARE = 0.25  # of the run: caches of the engine fill, its background threads start
GROWTH_MAX = 1.10
FLOOD_STREAMS = 8
FLOOD_BATCH_ROWS = 5_000
FLOOD_ROWS = 10_000_000
FLOOD_S_MAX = 300.0
MIB = 1024 * 1024
# What a server may hold under any load beyond what it holds idle. Python's side is bounded by limits.py: the queue with
# the commit under way, and what the streams have in flight. The engine's side is not bounded there; allowed are so many
# bytes a row of the largest commit, twice, because parts of earlier commits are merged beside it.
ENGINE_BYTES_A_ROW = 3_000
FLOOD_BYTES_MAX = (
    limits.QUEUE_BYTES_MAX
    + FLOOD_STREAMS * limits.STREAM_OUTSTANDING_BYTES_MAX
    + 2 * limits.COMMIT_ROWS_MAX * ENGINE_BYTES_A_ROW
)


async def memory(name: str, scale: Scale) -> Result:
    """RSS over the run: the largest departure from its median, once it has settled."""
    batches = await asyncio.to_thread(rows.as_messages, BATCH_ROWS, batches=64, timestamps=False)
    load = Load(batches, scale.steady_s, interval_s=STREAMS * BATCH_ROWS / RATE, ack_pause_s=ACK_PAUSE_S)
    with scratch() as folder, server(folder / "server", fsync=False) as running:
        names = [f"long-{number}" for number in range(STREAMS)]
        async with opened(running.target, names) as streams, _sampled(running.pid) as samples:
            tally = await run_all(streams, load)
    settled = np.array(samples[int(len(samples) * SETTLING_SHARE) :]) / MIB
    first, last = (float(np.median(part)) for part in np.array_split(settled, 3)[::2])
    return Result(
        name, last / first, "ratio", GROWTH_MAX,
        "RSS of the last third ÷ of the first third, the first quarter of the run left out",
        better=Better.LOWER,
        target=1.0,
        details={
            "seconds": scale.steady_s,
            "offered_rows_per_s": RATE,
            "reached_rows_per_s": tally.rows_per_s,
            "ack_pause_s": ACK_PAUSE_S,
            "rss_start_mib": samples[0] / MIB,
            "rss_median_mib": float(np.median(settled)),
            "rss_least_mib": float(settled.min()),
            "rss_most_mib": float(settled.max()),
        },
    )  # fmt: skip


async def flood(name: str, scale: Scale) -> Result:
    """The most memory that the server held beyond its idle while a client sent all it could."""
    batches = await asyncio.to_thread(rows.as_messages, FLOOD_BATCH_ROWS, batches=16, timestamps=False)
    share = int(FLOOD_ROWS * scale.share) // FLOOD_STREAMS
    load = Load(batches, FLOOD_S_MAX, rows_max=share, heeds_flow_control=False)
    with scratch() as folder, server(folder / "server", fsync=False) as running:
        idle = rss_bytes(running.pid)
        names = [f"flood-{number}" for number in range(FLOOD_STREAMS)]
        async with opened(running.target, names) as streams, _sampled(running.pid) as samples:
            tally = await run_all(streams, load)
    return Result(
        name, (max(samples) - idle) / MIB, "MiB", FLOOD_BYTES_MAX / MIB,
        "the bounds of limits.py for queue and streams, and an allowance for the engine's blocks of the largest commit",
        better=Better.LOWER,
        target=1.0,
        details={
            "rows": tally.rows,
            "rows_per_s": tally.rows_per_s,
            "rss_idle_mib": idle / MIB,
            "rss_most_mib": max(samples) / MIB,
            "streams": FLOOD_STREAMS,
        },
    )  # fmt: skip


@asynccontextmanager
async def _sampled(pid: int) -> AsyncIterator[list[int]]:
    """RSS of the process, five times a second."""
    samples = [rss_bytes(pid)]

    async def sample() -> None:
        while True:
            await asyncio.sleep(0.2)
            samples.append(rss_bytes(pid))

    sampling = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
