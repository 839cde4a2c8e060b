"""Runs the server, and Envoy before it, as one tree: it starts whole, stops in order, and never lives on in parts.

The server is this process and Envoy its child. SIGTERM or Ctrl-C: Envoy takes no new connections, the server tells its
streams, settles what is under way and stops, then Envoy ends. A second signal ends both at once; what was acknowledged
is stored all the same. When either ends unasked the other is stopped too and the exit code is 1.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from penstock.app import Server
from penstock.rest.envoy import EnvoyFailed, EnvoyProcess
from penstock.settings import Settings
from penstock.signals import stop_event
from penstock.startup import StartupError, check_clickhouse, check_disk, check_ports, data_folder
from penstock.storage.backup.folder import remove_leftovers

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """What a ready file says: the process to signal, and the ports that were really taken."""

    pid: int
    grpc_port: int
    http_port: int | None  # None without Envoy


async def run(settings: Settings, *, rest: bool, announce: Callable[[Ready], None]) -> int:
    """Runs the stack until it is told to stop (0) or a part of it dies (1). `announce` is called once all of it serves.

    Raises StartupError when something must be mended before it can start.
    """
    stop = stop_event()
    check_ports(settings, rest=rest)
    with data_folder(settings):
        remove_leftovers(settings.data_dir)
        check_disk(settings)
        await asyncio.to_thread(check_clickhouse, settings)
        async with Server.open(settings) as server:
            envoy = EnvoyProcess(settings, grpc_port=server.inner_port) if rest else None
            try:
                return await _serve(server, envoy, stop, announce)
            except EnvoyFailed as error:
                raise StartupError(str(error)) from error
            finally:
                if envoy is not None:
                    await envoy.stop()


async def _serve(
    server: Server, envoy: EnvoyProcess | None, stop: asyncio.Event, announce: Callable[[Ready], None]
) -> int:
    if envoy is not None:
        await envoy.start()
    announce(Ready(os.getpid(), server.grpc_port, envoy.http_port if envoy is not None else None))
    asked = asyncio.create_task(stop.wait())
    ends: dict[asyncio.Task[object], str] = {asyncio.create_task(server.wait_stopped()): "the server"}
    if envoy is not None:
        ends[asyncio.create_task(envoy.wait())] = "envoy"
    done, _ = await asyncio.wait([asked, *ends], return_when=asyncio.FIRST_COMPLETED)
    died = [part for task, part in ends.items() if task in done]
    for part in died:
        log.error("a part of the stack ended unasked; stopping the rest", part=part)
    if not died:
        log.info("stopping; once more ends it at once")
    if envoy is not None:
        await envoy.drain()
    await server.drain()
    for task in (asked, *ends):
        task.cancel()
    await asyncio.gather(asked, *ends, return_exceptions=True)
    return 1 if died else 0


@contextlib.contextmanager
def ready_file(path: Path | None) -> Iterator[Callable[[Ready], None]]:
    """Writes `path` whole once the stack is ready, and removes it when the stack has stopped."""

    def write(ready: Ready) -> None:
        if path is None:
            return
        part = path.with_name(f"{path.name}.{ready.pid}")
        part.write_text(json.dumps(asdict(ready)), encoding="utf-8")
        part.replace(path)

    try:
        yield write
    finally:
        if path is not None:
            path.unlink(missing_ok=True)
