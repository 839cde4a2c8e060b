"""Dashboards and alerts ask for what a server serves, and draw their lines where the server does."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml
from prometheus_client import ProcessCollector

from penstock import limits
from penstock.operations.probes import LAG_DOWN_S, QUEUE_DEGRADED_SHARE
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_deploy import ALERTS, DEPLOY, metrics

GRAFANA = DEPLOY / "grafana"
DASHBOARDS: dict[str, Any] = {
    path.name: json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}


def served() -> set[str]:
    """All names, with those of the process."""
    process = {family.name for family in ProcessCollector(registry=None).collect()}
    return metrics() | process | {f"{name}_total" for name in process}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_ask_for_what_there_is(name: str) -> None:
    dashboard, known = DASHBOARDS[name], served()
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text("utf-8"))["datasources"]
    queries = [variable["query"]["query"] for variable in dashboard["templating"]["list"]]
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] in {source["uid"] for source in sources}
        assert panel["targets"], panel["title"]
        queries += [target["expr"] for target in panel["targets"]]
    for query in queries:
        asked = set(re.findall(r"\b((?:penstock|process)_\w+)", query))
        assert asked, query
        assert asked <= known, query


def test_what_is_served_is_shown() -> None:
    shown = json.dumps(DASHBOARDS)
    bare = {re.sub("_(total|bucket|count|sum)$", "", name) for name in metrics()}
    assert {name for name in bare if name not in shown} == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        apart = [one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at] for at, size in ("xw", "yh")]
        assert any(apart)


def test_grafana_finds_what_is_mounted() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/penstock.yaml").read_text("utf-8"))["providers"][0]
    mounts = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts
    assert SERVICES["grafana"]["environment"]["GF_PATHS_PROVISIONING"] in mounts
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 2


def test_alerts_draw_the_lines_that_health_draws() -> None:
    rules = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
    assert float(rules["PenstockPipelineLate"]["expr"].rpartition(">")[2]) == LAG_DOWN_S
    full = float(rules["PenstockIngestQueueFull"]["expr"].rpartition(">")[2])
    assert full == int(QUEUE_DEGRADED_SHARE * limits.QUEUE_BYTES_MAX)
    assert {rule["labels"]["severity"] for rule in rules.values()} == {"page", "ticket"}
