"""The manifests: valid, hardened alike, and of one mind with each other and with the server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import trustme
import yaml

from penstock.cli.serve import settings_of
from penstock.operations.health import NEEDS
from penstock.settings import Settings
from tests.deploy.envoy_command import accepted_by_envoy
from tests.deploy.test_deploy import DEPLOY

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
NOT_APPLIED = {"kustomization.yaml", "secrets.example.yaml"}


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


APPLIED = [each for name in KUSTOMIZATION["resources"] for each in read(name)]
EXAMPLES = read("secrets.example.yaml")
DEPLOYMENTS = {each["metadata"]["name"]: each for each in APPLIED if each["kind"] == "Deployment"}
VERSION = kubernetes_validate.latest_version()


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in APPLIED if each["kind"] == kind}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    return spec


def containers(name: str) -> Iterator[dict[str, Any]]:
    yield from pod(name).get("initContainers", [])
    yield from pod(name)["containers"]


def settings_of_the_server(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in of("ConfigMap")["penstock-settings"]["data"].items():
        monkeypatch.setenv(name, value)
    return settings_of()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_manifests_are_valid_and_applied(name: str) -> None:
    assert name in {*KUSTOMIZATION["resources"], *NOT_APPLIED}
    if name == "kustomization.yaml":
        return
    for manifest in read(name):
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == KUSTOMIZATION["namespace"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_are_hardened_bounded_and_pinned(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert of("ServiceAccount")[spec["serviceAccountName"]]["automountServiceAccountToken"] is False
    rights = spec["securityContext"]
    assert (rights["runAsNonRoot"], rights["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    user = re.search(r"^USER (\d+):", (DEPLOY / "docker/Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert user
    assert {rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]} == {int(user[1])}
    images = {f"{image['name']}:{image['newTag']}" for image in KUSTOMIZATION["images"]}
    for container in containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert container["image"] in images
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_selectors_find_pods_and_ports() -> None:
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in DEPLOYMENTS.values()]

    def found(selector: dict[str, str]) -> bool:
        return any(selector.items() <= each.items() for each in labels)

    for deployment in DEPLOYMENTS.values():
        assert found(deployment["spec"]["selector"]["matchLabels"])
    ports = {
        port["name"] for name in DEPLOYMENTS for container in containers(name) for port in container.get("ports", [])
    }
    for service in of("Service").values():
        assert found(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of("PodDisruptionBudget").values():
        assert found(budget["spec"]["selector"]["matchLabels"])
    for policy in of("NetworkPolicy").values():
        assert found(policy["spec"]["podSelector"].get("matchLabels", {}))
    for scaler in of("HorizontalPodAutoscaler").values():
        scaled = DEPLOYMENTS[scaler["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in scaled["spec"]


def test_nothing_passes_but_what_a_policy_names() -> None:
    policies = of("NetworkPolicy")
    assert policies["deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        assert all(rule["ports"] for rule in rules)
        from_anywhere = [rule for rule in rules if not rule.get("from") and not rule.get("to")]
        assert len(from_anywhere) == (name == "envoy")


def test_secrets_are_named_and_nowhere_given() -> None:
    assert not of("Secret")
    known = {each["metadata"]["name"]: each for each in EXAMPLES}
    assert all(each["kind"] == "Secret" and set(each["stringData"].values()) == {"REPLACE_ME"} for each in EXAMPLES)
    asked = set()
    for name in DEPLOYMENTS:
        asked |= {volume["secret"]["secretName"] for volume in pod(name)["volumes"] if "secret" in volume}
        for container in containers(name):
            sources = container.get("envFrom", [])
            asked |= {source["secretRef"]["name"] for source in sources if "secretRef" in source}
            assert {source["configMapRef"]["name"] for source in sources if "configMapRef" in source} <= set(
                of("ConfigMap")
            )
    assert asked == set(known)


def test_the_server_takes_its_settings_and_has_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of_the_server(monkeypatch)
    assert settings.auth_required
    spec = pod("penstock-server")
    assert spec["terminationGracePeriodSeconds"] > settings.drain_s + 20  # and what a last commit may take
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert ports == {"grpc": settings.grpc_port, "metrics": settings.metrics_port}
    annotations = DEPLOYMENTS["penstock-server"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    made = spec["initContainers"][0]["args"][0]
    assert str(settings.signing_keys_file.parent) in made


def test_probes_ask_for_what_health_knows() -> None:
    (server,) = pod("penstock-server")["containers"]
    assert NEEDS[server["livenessProbe"]["grpc"]["service"]] == frozenset()
    assert NEEDS[server["startupProbe"]["grpc"]["service"]] == frozenset()
    assert NEEDS[server["readinessProbe"]["grpc"].get("service", "")]


def test_envoy_takes_the_configuration_that_its_command_renders(tmp_path: Path) -> None:
    (envoy,) = pod("penstock-envoy")["containers"]
    (settings,) = [source["configMapRef"]["name"] for source in envoy["envFrom"]]
    environment = of("ConfigMap")[settings]["data"] | {each["name"]: each["value"] for each in envoy["env"]}
    shown = trustme.CA().issue_cert("penstock.example.com")
    shown.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    shown.private_key_pem.write_to_path(tmp_path / "tls.key")
    environment |= {"PENSTOCK_TLS_CERT": str(tmp_path / "tls.crt"), "PENSTOCK_TLS_KEY": str(tmp_path / "tls.key")}
    (text,) = envoy["args"]
    assert re.search(r"--upstream-host (\S+)", text)[1] in of("Service")  # type: ignore[index]
    accepted_by_envoy(text, environment, tmp_path)


def test_envoy_listens_where_it_is_asked_and_ends_after_its_streams() -> None:
    spec = pod("penstock-envoy")
    (envoy,) = spec["containers"]
    environment = {each["name"]: each["value"] for each in envoy["env"]}
    assert [str(port["containerPort"]) for port in envoy["ports"]] == [environment["PENSTOCK_HTTP_PORT"]]
    drain = envoy["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert f"127.0.0.1:{environment['PENSTOCK_ENVOY_ADMIN_PORT']}/" in drain
    waits = int(re.search(r"sleep\((\d+)\)", drain)[1])  # type: ignore[index]
    drains = int(re.search(r"--drain-time-s (\d+)", envoy["args"][0])[1])  # type: ignore[index]
    assert drains < waits < spec["terminationGracePeriodSeconds"]
