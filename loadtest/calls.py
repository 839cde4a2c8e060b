"""Unary calls, several at once: how many a second, and how long each takes; and an empty one to hold them against."""

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np

from loadtest import empty
from loadtest.scale import Scale
from loadtest.stream import CHANNEL_OPTIONS

CONCURRENCY = 8
START_S_MAX = 20.0

Call = Callable[[int], Awaitable[bytes]]  # given which of the CONCURRENCY callers it is


async def by_turns(first: Call, second: Call, scale: Scale) -> tuple[list[float], list[float], list[float]]:
    """Calls/s of both, a figure for each round, and the seconds that each call of `first` took."""
    rates: tuple[list[float], list[float]] = [], []
    waits_s: list[float] = []
    for call in (first, second):
        await calls_per_s(call, scale.warm_up_s, [])
    for _ in range(scale.rounds):
        rates[0].append(await calls_per_s(first, scale.seconds, waits_s))
        rates[1].append(await calls_per_s(second, scale.seconds, []))
    return *rates, waits_s


async def calls_per_s(call: Call, seconds: float, waits_s: list[float]) -> float:
    """Calls a second of CONCURRENCY callers, each one call after another; `waits_s` gets how long each took."""
    started = time.perf_counter()

    async def calling(number: int) -> int:
        made = 0
        while (before := time.perf_counter()) < started + seconds:
            await call(number)
            waits_s.append(time.perf_counter() - before)
            made += 1
        return made

    made = await asyncio.gather(*(calling(number) for number in range(CONCURRENCY)))
    return sum(made) / (time.perf_counter() - started)


async def calls(call: Call, count: int, waits_s: list[float]) -> None:
    """So many calls of CONCURRENCY callers."""
    left = iter(range(count))

    async def calling(number: int) -> None:
        for _ in left:
            before = time.perf_counter()
            await call(number)
            waits_s.append(time.perf_counter() - before)

    await asyncio.gather(*(calling(number) for number in range(CONCURRENCY)))


async def caller(
    held: AsyncExitStack,
    target: str,
    method: str,
    requests: Sequence[bytes],
    metadata: Sequence[tuple[str, str]] = (),
) -> Call:
    """Calls a method with one request after another, over and over; `metadata` goes with each."""
    channel = await held.enter_async_context(grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS))
    invoke = channel.unary_unary(method)
    bodies = itertools.cycle(requests)

    async def call(_: int) -> bytes:
        return bytes(await invoke(next(bodies), metadata=metadata))

    return call


@contextmanager
def empty_server(folder: Path) -> Iterator[tuple[int, int]]:
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


def percentile_ms(waits_s: Sequence[float], percent: float) -> float:
    """Of seconds, in milliseconds."""
    return float(np.percentile(np.array(waits_s) * 1e3, percent))


def percentiles_ms(waits_s: Sequence[float], *percents: int) -> Mapping[str, float]:
    """The same of several, by a name such as `p95_ms`."""
    return {f"p{percent}_ms": percentile_ms(waits_s, percent) for percent in percents}
