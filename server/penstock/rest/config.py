"""Envoy's configuration: the template deploy/envoy/envoy.yaml, filled from settings, limits and the contract."""

import re
import socket
from http import HTTPStatus
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import yaml
from google.rpc import code_pb2

from penstock import limits
from penstock.access.v1 import access_pb2
from penstock.rest import contract
from penstock.rpc.status import DOMAIN
from penstock.settings import Settings

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | int | float | bool | None"

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
CONNECT: Tree = {
    "name": "envoy.filters.http.connect_grpc_bridge",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.connect_grpc_bridge.v3.FilterConfig"},
}
# The server's own deadline comes first; Envoy's is for a server that no longer keeps it.
GRACE_S = 5
BUFFER_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
FRAMING_BYTES = 1024  # of gRPC around the largest message
# Longer than the longest heartbeat interval that a client may ask of a stream.
STREAM_SILENCE_S = 3_720

# What Envoy answers by itself, in the terms of the service: HTTP status → gRPC code, reason.
LOCAL_REPLIES: dict[HTTPStatus, tuple[int, str]] = {
    HTTPStatus.BAD_REQUEST: (code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
    HTTPStatus.NOT_FOUND: (code_pb2.NOT_FOUND, "NO_SUCH_PATH"),
    HTTPStatus.REQUEST_TIMEOUT: (code_pb2.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (code_pb2.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (code_pb2.INVALID_ARGUMENT, "HEADERS_TOO_LARGE"),
    HTTPStatus.INTERNAL_SERVER_ERROR: (code_pb2.INTERNAL, "PROXY_FAULT"),
    HTTPStatus.BAD_GATEWAY: (code_pb2.UNAVAILABLE, "SERVER_UNREACHABLE"),
    HTTPStatus.SERVICE_UNAVAILABLE: (code_pb2.UNAVAILABLE, "SERVER_UNREACHABLE"),
    HTTPStatus.GATEWAY_TIMEOUT: (code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}


def template_path() -> Path:
    """The template: beside this module in a wheel, in deploy/ in a checkout."""
    packaged = Path(str(files("penstock.rest").joinpath("envoy.yaml")))
    return packaged if packaged.exists() else Path(__file__).parents[3] / "deploy" / "envoy" / "envoy.yaml"


def render(settings: Settings, *, grpc_port: int, grpc_host: str = "", descriptors: str = "") -> dict[str, Tree]:
    """The configuration of an Envoy that serves the gRPC server at `grpc_port` of `grpc_host`, or of this host.

    `descriptors` is where that Envoy finds the descriptor set, if not where it is here.

    Values are put into the parsed template, so none can break out of its place. Raises KeyError for a placeholder
    without a value, OSError for a host name that does not resolve.
    """
    template = yaml.safe_load(template_path().read_text(encoding="utf-8"))
    filled = _filled(template, _values(settings, grpc_port, grpc_host, descriptors))
    assert isinstance(filled, dict)
    return filled


def _values(settings: Settings, grpc_port: int, grpc_host: str, descriptors: str) -> dict[str, Tree]:
    return {
        "admin_port": settings.envoy_admin_port,
        "http_host": _address(settings.http_host),
        "http_port": settings.http_port,
        **_upstream(grpc_host or _reachable(_address(settings.grpc_host)), grpc_port),
        "downstream_tls": _downstream_tls(settings),
        "connect_filters": [CONNECT] if settings.connect else [],
        "tracing": _tracing(settings.otlp_endpoint),
        "tracing_cluster": _tracing_cluster(settings.otlp_endpoint),
        "connections_max": limits.HTTP_CONNECTIONS_MAX,
        "access_log": _access_log(settings.access_log),
        "cors_origins": _origins(settings.cors_origins),
        "descriptors": descriptors or str(contract.descriptor_path()),
        "services": list(contract.service_names()),
        "request_bytes_max": limits.REQUEST_BYTES_MAX,
        # Both count the rpc's bytes, not those of its JSON; what gRPC may answer, REST may too.
        "response_bytes_max": limits.RESPONSE_BYTES_MAX + FRAMING_BYTES,
        "collect_bytes_max": limits.COLLECT_BYTES_MAX,
        "unary_timeout": _seconds(limits.UNARY_DEADLINE_S + GRACE_S),
        "rpc_routes": _rpc_routes(),
        "local_replies": _local_replies(),
    }


def _filled(tree: Tree, values: dict[str, Tree]) -> Tree:
    if isinstance(tree, dict):
        filled_values = {key: (value, _filled(value, values)) for key, value in tree.items()}
        return {key: made for key, (was, made) in filled_values.items() if made is not None or was is None}
    if isinstance(tree, list):
        items: list[Tree] = []
        for item in tree:
            filled = _filled(item, values)
            if isinstance(filled, list):
                items.extend(filled)
            else:
                items.append(filled)
        return items
    placeholder = _PLACEHOLDER.fullmatch(tree) if isinstance(tree, str) else None
    return values[placeholder[1]] if placeholder else tree


def _rpc_routes() -> list[Tree]:
    """Routes of every rpc that is not an ordinary unary one."""
    routes: list[Tree] = []
    for rpc in contract.rpcs():
        if rpc.method.server_streaming:
            times: dict[str, Tree] = {"timeout": "0s", "idle_timeout": _seconds(STREAM_SILENCE_S)}
        elif rpc.method.client_streaming:
            times = {"timeout": "0s"}
        elif rpc.needs.cost == access_pb2.COST_CLASS_HEAVY:
            heavy = _seconds(limits.HEAVY_DEADLINE_S + GRACE_S)
            times = {"timeout": heavy, "idle_timeout": heavy}
        else:
            continue
        paths = [rpc.path]
        if rpc.method.client_streaming:
            paths += [binding.path for binding in rpc.bindings]
        routes += [_rpc_route(rpc, path, times) for path in paths]
    return routes


def _rpc_route(rpc: contract.Rpc, path: str, times: dict[str, Tree]) -> Tree:
    route: dict[str, Tree] = {
        "name": f"{rpc.service.name}.{rpc.method.name}",
        "match": {"path": path},
        "route": {"cluster": "penstock", **times},
    }
    if rpc.method.client_streaming:
        route["typed_per_filter_config"] = {"envoy.filters.http.buffer": {"@type": BUFFER_PER_ROUTE, "disabled": True}}
    return route


def _local_replies() -> list[Tree]:
    return [
        {
            "filter": {
                "status_code_filter": {
                    "comparison": {
                        "op": "EQ",
                        "value": {"default_value": int(status), "runtime_key": f"penstock.local_reply.{int(status)}"},
                    }
                }
            },
            "body_format_override": {
                "json_format": {
                    "code": code,
                    "message": "%LOCAL_REPLY_BODY%",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                            "reason": reason,
                            "domain": DOMAIN,
                            "metadata": {},
                        }
                    ],
                }
            },
        }
        for status, (code, reason) in LOCAL_REPLIES.items()
    ]


def _origins(origins: str) -> list[Tree]:
    wanted = [origin.strip() for origin in origins.split(",") if origin.strip()]
    if "*" in wanted:
        return [{"safe_regex": {"regex": ".*"}}]
    return [{"exact": origin} for origin in wanted]


def _access_log(path: str) -> list[Tree]:
    if not path:
        return []
    entry: dict[str, Tree] = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        # Query strings hold what trackers send about people.
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": {"json_format": entry},
            },
        }
    ]


