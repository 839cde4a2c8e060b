"""`penstock status`: how a running server is."""

import asyncio
import json
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from penstock.cli import display
from penstock.cli.remote import DEFAULT_ADDRESS, Address, connected
from penstock.cli.running import run

HEALTHY = "healthy"


def status(
    address: Address = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Shows how a running server and its pipeline are. Exit code 1 when it does not answer or is not healthy."""
    run(_status(address, as_json))


async def _status(address: str, as_json: bool) -> int:
    async with connected(address) as client:
        server, pipeline = await asyncio.gather(client.operations.status(), client.pipeline.status())
    if as_json:
        parts = {"server": server, "pipeline": pipeline}
        shown = {
            name: MessageToDict(part, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            for name, part in parts.items()
        }
        typer.echo(json.dumps(shown, indent=2))
    else:
        Console(highlight=False).print(display.status(server), display.pipeline(pipeline))
    return 0 if server.status == HEALTHY else 1
