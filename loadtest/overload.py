"""Five times as many searches as can be answered: how fast those are that are, and how fast the others are refused."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

import grpc

from loadtest.calls import CONCURRENCY, calls_per_s, percentile_ms
from loadtest.launch import rss_bytes, server
from loadtest.result import Better, Result
from loadtest.scale import Scale
from loadtest.shop import shop
from loadtest.stocked import ready
from loadtest.stream import CHANNEL_OPTIONS
from loadtest.texts import SEARCH, queries, requests_of
from penstock_client import Client

TIMES = 5.0  # the capacity
P99_TIMES = 3.0  # of its unloaded value
REFUSAL_MS_MAX = 20.0
RECOVERY_S_MAX = 5.0
QUIET_SHARE = 0.2  # of the capacity, at which calls count as unloaded
LATE_S = 0.05  # a call that could not be made so soon after it was due,
LATE_SHARE_MAX = 0.01  # and so many of all: else less was offered than was meant
GROWTH_MB_MAX = 32.0  # of memory; the answers that are kept meanwhile are part of it
SEED = 23

Search = Callable[[bytes], Awaitable[grpc.StatusCode]]


@dataclass(slots=True)
class Offered:
    """What became of calls that were made on schedule."""

    offered: int = 0
    late: int = 0  # that this client made late, so that less was offered than was meant
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    failed: int = 0  # that were neither answered nor refused, which must not be


async def overload(name: str, scale: Scale) -> Result:
    """Searches that none has asked for, on schedule whatever comes back; then as few as before."""
    stocked = await asyncio.to_thread(shop, scale.products)
    asked = _requests()
    async with AsyncExitStack() as held:
        running = held.enter_context(server(stocked.folder, fsync=False, pipeline=False))
        async with Client(running.target) as client:
            await ready(client)
        search = await _searcher(held, running.target)

        async def one(_: int) -> bytes:
            await search(next(asked))
            return b""

        await calls_per_s(one, scale.warm_up_s, [])
        capacity = await calls_per_s(one, scale.seconds, [])
        quiet = await _offer(search, asked, capacity * QUIET_SHARE, 2 * scale.seconds)
        unloaded_ms = percentile_ms(quiet.answered_s, 99)
        before = rss_bytes(running.pid)
        busy = await _offer(search, asked, capacity * TIMES, scale.steady_s)
        after = rss_bytes(running.pid)
        recovery_s = await _recovered(search, asked, capacity, P99_TIMES * unloaded_ms)
    refusal_ms, growth_mb = percentile_ms(busy.refused_s or [0.0], 99), (after - before) / 1e6
    return Result(
        name, percentile_ms(busy.answered_s, 99), "ms", unloaded_ms, "p99 at a fifth of the capacity",
        better=Better.LOWER,
        target=P99_TIMES,
        holds=(
            refusal_ms <= REFUSAL_MS_MAX
            and recovery_s <= RECOVERY_S_MAX
            and growth_mb <= GROWTH_MB_MAX
            and busy.late <= LATE_SHARE_MAX * busy.offered
            and not busy.failed
        ),
        details={
            "products": stocked.products, "capacity_per_s": capacity, "capacity_concurrency": CONCURRENCY,
            "offered_per_s": busy.offered / scale.steady_s, "answered_per_s": len(busy.answered_s) / scale.steady_s,
            "refused": len(busy.refused_s), "failed": busy.failed,
            "answered_p50_ms": percentile_ms(busy.answered_s, 50),
            "refusal_p50_ms": percentile_ms(busy.refused_s or [0.0], 50), "refusal_p99_ms": refusal_ms,
            "recovery_s": recovery_s, "rss_growth_mb": growth_mb, "made_late": busy.late,
            "seconds": scale.steady_s,
        },
    )  # fmt: skip


def _requests() -> Iterator[bytes]:
    """Searches without end, none twice: after the first round each has a word more."""
    texts = queries(Random(SEED))
    for round_ in itertools.count():
        yield from requests_of([f"{text} {round_}" if round_ else text for text in texts])


async def _recovered(search: Search, asked: Iterator[bytes], capacity: float, wanted_ms: float) -> float:
    """Seconds until a second passes in which all is answered, and in time; twice RECOVERY_S_MAX where none does."""
    ended = time.perf_counter()
    while (since := time.perf_counter() - ended) < 2 * RECOVERY_S_MAX:
        again = await _offer(search, asked, capacity * QUIET_SHARE, 1.0)
        if not again.refused_s and percentile_ms(again.answered_s, 95) <= wanted_ms:
            return since
    return 2 * RECOVERY_S_MAX


async def _offer(search: Search, asked: Iterator[bytes], rate: float, seconds: float) -> Offered:
    """Makes `rate` calls a second, each when it is due."""
    done = Offered()
    started = time.perf_counter()

    async def call(request: bytes, due: float) -> None:
        began = time.perf_counter()
        done.late += began - due > LATE_S
        status = await search(request)
        took_s = time.perf_counter() - began
        if status is grpc.StatusCode.OK:
            done.answered_s.append(took_s)
        elif status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            done.refused_s.append(took_s)
        else:
            done.failed += 1

    async with asyncio.TaskGroup() as calls:
        for number in range(int(rate * seconds)):
            due = started + number / rate
            await asyncio.sleep(due - time.perf_counter())
            done.offered += 1
            calls.create_task(call(next(asked), due))
    return done


async def _searcher(held: AsyncExitStack, target: str) -> Search:
    channel = await held.enter_async_context(grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS))
    invoke = channel.unary_unary(SEARCH)

    async def search(request: bytes) -> grpc.StatusCode:
        try:
            await invoke(request)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    return search
