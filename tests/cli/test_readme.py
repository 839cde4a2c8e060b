"""The README's first five minutes, run as they stand there, against a stack on other ports."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.process import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(section: str, language: str, stack: ServerProcess) -> str:
    """The code of a section, its ports exchanged for the stack's."""
    text = re.search(rf"^### {section}$(.*?)(?=^##)", README, re.DOTALL | re.MULTILINE)
    assert text is not None
    code = re.search(rf"^```{language}\n(.*?)^```$", text[1], re.DOTALL | re.MULTILINE)
    assert code is not None
    return code[1].replace("127.0.0.1:50051", stack.target).replace("http://127.0.0.1:8080", stack.url)


def run(*command: str) -> str:
    """What the command prints; AssertionError when it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rest(stack: ServerProcess) -> None:
    said = run("bash", "-euo", "pipefail", "-c", example("REST", "sh", stack))
    assert said.count('"status":"success"') == 2
    assert '"accepted_rows":2' in said
    assert '"event_type":"purchase"' in said
    assert '"latest_kpis"' in said
    assert '"status":"healthy"' in said


def test_python(stack: ServerProcess) -> None:
    said = run(sys.executable, "-c", example("Python", "python", stack))
    assert "freshness" in said


def test_grpc_twice_stores_once(stack: ServerProcess) -> None:
    code = example("gRPC", "sh", stack)
    first = run("bash", "-euo", "pipefail", "-c", code)
    assert "freshness" in first
    assert first.count('"acceptedRows"') == 2
    again = run("bash", "-euo", "pipefail", "-c", code)
    assert again.count("OFFSET_ALREADY_STORED") == 2
    assert '"acceptedRows"' not in again


def test_asking(stack: ServerProcess) -> None:
    run("bash", "-euo", "pipefail", "-c", example("REST", "sh", stack))
    said = run("bash", "-euo", "pipefail", "-c", example("Asking", "sh", stack))
    assert '"error"' not in said
    assert '"code":' not in said
    for answered in (
        '"conversion_rate":',
        '"name":"big_orders"',
        '"trend"',
        '"method_reason"',
        '"grade"',
        '"visitors":',
    ):
        assert answered in said, answered


def test_asking_in_python(stack: ServerProcess) -> None:
    run("bash", "-euo", "pipefail", "-c", example("REST", "sh", stack))
    said = run(sys.executable, "-c", example("Asking in Python", "python", stack))
    assert "rows as Arrow" in said
    assert "etl" in said


def test_finding(stack: ServerProcess) -> None:
    said = run("bash", "-euo", "pipefail", "-c", example("Finding", "sh", stack))
    assert '"error"' not in said
    assert '"code":' not in said
    assert '"name":"Red wool scarf"' in said
    assert '"status":"stored"' in said
    assert '"session_size":1' in said


def test_finding_in_python(stack: ServerProcess) -> None:
    said = run(sys.executable, "-c", example("Finding in Python", "python", stack))
    assert "Warm winter hat" in said
    assert "Leather glove because of what you" in said


def required(*, development: bool) -> set[str]:
    """The names that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["dependency-groups"]["dev"] if development else project["project"]["dependencies"]
    return {re.split(r"[<>=!~\[; ]", each)[0] for each in wanted}


def locked(name: str) -> set[str]:
    """The names that a lock file holds."""
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_dependency_says_why_it_is_there_and_is_locked() -> None:
    assert set(re.findall(r"^\| ([a-z0-9-]+) \|", README, re.MULTILINE)) - {
        "dependency",
        "command",
        "role",
    } == required(development=False)
    assert required(development=False) <= locked("requirements.lock")
    assert required(development=True) | locked("requirements.lock") <= locked("requirements-dev.lock")
