"""Docker's health check: whether the server in this container is ready, with TLS or without. Exits 0 or 1."""

import os
import socket
import sys
from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

HOST = "127.0.0.1"
ANSWER_S_MAX = 3.0


def ready() -> bool:
    """Asks gRPC's own health service, which needs no credential."""
    port = int(os.environ.get("PENSTOCK_GRPC_PORT") or 50051)
    shown = os.environ.get("PENSTOCK_TLS_CERT")
    if not shown:
        return serves(grpc.insecure_channel(f"{HOST}:{port}"))
    if os.environ.get("PENSTOCK_TLS_CLIENT_CA"):
        return listens(port)
    # Nobody else answers here, so what it shows is to be its own certificate, by whatever name, and not one that ended.
    chain = Path(shown).read_bytes()
    override = ("grpc.ssl_target_name_override", name_in(chain))
    return serves(grpc.secure_channel(f"{HOST}:{port}", grpc.ssl_channel_credentials(chain), [override]))


def serves(channel: grpc.Channel) -> bool:
    """Whether the server as a whole is SERVING."""
    with channel:
        asked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S_MAX)
    return bool(asked.status == health_pb2.HealthCheckResponse.SERVING)


def listens(port: int) -> bool:
    """Whether somebody does: there is no client's certificate here to ask for more with."""
    with socket.create_connection((HOST, port), ANSWER_S_MAX):
        return True


def name_in(chain: bytes) -> str:
    """A name that its first certificate is for."""
    certificate = x509.load_pem_x509_certificate(chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return found[0].replace("*", "any", 1)


if __name__ == "__main__":
    try:
        sys.exit(not ready())
    except (grpc.RpcError, OSError) as error:
        sys.exit(f"no answer: {error}")