def _upstream(host: str, port: int) -> dict[str, Tree]:
    """Where the server is: an address as it is, a name looked up again and again, all its addresses taken."""
    try:
        ip_address(host)
    except ValueError:
        return {"grpc_host": host, "grpc_port": port, "grpc_discovery": "STRICT_DNS"}
    return {"grpc_host": host, "grpc_port": port, "grpc_discovery": "STATIC"}


def _downstream_tls(settings: Settings) -> Tree:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    common: dict[str, Tree] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {"certificate_chain": _file(settings.tls_cert), "private_key": _file(settings.tls_key)},
        ],
    }
    if settings.tls_client_ca is not None:
        common["validation_context"] = {"trusted_ca": _file(settings.tls_client_ca)}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TLS}.DownstreamTlsContext",
            "require_client_certificate": settings.tls_client_ca is not None,
            "common_tls_context": common,
        },
    }


def _file(path: Path) -> Tree:
    return {"filename": str(path.absolute())}


def _tracing(endpoint: str) -> Tree:
    if not endpoint:
        return None
    return {
        # Spans tell nothing of a request: paths name whom it is about, and queries hold the codes of sign-ins.
        "max_path_tag_length": 0,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "traces"}, "timeout": "1s"},
                "service_name": "penstock-envoy",
            },
        },
    }


def _tracing_cluster(endpoint: str) -> list[Tree]:
    if not endpoint:
        return []
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "localhost", parts.port or 4317
    cluster: dict[str, Tree] = {
        "name": "traces",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "traces",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}]}
            ],
        },
    }
    if parts.scheme == "https":
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": f"{TLS}.UpstreamTlsContext", "sni": host},
        }
    return [cluster]


def _seconds(seconds: float) -> str:
    return f"{seconds:g}s"


def _address(host: str) -> str:
    """Envoy listens and connects by address only."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _reachable(address: str) -> str:
    """Where a server that listens on `address` is reached from this host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
