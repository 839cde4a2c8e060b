"""What Docker's health check says of servers that are ready, and of others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from penstock.rpc.tls import certificates
from penstock.settings import Settings
from tests.deploy.test_deploy import DEPLOY, DOCKERFILE

SCRIPT = DEPLOY / "docker/health.py"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def serving(environment: dict[str, str], status: int = SERVING) -> Iterator[dict[str, str]]:
    """A server with these PENSTOCK_TLS_*; yields the environment of its container."""
    servicer = HealthServicer()
    servicer.set("", status)
    named = {name.removeprefix("PENSTOCK_").lower(): value for name, value in environment.items()}
    shown = certificates(Settings.model_validate(named))
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        where = "127.0.0.1:0"
        port = server.add_insecure_port(where) if shown is None else server.add_secure_port(where, shown.credentials())
        server.start()
        try:
            yield {**environment, "PENSTOCK_GRPC_PORT": str(port)}
        finally:
            server.stop(None).wait()


def said(environment: dict[str, str]) -> int:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run([sys.executable, SCRIPT], env=own | environment, capture_output=True, timeout=30).returncode


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    shown = trustme.CA().issue_cert("*.example.com")
    (tmp_path / "cert.pem").write_bytes(b"".join(each.bytes() for each in shown.cert_chain_pems))
    shown.private_key_pem.write_to_path(tmp_path / "key.pem")
    return {"PENSTOCK_TLS_CERT": str(tmp_path / "cert.pem"), "PENSTOCK_TLS_KEY": str(tmp_path / "key.pem")}


def test_the_image_runs_it() -> None:
    place = "/opt/penstock/health.py"
    assert f"COPY deploy/docker/{SCRIPT.name} {place}\n" in DOCKERFILE
    assert f'CMD ["python", "{place}"]\n' in DOCKERFILE
    assert f"!deploy/docker/{SCRIPT.name}" in (DEPLOY.parent / ".dockerignore").read_text("utf-8").splitlines()


def test_without_tls() -> None:
    with serving({}) as environment:
        assert said(environment) == 0
    with serving({}, NOT_SERVING) as environment:
        assert said(environment) == 1
    assert said(environment) == 1  # nobody listens there any more


def test_with_tls(tls: dict[str, str]) -> None:
    with serving(tls) as environment:
        assert said(environment) == 0
    with serving(tls, NOT_SERVING) as environment:
        assert said(environment) == 1
    assert said(environment) == 1


def test_where_clients_have_to_show_certificates(tls: dict[str, str], tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")  # of others than the server's own
    tls |= {"PENSTOCK_TLS_CLIENT_CA": str(tmp_path / "ca.pem")}
    with serving(tls) as environment:
        assert said(environment) == 0
    assert said(environment) == 1
