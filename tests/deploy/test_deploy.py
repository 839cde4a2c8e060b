"""What deployment files say is what the server knows."""

import re
import tomllib
from pathlib import Path

import yaml

from penstock.cli.doctor import SHARED_MEMORY_BYTES_MIN
from penstock.operations.metrics import (
    AdmissionFigures,
    CacheFigures,
    Figures,
    IndexFigures,
    IngestMetrics,
    LaneFigures,
    RpcMetrics,
)
from penstock.operations.service import IngestFigures
from penstock.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
OPERATIONS = (DEPLOY.parent / "OPERATIONS.md").read_text("utf-8")


def metrics() -> set[str]:
    """All names that a server serves."""
    figures = Figures(
        "0",
        ingest=lambda: IngestFigures(0, 0, 0, 0, 0, 0, 0),
        lag_s=lambda: 0.0,
        loop_lag_s=lambda: 0.0,
        cache=lambda: CacheFigures(0, 0, {}),
        redis_up=lambda: True,
        index=lambda: IndexFigures(0, 0),
        statements=lambda: {"read": LaneFigures(0, 0)},
        admission=lambda: {"read": AdmissionFigures(0, 0, 0)},
        rate_limited=lambda: 0,
        auth_failures=dict,
    )
    families = [family for each in (RpcMetrics(()), IngestMetrics(), figures) for family in each.collect()]
    return {f"{family.name}{end}" for family in families for end in ("", "_total", "_bucket", "_count", "_sum")}


def test_settings_exist() -> None:
    known = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
    for path in filter(Path.is_file, DEPLOY.rglob("*")):
        assert set(re.findall(r"PENSTOCK_[A-Z_]+", path.read_text("utf-8"))) <= known, path.name


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.count("--require-hashes") == 2


def test_the_image_sends_traces_by_locked_packages() -> None:
    assert "--extra tracing --constraint requirements-dev.lock" in DOCKERFILE
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {re.split("[<>=]", each)[0] for each in project["optional-dependencies"]["tracing"]}
    locked = (DEPLOY.parent / "requirements-dev.lock").read_text("utf-8")
    assert wanted <= set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))


def test_operations_tells_of_each_folder_and_of_shared_memory() -> None:
    folders = {f"deploy/{path.name}/" for path in DEPLOY.iterdir() if path.is_dir()}
    assert set(re.findall(r"^\| `(deploy/\w+/)` \|", OPERATIONS, re.MULTILINE)) == folders
    (mebibytes,) = re.findall(r"--shm-size (\d+)m", OPERATIONS)
    assert int(mebibytes) * 2**20 >= SHARED_MEMORY_BYTES_MIN


def test_alerts_ask_for_what_there_is_and_say_what_to_do() -> None:
    known = metrics() | {"up"}
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", OPERATIONS, re.MULTILINE)}
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        asked = set(re.findall(r"\b(penstock_\w+)", rule["expr"]))
        assert asked <= known, rule["alert"]
        assert rule["annotations"]["summary"]
        file, _, heading = rule["annotations"]["runbook"].partition("#")
        assert (file, heading in headings) == ("OPERATIONS.md", True), rule["alert"]
