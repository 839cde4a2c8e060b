"""`penstock envoy-config`: Envoy's configuration, for an Envoy that runs elsewhere than beside the server."""

import json
from typing import Annotated

import typer

from penstock.cli.serve import option, settings_of
from penstock.rest.config import render


def envoy_config(
    upstream_host: Annotated[
        str, typer.Option(help="Where Envoy finds the gRPC server: an address, or a name that may stand for several.")
    ] = "127.0.0.1",
    grpc_port: Annotated[int | None, option("grpc_port")] = None,
    http_host: Annotated[str | None, option("http_host")] = None,
    http_port: Annotated[int | None, option("http_port")] = None,
    envoy_admin_port: Annotated[int | None, option("envoy_admin_port")] = None,
    descriptors: Annotated[
        str,
        typer.Option(help="Where Envoy finds the descriptor set, contract.binpb. Default: where it is installed here."),
    ] = "",
) -> None:
    """Prints the configuration, rendered from the settings and the contract; `envoy --config-path` takes it."""
    settings = settings_of(
        grpc_port=grpc_port, http_host=http_host, http_port=http_port, envoy_admin_port=envoy_admin_port
    )
    rendered = render(settings, grpc_port=settings.grpc_port, grpc_host=upstream_host, descriptors=descriptors)
    typer.echo(json.dumps(rendered, indent=1))
