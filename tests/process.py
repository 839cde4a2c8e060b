"""A penstock server in a process of its own, on free ports, ended by whoever started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S_MAX = 60.0


class ServerProcess:
    """Runs `penstock serve` (or `up`) over `data_dir`; enter it to start, leave it to stop.

    `env` adds settings or a failpoint. After it died, `start()` starts it anew on the same data.
    """

    def __init__(
        self, data_dir: Path, *arguments: str, command: str = "serve", env: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self._command = [
            *(sys.executable, "-m", "penstock", command),
            *("--data-dir", str(data_dir), "--grpc-port", "0", *arguments),
        ]
        self._env = {**os.environ, "PENSTOCK_FSYNC": "false", **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, object] = {}

    @property
    def target(self) -> str:
        """Where gRPC listens, as host:port."""
        return f"127.0.0.1:{self.ready['grpc_port']}"

    @property
    def url(self) -> str:
        """Where REST listens (of `up`)."""
        return f"http://127.0.0.1:{self.ready['http_port']}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All it printed so far."""
        return (self.data_dir / "server.log").read_text(encoding="utf-8", errors="replace")

    def start(self, **env: str) -> Self:
        """Starts it and waits until it is ready; AssertionError with its output when it does not become so."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        ready_file = self.data_dir / "ready.json"
        ready_file.unlink(missing_ok=True)
        with (self.data_dir / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, "--ready-file", str(ready_file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._env, **env},
            )
        deadline = time.monotonic() + START_S_MAX
        while not ready_file.exists():
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"the server did not become ready:\n{self.log}"
            time.sleep(0.02)
        self.ready = json.loads(ready_file.read_text(encoding="utf-8"))
        return self

    def wait(self, timeout_s: float = 30) -> int:
        """Waits for it to end by itself; its exit code, negative for a signal."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self.running():
            self._process.kill()
            self._process.wait()

    def terminate(self, timeout_s: float = 30) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running():
            try:
                self.terminate()
            finally:
                self.kill()
