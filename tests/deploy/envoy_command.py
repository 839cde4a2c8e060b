"""Runs what a container of Envoy runs, as far as to the end of Envoy's own check."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = str(Path(sys.executable).parent)


def accepted_by_envoy(command: str, environment: Mapping[str, str], folder: Path) -> None:
    """Has `sh` run it, with files in `folder` instead of /tmp, and Envoy only check what it would serve."""
    text = command.replace("/tmp/", f"{folder}/").replace("exec envoy ", "exec envoy --mode validate ")
    assert "--mode validate" in text
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", text], env={**environment, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[:1_000] + done.stdout[:1_000]
