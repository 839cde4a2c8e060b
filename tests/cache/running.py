"""A real Redis to be killed, stopped and filled, and what tests wait for."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.cache.embedded import MEMORY_BYTES, EmbeddedRedis
from penstock.cache.redis import ABSENT, Redis, Script
from tests.waiting import until

WAIT_S = 30.0
PATIENT_S = 10.0  # for a call, where Redis runs and a busy machine must not look as if it did not
FLUSH = Script("return redis.call('FLUSHALL')")
GET = Script("return redis.call('GET', KEYS[1])")
SET = Script("return redis.call('SET', KEYS[1], ARGV[1])['ok']")
KEYS = Script("return redis.call('KEYS', '*')")


@dataclass(frozen=True, slots=True)
class Server:
    """A running Redis."""

    process: EmbeddedRedis
    url: str

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """Kills it, and waits until another one runs in its place."""
        restarts = self.process.restarts
        self.signal(signal.SIGKILL)
        await until(lambda: self.process.restarts > restarts)

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """It takes what is sent to it and answers nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


@asynccontextmanager
async def redis_server(memory_bytes: int = MEMORY_BYTES) -> AsyncIterator[Server]:
    """A Redis of the test's own."""
    process = EmbeddedRedis(memory_bytes=memory_bytes)
    async with process as url:
        yield Server(process, url)


async def noticed_away(redis: Redis) -> None:
    """Calls it until the breaker is open."""
    async with asyncio.timeout(WAIT_S):
        while redis.available:
            await redis.run(GET, ["any"], ())


async def flush(redis: Redis) -> None:
    """Empties it."""
    assert await redis.run(FLUSH, (), ()) is not ABSENT
