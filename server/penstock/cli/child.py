"""`penstock up` as a child of this process: a server that works on a core of its own, and never outlives its parent."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock import tether
from penstock.cli.running import CommandError
from penstock.settings import Settings

START_S_MAX = 90.0
LOG_LINES_SHOWN = 15
# Envoy's and the commits' share beside the seconds that open calls may take.
STOP_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack."""

    process: asyncio.subprocess.Process
    grpc_port: int
    http_port: int
    log: Path

    async def ended(self) -> None:
        """Waits until it ends unasked, and raises CommandError then, with the end of its log."""
        code = await self.process.wait()
        raise CommandError(f"the stack ended with {code}; the end of {self.log}:\n{_tail(self.log)}")


@asynccontextmanager
async def running_stack(settings: Settings, stop: asyncio.Event, *, log: Path) -> AsyncIterator[Stack | None]:
    """Starts `penstock up` with these settings, and stops it, in order, on leaving. None when `stop` came first.

    Raises CommandError, with the end of its log, when it does not start. It has a session of its own, so that Ctrl-C
    reaches it through us, after its clients are done.
    """
    ready_file = settings.data_dir / "ready.json"
    ready_file.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid())),
            *(sys.executable, "-m", "penstock", "up", "--ready-file", str(ready_file)),
            *("--data-dir", str(settings.data_dir), "--currency", settings.currency),
            *("--grpc-host", settings.grpc_host, "--grpc-port", str(settings.grpc_port)),
            *("--http-host", settings.http_host, "--http-port", str(settings.http_port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield await _ready(process, ready_file, stop, log)
    finally:
        await _stop(process, settings.drain_s + STOP_GRACE_S)


async def _ready(process: asyncio.subprocess.Process, ready_file: Path, stop: asyncio.Event, log: Path) -> Stack | None:
    try:
        async with asyncio.timeout(START_S_MAX):
            while not (written := await asyncio.to_thread(_read, ready_file)):
                if stop.is_set():
                    return None
                if process.returncode is not None:
                    raise CommandError(f"the stack did not start:\n{_tail(log)}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise CommandError(f"the stack was not ready after {START_S_MAX:g} s:\n{_tail(log)}") from None
    ready = json.loads(written)
    return Stack(process, ready["grpc_port"], ready["http_port"], log)


async def _stop(process: asyncio.subprocess.Process, seconds: float) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES_SHOWN:])
