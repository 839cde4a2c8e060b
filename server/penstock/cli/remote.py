"""How commands reach a running server: through the SDK, as any other client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from penstock.cli.running import CommandError
from penstock_client import Client, TimedOut, Unavailable

# Whoever sits at a terminal wants to hear soon that nobody answers; a watch that loses its server gets the same.
RETRY_S = 10.0
DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[
    str, typer.Option("--address", envvar="PENSTOCK_ADDRESS", help="Where the server's gRPC listens, as HOST:PORT.")
]


@asynccontextmanager
async def connected(address: str, *, retry_s: float = RETRY_S) -> AsyncIterator[Client]:
    """A client of the server. Raises CommandError when none answers there."""
    async with Client(address, retry_total_s=retry_s) as client:
        try:
            await client.operations.health()
        except (Unavailable, TimedOut):
            raise CommandError(
                f"no server answers at {address}: start one with `penstock up`, or name another with --address"
            ) from None
        yield client
