"""TLS of the gRPC port, from files."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from penstock.errors import Conflict
from penstock.settings import Settings


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server shows, and whose certificates it wants to see; PEM."""

    chain: bytes
    key: bytes
    client_authorities: bytes | None  # None: clients need show none

    def credentials(self) -> grpc.ServerCredentials:
        """gRPC's form of it."""
        return grpc.ssl_server_credentials(
            [(self.key, self.chain)],
            root_certificates=self.client_authorities,
            require_client_auth=self.client_authorities is not None,
        )


def certificates(settings: Settings) -> Certificates | None:
    """What the settings name; None where they name nothing.

    Raises Conflict (TLS_UNUSABLE) for files that cannot be read, or that do not belong together: gRPC itself would take
    them, and then fail each handshake without a word.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    chain, key = _read("PENSTOCK_TLS_CERT", settings.tls_cert), _read("PENSTOCK_TLS_KEY", settings.tls_key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise Conflict(
            f"PENSTOCK_TLS_CERT {settings.tls_cert} and PENSTOCK_TLS_KEY {settings.tls_key} are no certificate (PEM) "
            f"with its private key, unencrypted: {_why(error)}",
            reason="TLS_UNUSABLE",
        ) from None
    if settings.tls_client_ca is None:
        return Certificates(chain, key, None)
    authorities = _read("PENSTOCK_TLS_CLIENT_CA", settings.tls_client_ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(settings.tls_client_ca)
    except ssl.SSLError as error:
        raise Conflict(
            f"PENSTOCK_TLS_CLIENT_CA {settings.tls_client_ca} holds no certificates (PEM): {_why(error)}",
            reason="TLS_UNUSABLE",
        ) from None
    return Certificates(chain, key, authorities)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Conflict(f"{setting} {path} cannot be read: {error.strerror}", reason="TLS_UNUSABLE") from error


def _why(error: OSError) -> str:
    return (getattr(error, "reason", None) or error.strerror or "it cannot be read").replace("_", " ").lower()
