"""`penstock serve` and `penstock up` as processes: how they start, what they refuse, and how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.process import ServerProcess

STOP_S_MAX = 20.0


def refused(data_dir: Path, *arguments: str) -> str:
    """What `penstock serve` says when it refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "serve", "--data-dir", str(data_dir), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def gone(pid: int) -> bool:
    """Whether the process ends soon."""
    deadline = time.monotonic() + STOP_S_MAX
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def envoy_of(stack: ServerProcess) -> psutil.Process:
    """Envoy's process."""
    return next(child for child in psutil.Process(stack.pid).children() if child.name() == "envoy")


def test_the_ready_file_says_where_everything_listens(stack: ServerProcess) -> None:
    ready = json.loads((stack.data_dir / "ready.json").read_text(encoding="utf-8"))
    assert ready == {"pid": stack.pid, "grpc_port": ready["grpc_port"], "http_port": ready["http_port"]}
    socket.create_connection(("127.0.0.1", ready["grpc_port"]), timeout=5).close()
    with urllib.request.urlopen(f"{stack.url}/live", timeout=5) as response:
        assert json.load(response) == {"status": "alive"}


def test_a_second_server_is_told_who_has_the_folder(stack: ServerProcess) -> None:
    said = refused(stack.data_dir, "--grpc-port", "0")
    assert f"is in use by process {stack.pid}" in said
    assert "--data-dir" in said


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_well_when_it_is_told_to(tmp_path: Path, stop: signal.Signals) -> None:
    server = ServerProcess(tmp_path).start()
    assert server.ready["http_port"] is None
    os.kill(server.pid, stop)
    assert server.wait(STOP_S_MAX) == 0, server.log
    assert not (tmp_path / "ready.json").exists()


def test_a_stack_lives_and_dies_as_a_whole(tmp_path: Path) -> None:
    stack = ServerProcess(tmp_path, "--http-port", "0", command="up").start()
    envoy = envoy_of(stack)
    stack.kill()
    assert gone(envoy.pid)
    # The folder is free again, without anybody clearing a lock away.
    stack.start()
    envoy_of(stack).kill()
    assert stack.wait(STOP_S_MAX) == 1
    assert "ended unasked" in stack.log


def test_up_ends_well_and_takes_envoy_along(stack: ServerProcess) -> None:
    """Stops the package's stack, and starts it anew on the same data for those who come after."""
    envoy = envoy_of(stack)
    assert stack.terminate(STOP_S_MAX) == 0, stack.log
    assert "drained" in stack.log
    assert gone(envoy.pid)
    stack.start()
