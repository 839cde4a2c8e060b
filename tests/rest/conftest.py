"""A stand-in server with a real Envoy before it, in a process of their own, and a client of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest

START_S_MAX = 40.0


class StandInProcess:
    """Runs tests/rest/stand_in.py over a folder; enter it to start, leave it to stop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Where Envoy listens."""
        return f"http://127.0.0.1:{self._ready['http_port']}"

    @property
    def http_target(self) -> str:
        """The same for gRPC clients, as host:port."""
        return f"127.0.0.1:{self._ready['http_port']}"

    @property
    def grpc_target(self) -> str:
        """Where the server itself listens, as host:port."""
        return f"127.0.0.1:{self._ready['grpc_port']}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._ready["pid"]

    @property
    def envoy_pid(self) -> int:
        """Envoy's process."""
        return self._ready["envoy_pid"]

    def log(self) -> str:
        """All that it printed."""
        return (self._folder / "log").read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        ready = self._folder / "ready.json"
        with (self._folder / "log").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.rest.stand_in", str(self._folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        deadline = time.monotonic() + START_S_MAX
        while not ready.exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self._ready = json.loads(ready.read_text(encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInProcess]:
    """One stand-in for all tests of a module."""
    with StandInProcess(tmp_path_factory.mktemp("stand_in")) as running:
        yield running


@pytest.fixture
def rest(stand_in: StandInProcess) -> Iterator[httpx.Client]:
    """An HTTP client of the stand-in's Envoy."""
    with httpx.Client(base_url=stand_in.url, timeout=30, trust_env=False) as client:
        yield client
