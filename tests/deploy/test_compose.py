"""All of it on one machine: hardened alike, secrets from files, and what containers run is what Penstock knows."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from penstock.cli.serve import settings_of
from tests.deploy.envoy_command import accepted_by_envoy
from tests.deploy.test_deploy import DEPLOY

FOLDER = DEPLOY / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


def defaulted(text: str) -> str:
    """What Compose makes of it where nobody sets anything."""
    return VARIABLE.sub(lambda found: found[2] or "", text).replace("$$", "$")


def environment(service: str) -> dict[str, str]:
    return {name: defaulted(value) for name, value in SERVICES[service].get("environment", {}).items()}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_bounded_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode"} & set(service)
    tag = defaulted(service["image"]).rpartition(":")[2]
    assert re.match(r"v?\d+\.\d+", tag)


def test_containers_wait_for_what_they_need() -> None:
    checked_by_its_image = {"server"}
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == checked_by_its_image
    assert "HEALTHCHECK" in (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert how == {"condition": "service_healthy"}, name


def test_only_envoy_and_grafana_are_reached_from_outside_and_on_this_machine_alone() -> None:
    networks = COMPOSE["networks"]
    assert [name for name, network in networks.items() if not (network or {}).get("internal")] == ["front"]
    used = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert set().union(*used.values()) == set(networks)
    assert {name for name, nets in used.items() if "front" in nets} == {"envoy", "grafana"}
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"envoy", "grafana"}
    assert all(defaulted(port).startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_secrets_are_files_that_git_does_not_see() -> None:
    secrets = COMPOSE["secrets"]
    assert all(set(secret) == {"file"} and secret["file"].startswith("secrets/") for secret in secrets.values())
    assert set().union(*(service.get("secrets", []) for service in SERVICES.values())) == set(secrets)
    assert {"/.env", "/secrets/"} <= set((FOLDER / ".gitignore").read_text("utf-8").split())
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN|KEY", variable)
            assert not secret or value.startswith("/run/secrets/"), f"{variable} of {name}"


def test_the_example_names_every_variable_and_no_other() -> None:
    asked = {found[1] for found in VARIABLE.finditer((FOLDER / "compose.yaml").read_text("utf-8"))}
    lines = (FOLDER / ".env.example").read_text("utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(given) == asked


def test_what_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            assert source in COMPOSE["volumes"] or (FOLDER / source).exists(), f"{target} of {name}"


def test_the_server_takes_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("server").items():
        monkeypatch.setenv(name, value)
    settings = settings_of()
    assert settings.auth_required
    edge = COMPOSE["networks"]["edge"]["ipam"]["config"][0]["subnet"]
    assert [str(network) for network in settings.trusted_proxies] == [edge]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == [f"server:{settings.metrics_port}"]
    assert float(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > settings.drain_s


def test_the_urls_lead_to_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (FOLDER / "with-secrets.sh").read_text("utf-8")
    for name, value in re.findall(r'export (PENSTOCK_\w+)="(.*)"', script):
        monkeypatch.setenv(name, re.sub(r"\$\([^)]*\)|\$\w+|\$\{\w+\}", "0a1b2c", value))
    settings = settings_of()
    hosts = re.findall(r"@(\w+):", f"{settings.clickhouse_url} {settings.redis_url}")
    assert hosts == ["clickhouse", "redis"]
    assert set(re.findall(r"/run/secrets/(\w+)", script)) == set(SERVICES["server"]["secrets"])


def test_clickhouse_is_the_release_that_the_tests_run() -> None:
    release = ".".join(version("chdb-core").split(".")[:2])
    assert SERVICES["clickhouse"]["image"] == f"clickhouse/clickhouse-server:{release}"
    users = ElementTree.parse(FOLDER / "clickhouse/users.xml").getroot()
    password = users.find("users/penstock/password_sha256_hex")
    assert password is not None
    assert f"export {password.attrib['from_env']}=" in SERVICES["clickhouse"]["command"][0]
    assert ElementTree.parse(FOLDER / "clickhouse/config.xml").getroot().tag == "clickhouse"


def test_envoy_takes_the_configuration_that_its_command_renders(tmp_path: Path) -> None:
    command = SERVICES["envoy"]["command"]
    assert command[:2] == ["sh", "-c"]
    text = defaulted(command[2])
    assert re.search(r"--upstream-host (\w+)", text)[1] in SERVICES  # type: ignore[index]
    accepted_by_envoy(text, environment("envoy"), tmp_path)
