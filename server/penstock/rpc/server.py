"""The gRPC server itself: its options, and the ports."""

from collections.abc import Sequence

import grpc

from penstock import limits
from penstock.errors import Conflict
from penstock.rpc.tls import Certificates

OPTIONS: tuple[tuple[str, int], ...] = (
    # On by default, and then a second server would bind the same port without a word.
    ("grpc.so_reuseport", 0),
    # With the probe on, a client could send megabytes ahead of a handler that does not read.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", limits.RESPONSE_BYTES_MAX),
    ("grpc.max_metadata_size", limits.METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES_MAX),
    # What it drops ends CANCELLED, without a word why. By default that begins at 1,000, which a burst reaches while the
    # loop is held up for a moment; what is too much is for admission to say.
    ("grpc.server.max_pending_requests", limits.PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", limits.PENDING_CALLS_MAX),
    # Clients may ping every 20 s to keep idle streams open through NATs; by default the third ping is answered GOAWAY.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


def make_server(handlers: Sequence[grpc.GenericRpcHandler]) -> grpc.aio.Server:
    """A server that answers with `handlers`; not yet listening."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Methods(handlers),))
    return server


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types of its own
    """All of them as one: gRPC asks one after the other at each call, ten times where there are ten services."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers = handlers
        self._found: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Who handles a method; None where nobody does."""
        method = handler_call_details.method
        found = self._found.get(method)
        if found is None:
            told = (each.service(handler_call_details) for each in self._handlers)
            found = next((each for each in told if each is not None), None)
            if found is not None:
                self._found[method] = found
        return found


def listen(server: grpc.aio.Server, host: str, port: int, certificates: Certificates | None = None) -> int:
    """Binds the port, with TLS where there are certificates; returns it (the free one that was picked, for 0).

    Raises Conflict when it is taken.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if certificates is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, certificates.credentials())
    except RuntimeError as error:
        raise Conflict(
            f"cannot listen on {address}: is the port taken? Choose another with --grpc-port or PENSTOCK_GRPC_PORT",
            reason="PORT_TAKEN",
        ) from error
    return int(bound)
