"""What the edge costs: credentials, limits, kept answers, REST."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from statistics import median

from loadtest import empty
from loadtest.calls import CONCURRENCY, Call, by_turns, caller, calls_per_s, empty_server, percentiles_ms
from loadtest.launch import scratch, server
from loadtest.result import Result
from loadtest.scale import Scale
from loadtest.shop import shop
from loadtest.texts import AGAIN_QUERIES, SEARCH, queries, requests_of
from loadtest.unary import GET_METRICS, REQUEST, seeded
from loadtest.vectors import serving
from penstock_client import Client
from tests.process import ServerProcess

NO_LIMIT = "1000000000"  # as good as none, and counted all the same
AUTH_RATIO = 0.9
LIMIT_RATIO = 0.9
REST_RATIO = 0.6
SEED = 23


async def auth_overhead(name: str, scale: Scale) -> Result:
    """A cached GetMetrics with an API key and with an access token, each by turns with one without a credential."""
    limits = {
        "PENSTOCK_RATE_LIMIT_KEY": NO_LIMIT,
        "PENSTOCK_RATE_LIMIT_USER": NO_LIMIT,
        "PENSTOCK_RATE_LIMIT": NO_LIMIT,
    }
    with scratch() as folder, server(folder / "server", fsync=False, env=limits) as running:
        await seeded(running.target, scale)
        key, token = await _credentials(running.target)
        async with AsyncExitStack() as held:
            open_call = await caller(held, running.target, GET_METRICS, [REQUEST])
            await calls_per_s(open_call, 2 * scale.warm_up_s, [])  # a server that has just started is slower
            ratios: dict[str, float] = {}
            rates: dict[str, list[float]] = {}
            for kind, credential in (("key", key), ("token", token)):
                metadata = (("authorization", f"Bearer {credential}"),)
                known = await caller(held, running.target, GET_METRICS, [REQUEST], metadata)
                with_it, without, _ = await by_turns(known, open_call, scale)
                rates[kind], rates[f"open_{kind}"] = with_it, without
                ratios[kind] = median(with_it) / median(without)
    slower = min(ratios, key=lambda kind: ratios[kind])
    return Result(
        name, median(rates[slower]), "rpc/s", median(rates[f"open_{slower}"]), "the same rpc without a credential",
        target=AUTH_RATIO,
        details={"concurrency": CONCURRENCY, **{f"{kind}_ratio": ratio for kind, ratio in ratios.items()}},
    )  # fmt: skip


async def rate_limit_overhead(name: str, scale: Scale) -> Result:
    """A cached GetMetrics of a server that counts calls, and of one that does not, by turns."""
    with (
        scratch() as folder,
        server(folder / "counting", fsync=False, env={"PENSTOCK_RATE_LIMIT": NO_LIMIT}) as counting,
        server(folder / "free", fsync=False) as free,
    ):
        for each in (counting, free):
            await seeded(each.target, scale)
        async with AsyncExitStack() as held:
            counted = await caller(held, counting.target, GET_METRICS, [REQUEST])
            uncounted = await caller(held, free.target, GET_METRICS, [REQUEST])
            with_it, without, waits_s = await by_turns(counted, uncounted, scale)
    return Result(
        name, median(with_it), "rpc/s", median(without), "the same rpc of a server without limits",
        target=LIMIT_RATIO,
        details={"concurrency": CONCURRENCY, **percentiles_ms(waits_s, 50, 99)},
    )  # fmt: skip


async def cache_hit(name: str, scale: Scale) -> Result:
    """A search whose answer is kept, whole products in it, by turns with an empty call of the same runtime."""
    stocked = await asyncio.to_thread(shop, scale.products)
    texts = queries(Random(SEED))[:AGAIN_QUERIES]
    with scratch() as folder, empty_server(folder) as (port, _):
        async with serving(stocked) as (target, _), AsyncExitStack() as held:
            again = await caller(held, target, SEARCH, requests_of(texts))
            nothing = await caller(held, f"127.0.0.1:{port}", empty.METHOD, [b""])
            for _ in texts:
                await again(0)
            hits, empties, waits_s = await by_turns(again, nothing, scale)
            async with Client(target) as client:
                stats = await client.operations.cache_stats()
    (kind,) = (each for each in stats.kinds if each.kind == "search")
    return Result(
        name, median(hits), "rpc/s", median(empties), "an empty unary call of the same runtime",
        details={
            "concurrency": CONCURRENCY, **percentiles_ms(waits_s, 50, 95, 99), "hit_rate": kind.hit_rate,
            "get_ms_mean": kind.get_ms_mean, "set_ms_mean": kind.set_ms_mean,
        },
    )  # fmt: skip


async def rest_overhead(name: str, scale: Scale) -> Result:
    """A cached GET /metrics through Envoy, and the same rpc over gRPC, by turns and of the same server."""
    env = {"PENSTOCK_FSYNC": "false", "PENSTOCK_LOG_LEVEL": "warning"}
    with scratch() as folder, ServerProcess(folder / "server", "--http-port", "0", command="up", env=env) as running:
        await seeded(running.target, scale)
        async with AsyncExitStack() as held:
            over_grpc = await caller(held, running.target, GET_METRICS, [REQUEST])
            over_rest = await _getter(held, int(str(running.ready["http_port"])), "/metrics")
            rest, direct, waits_s = await by_turns(over_rest, over_grpc, scale)
    return Result(
        name, median(rest), "requests/s", median(direct), "the same rpc over gRPC, without Envoy",
        target=REST_RATIO,
        details={"concurrency": CONCURRENCY, **percentiles_ms(waits_s, 50, 99)},
    )  # fmt: skip


async def _credentials(target: str) -> tuple[str, str]:
    """An API key, and an access token."""
    password = "known to everybody"
    async with Client(target) as client:
        key = (await client.accounts.create_key("benchmark", ["viewer"])).key
        await client.accounts.create_user("benchmark", password, ["viewer"])
        await client.accounts.sign_in("benchmark", password)
        return key, client.accounts.credential or ""


async def _getter(held: AsyncExitStack, port: int, path: str) -> Call:
    """GETs a path over connections that stay open; RuntimeError for an answer that is none."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONCURRENCY)]
    for _, writer in connections:
        held.callback(writer.close)
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()

    async def call(number: int) -> bytes:
        reader, writer = connections[number]
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode(errors="replace"))
        _, _, rest = head.lower().partition(b"content-length: ")
        return await reader.readexactly(int(rest.partition(b"\r\n")[0]))

    return call
