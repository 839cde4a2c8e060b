"""gRPC and REST over TLS, with and without certificates of clients."""

import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

import penstock
from penstock.errors import Conflict
from penstock.rpc.tls import certificates
from penstock.settings import Settings
from tests.process import ServerProcess


class Files:
    """Certificates in files, of an authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.ca.write_bytes(self.authority.cert_pem.bytes())
        self.client = self.authority.issue_cert("client@example.com")

    @property
    def env(self) -> dict[str, str]:
        return {"PENSTOCK_TLS_CERT": str(self.cert), "PENSTOCK_TLS_KEY": str(self.key)}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_grpc_and_rest_over_tls(files: Files, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--http-port", "0", command="up", env=files.env) as server:
        trusted = grpc.ssl_channel_credentials(files.ca.read_bytes())
        with penstock.SyncClient(server.target, tls=trusted) as client:
            assert client.operations.health().status == "healthy"
        with pytest.raises(penstock.Unavailable), penstock.SyncClient(server.target, timeout_s=3) as client:
            client.operations.health()
        url = server.url.replace("http://", "https://")
        trust = ssl.create_default_context(cafile=str(files.ca))
        with httpx.Client(base_url=url, verify=trust, trust_env=False) as rest:
            assert rest.get("/health").json()["status"] == "healthy"
        with pytest.raises(httpx.HTTPError), httpx.Client(trust_env=False) as rest:
            rest.get(f"{server.url}/health")
        with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as rest:
            rest.get(f"{url}/health")


def test_clients_have_to_show_certificates_where_authorities_are_named(files: Files, tmp_path: Path) -> None:
    env = {**files.env, "PENSTOCK_TLS_CLIENT_CA": str(files.ca)}
    with ServerProcess(tmp_path / "data", "--http-port", "0", command="up", env=env) as server:
        chain = b"".join(each.bytes() for each in files.client.cert_chain_pems)
        shown = grpc.ssl_channel_credentials(files.ca.read_bytes(), files.client.private_key_pem.bytes(), chain)
        with penstock.SyncClient(server.target, tls=shown) as client:
            assert client.operations.health().status == "healthy"
        nothing_shown = grpc.ssl_channel_credentials(files.ca.read_bytes())
        with (
            pytest.raises(penstock.Unavailable),
            penstock.SyncClient(server.target, tls=nothing_shown, timeout_s=3) as client,
        ):
            client.operations.health()
        url = server.url.replace("http://", "https://")
        trust = ssl.create_default_context(cafile=str(files.ca))
        with pytest.raises(httpx.HTTPError), httpx.Client(base_url=url, verify=trust, trust_env=False) as rest:
            rest.get("/health")
        with files.client.private_key_and_cert_chain_pem.tempfile() as both:
            trust.load_cert_chain(both)
            with httpx.Client(base_url=url, verify=trust, trust_env=False) as rest:
                assert rest.get("/health").json()["status"] == "healthy"


def test_files_that_are_no_certificates_are_refused_at_start(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path_of(tmp_path))

    def wanted(**changed: Path) -> Settings:
        given = {"tls_cert": files.cert, "tls_key": files.key, **changed}
        return Settings(data_dir=tmp_path, **given)  # type: ignore[arg-type]

    assert certificates(Settings(data_dir=tmp_path)) is None
    assert certificates(wanted()) is not None
    for settings, named in (
        (wanted(tls_cert=tmp_path / "none.pem"), "PENSTOCK_TLS_CERT"),
        (wanted(tls_key=other.key), "PENSTOCK_TLS_KEY"),
        (wanted(tls_cert=files.key), "PENSTOCK_TLS_CERT"),
        (wanted(tls_client_ca=files.key), "PENSTOCK_TLS_CLIENT_CA"),
    ):
        with pytest.raises(Conflict, match=named) as caught:
            certificates(settings)
        assert caught.value.reason == "TLS_UNUSABLE"


def tmp_path_of(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder
