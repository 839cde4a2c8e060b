"""Unary calls: a cached GetMetrics against an empty call of the same runtime, and that against a bare socket."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from loadtest import empty, rows
from loadtest.launch import scratch, server
from loadtest.result import Result
from loadtest.scale import Scale
from loadtest.stream import CHANNEL_OPTIONS, Load, opened, run_all
from penstock.kpis.v1 import kpis_service_pb2 as kpis_pb2

CONCURRENCY = 8
START_S_MAX = 20.0
GOLD_S_MAX = 15.0
POLL_S = 0.05
GET_METRICS = "/penstock.kpis.v1.KpiService/GetMetrics"
MESSAGE = b"\0" * 64  # about what an empty call is on the wire


async def metrics_unary(name: str, scale: Scale) -> Result:
    """GetMetrics, which nothing makes stale meanwhile, and an empty call, by turns and from the same client."""
    with scratch() as folder, server(folder / "server", fsync=True) as running, _empty_server(folder) as (port, _):
        async with opened(running.target, ["seed"]) as streams:
            batches = await asyncio.to_thread(rows.as_messages, 500, batches=4, timestamps=False)
            await run_all(streams, Load(batches, scale.seconds, rows_max=2_000))
        request = kpis_pb2.GetMetricsRequest().SerializeToString()
        async with AsyncExitStack() as held:
            get_metrics = await _caller(held, running.target, GET_METRICS, request)
            call_empty = await _caller(held, f"127.0.0.1:{port}", empty.METHOD, b"")
            await _until_there(get_metrics)
            metrics, empties, waits_s = await _by_turns(get_metrics, call_empty, scale)
    return Result(
        name, median(metrics), "rpc/s", median(empties), "an empty unary call of the same runtime",
        details={"concurrency": CONCURRENCY, "p50_ms": _ms(waits_s, 50), "p99_ms": _ms(waits_s, 99)},
    )  # fmt: skip


async def empty_rpc(name: str, scale: Scale) -> Result:
    """An empty call against the same number of bytes back and forth on a bare socket."""
    with scratch() as folder, _empty_server(folder) as (port, echo_port):
        async with AsyncExitStack() as held:
            call_empty = await _caller(held, f"127.0.0.1:{port}", empty.METHOD, b"")
            exchange = await _exchanger(held, echo_port)
            empties, bare, waits_s = await _by_turns(call_empty, exchange, scale)
    return Result(
        name, median(empties), "rpc/s", median(bare), f"{len(MESSAGE)} bytes back and forth on a bare socket of uvloop",
        details={"concurrency": CONCURRENCY, "p50_ms": _ms(waits_s, 50), "p99_ms": _ms(waits_s, 99)},
    )  # fmt: skip


Call = Callable[[int], Awaitable[bytes]]  # given which of the CONCURRENCY callers it is


async def _by_turns(first: Call, second: Call, scale: Scale) -> tuple[list[float], list[float], list[float]]:
    """Calls/s of both, a figure for each round, and the seconds that each call of `first` took."""
    rates: tuple[list[float], list[float]] = [], []
    waits_s: list[float] = []
    for call in (first, second):
        await _calls_per_s(call, scale.warm_up_s, [])
    for _ in range(scale.rounds):
        rates[0].append(await _calls_per_s(first, scale.seconds, waits_s))
        rates[1].append(await _calls_per_s(second, scale.seconds, []))
    return *rates, waits_s


async def _calls_per_s(call: Call, seconds: float, waits_s: list[float]) -> float:
    started = time.perf_counter()

    async def caller(number: int) -> int:
        calls = 0
        while (before := time.perf_counter()) < started + seconds:
            await call(number)
            waits_s.append(time.perf_counter() - before)
            calls += 1
        return calls

    calls = await asyncio.gather(*(caller(number) for number in range(CONCURRENCY)))
    return sum(calls) / (time.perf_counter() - started)


async def _caller(held: AsyncExitStack, target: str, method: str, request: bytes) -> Call:
    channel = await held.enter_async_context(grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS))
    invoke = channel.unary_unary(method)

    async def call(_: int) -> bytes:
        return bytes(await invoke(request))

    return call


async def _exchanger(held: AsyncExitStack, port: int) -> Call:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONCURRENCY)]
    for _, writer in connections:
        held.callback(writer.close)

    async def call(number: int) -> bytes:
        reader, writer = connections[number]
        writer.write(MESSAGE)
        return await reader.readexactly(len(MESSAGE))

    return call


async def _until_there(get_metrics: Call) -> None:
    """Waits until gold has the seed; before that the answer is another, and not yet cached."""
    for _ in range(int(GOLD_S_MAX / POLL_S)):
        if kpis_pb2.GetMetricsResponse.FromString(await get_metrics(0)).HasField("latest_kpis"):
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"the seed was not in gold after {GOLD_S_MAX:g} s")


@contextmanager
def _empty_server(folder: Path) -> Iterator[tuple[int, int]]:
    """Ports of an empty gRPC server and of an echoing socket, both in one process."""
    ready_file = folder / "empty.ready"
    process = subprocess.Popen([sys.executable, "-m", empty.__name__, str(ready_file)])
    try:
        deadline = time.monotonic() + START_S_MAX
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the empty server did not start")
            time.sleep(0.02)
        grpc_port, echo_port = map(int, ready_file.read_text(encoding="utf-8").split())
        yield grpc_port, echo_port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _ms(waits_s: list[float], percent: float) -> float:
    return float(np.percentile(np.array(waits_s) * 1e3, percent))
