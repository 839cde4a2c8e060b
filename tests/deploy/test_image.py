"""The Dockerfile, as its linter sees it."""

import subprocess
import sys
from pathlib import Path

from tests.deploy.test_deploy import DEPLOY


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    said = subprocess.run(
        [linter, "--failure-threshold", "style", DEPLOY / "docker/Dockerfile"], capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (0, ""), said.stderr
