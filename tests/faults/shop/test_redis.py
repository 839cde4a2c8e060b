"""Redis is killed, hangs and comes back while users click and are recommended to: answers are right all the same."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest

from tests.cache.running import redis_server
from tests.faults.shop.clicker import CALL_S_MAX, Clicker
from tests.process import ServerProcess
from tests.search.shop import Shop, products

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

COUNT = 60
USERS = 6
ROUNDS = 4  # of the trouble
CALM_S, TROUBLE_S = 0.6, 1.2
BACK_S_MAX = 30.0


@contextlib.asynccontextmanager
async def clicking(server: ServerProcess) -> AsyncIterator[list[Clicker]]:
    """Users click without pause; afterwards everything that they did is known, and nothing was wrong meanwhile."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        users = [Clicker(f"user-{number}", channel, COUNT) for number in range(USERS)]
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for user in users:
                tasks.create_task(user.run(enough))
            try:
                yield users
            finally:
                enough.set()
        for user in users:
            await user.check()
        assert server.running()
        assert "Traceback" not in server.log, server.log


async def stocked(server: ServerProcess) -> None:
    """Fills the shop."""

    def fill() -> None:
        with grpc.insecure_channel(server.target) as channel:
            Shop(channel).fill(products(COUNT))

    await asyncio.to_thread(fill)


async def test_a_shared_redis_in_trouble(tmp_path: Path) -> None:
    """Hanging, then killed with all that it had, then empty: again and again under load."""
    async with redis_server() as redis:
        with ServerProcess(tmp_path, env={"PENSTOCK_REDIS_URL": redis.url}) as server:
            await stocked(server)
            async with clicking(server) as users:
                for _ in range(ROUNDS):
                    await asyncio.sleep(CALM_S)
                    async with redis.hanging():
                        await progress(users)
                    await asyncio.sleep(CALM_S)
                    await redis.kill()
                    await progress(users)


async def test_the_servers_own_redis_is_killed_and_stopped(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        await stocked(server)
        async with clicking(server) as users:
            for number in range(ROUNDS):
                await asyncio.sleep(CALM_S)
                child = redis_of(server)
                if number % 2:
                    child.send_signal(signal.SIGSTOP)
                    await progress(users)
                    child.send_signal(signal.SIGCONT)
                else:
                    child.kill()
                    await progress(users)
                    await back(server)


async def test_a_redis_that_comes_late(tmp_path: Path) -> None:
    """The server starts without it; what users did meanwhile is in their sessions as soon as it answers."""
    async with redis_server() as redis, redis.hanging():
        with ServerProcess(tmp_path, env={"PENSTOCK_REDIS_URL": redis.url}) as server:
            await stocked(server)
            async with clicking(server) as users:
                await progress(users)
                redis.signal(signal.SIGCONT)
                await progress(users)


async def progress(users: list[Clicker]) -> None:
    """For as long as the trouble is to last; clicks go on meanwhile."""
    before = [len(user.clicked) for user in users]
    await asyncio.sleep(TROUBLE_S)
    async with asyncio.timeout(CALL_S_MAX):
        while any(len(user.clicked) == was for user, was in zip(users, before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def redis_of(server: ServerProcess) -> psutil.Process:
    """The server's own Redis."""
    return next(child for child in psutil.Process(server.pid).children(recursive=True) if "redis" in child.name())


async def back(server: ServerProcess) -> None:
    """Waits until there is another one."""
    until = time.monotonic() + BACK_S_MAX
    while True:
        with contextlib.suppress(StopIteration, psutil.NoSuchProcess):
            redis_of(server)
            return
        assert time.monotonic() < until, server.log
        await asyncio.sleep(0.05)
