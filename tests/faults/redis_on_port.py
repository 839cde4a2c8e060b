"""A Redis of its own process on a port that stays the same, to be killed, started again and stopped from answering."""

import asyncio
import contextlib
import random
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

import redis.asyncio
from redis.exceptions import RedisError

from penstock.cache.embedded import executable

START_S_MAX = 20.0
# Below those that the kernel gives to outgoing connections: nobody takes the port while Redis is away, and nobody who
# connects to it meanwhile is connected to itself.
PORTS = range(20_000, 32_000)


class RedisOnPort:
    """`async with RedisOnPort(folder) as redis`: it runs, and keeps nothing on disk, so each start begins empty."""

    def __init__(self, folder: Path) -> None:
        """`folder` is its own."""
        self._folder = folder
        self._port = _free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is, whether it runs or not."""
        return f"redis://127.0.0.1:{self._port}/0"

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Looks into it, beside the server."""
        looking = redis.asyncio.Redis.from_url(self.url, decode_responses=True)
        try:
            yield looking
        finally:
            await looking.aclose()

    async def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "redis.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(str(executable()), "--port", str(self._port), "--bind", "127.0.0.1", "--daemonize", "no"),
                *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
        async with asyncio.timeout(START_S_MAX), self.client() as looking:
            while True:
                assert self._process.returncode is None, (self._folder / "redis.log").read_text(encoding="utf-8")
                with contextlib.suppress(RedisError, OSError):
                    await looking.ping()
                    return
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """SIGKILL: it is gone with all that it had."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def hang(self) -> None:
        """It takes connections and what is sent on them, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It works off what came meanwhile."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are taken")
