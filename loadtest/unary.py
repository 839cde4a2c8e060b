"""Unary calls: a cached GetMetrics against an empty call of the same runtime, and that against a bare socket."""

import asyncio
from contextlib import AsyncExitStack
from statistics import median

from loadtest import empty, rows
from loadtest.calls import CONCURRENCY, Call, by_turns, caller, empty_server, percentiles_ms
from loadtest.launch import scratch, server
from loadtest.result import Result
from loadtest.scale import Scale
from loadtest.stream import Load, opened, run_all
from penstock.kpis.v1 import kpis_service_pb2 as kpis_pb2

GOLD_S_MAX = 15.0
POLL_S = 0.05
REQUEST = kpis_pb2.GetMetricsRequest().SerializeToString()
GET_METRICS = "/penstock.kpis.v1.KpiService/GetMetrics"
MESSAGE = b"\0" * 64  # about what an empty call is on the wire


async def metrics_unary(name: str, scale: Scale) -> Result:
    """GetMetrics, which nothing makes stale meanwhile, and an empty call, by turns and from the same client."""
    with scratch() as folder, server(folder / "server", fsync=True) as running, empty_server(folder) as (port, _):
        await seeded(running.target, scale)
        async with AsyncExitStack() as held:
            get_metrics = await caller(held, running.target, GET_METRICS, [REQUEST])
            call_empty = await caller(held, f"127.0.0.1:{port}", empty.METHOD, [b""])
            metrics, empties, waits_s = await by_turns(get_metrics, call_empty, scale)
    return Result(
        name, median(metrics), "rpc/s", median(empties), "an empty unary call of the same runtime",
        target=0.8,
        details={"concurrency": CONCURRENCY, **percentiles_ms(waits_s, 50, 99)},
    )  # fmt: skip


async def empty_rpc(name: str, scale: Scale) -> Result:
    """An empty call against the same number of bytes back and forth on a bare socket."""
    with scratch() as folder, empty_server(folder) as (port, echo_port):
        async with AsyncExitStack() as held:
            call_empty = await caller(held, f"127.0.0.1:{port}", empty.METHOD, [b""])
            exchange = await _exchanger(held, echo_port)
            empties, bare, waits_s = await by_turns(call_empty, exchange, scale)
    return Result(
        name, median(empties), "rpc/s", median(bare), f"{len(MESSAGE)} bytes back and forth on a bare socket of uvloop",
        details={"concurrency": CONCURRENCY, **percentiles_ms(waits_s, 50, 99)},
    )  # fmt: skip


async def _exchanger(held: AsyncExitStack, port: int) -> Call:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONCURRENCY)]
    for _, writer in connections:
        held.callback(writer.close)

    async def call(number: int) -> bytes:
        reader, writer = connections[number]
        writer.write(MESSAGE)
        return await reader.readexactly(len(MESSAGE))

    return call


async def seeded(target: str, scale: Scale) -> None:
    """Sends some events, and waits until gold has them; before that GetMetrics is another, and not yet cached."""
    async with opened(target, ["seed"]) as streams:
        batches = await asyncio.to_thread(rows.as_messages, 500, batches=4, timestamps=False)
        await run_all(streams, Load(batches, scale.seconds, rows_max=2_000))
    async with AsyncExitStack() as held:
        get_metrics = await caller(held, target, GET_METRICS, [REQUEST])
        for _ in range(int(GOLD_S_MAX / POLL_S)):
            if kpis_pb2.GetMetricsResponse.FromString(await get_metrics(0)).HasField("latest_kpis"):
                return
            await asyncio.sleep(POLL_S)
    raise TimeoutError(f"the seed was not in gold after {GOLD_S_MAX:g} s")
