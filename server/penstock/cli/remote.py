"""How commands reach a running server: through the SDK, as any other client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.cli.running import CommandError
from penstock_client import Client, TimedOut, Unavailable

# Whoever sits at a terminal wants to hear soon that nobody answers; a watch that loses its server gets the same.
RETRY_S = 10.0
DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="PENSTOCK_ADDRESS",
        help="Where the server's gRPC listens, as HOST:PORT. What to call with: PENSTOCK_API_KEY, or "
        "PENSTOCK_API_KEY_FILE; over TLS: PENSTOCK_TLS_CA, a file, or `system`.",
    ),
]


class ClientSettings(BaseSettings):
    """What commands call with. From the environment only: a command line is seen by everybody on the machine."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", frozen=True, extra="ignore")

    api_key: SecretStr = SecretStr("")  # an API key, or an access token
    api_key_file: Path | None = None  # that holds it
    tls_ca: str = ""  # a file with the authorities (PEM) that vouch for the server, or `system`

    def key(self) -> str | None:
        """The key; None where there is none. Raises CommandError for a file that cannot be read."""
        if self.api_key_file is None:
            return self.api_key.get_secret_value().strip() or None
        return _read("PENSTOCK_API_KEY_FILE", self.api_key_file).decode().strip()

    def tls(self) -> bool | grpc.ChannelCredentials:
        """How to reach the server. Raises CommandError for a file that cannot be read."""
        if self.tls_ca in ("", "system"):
            return self.tls_ca == "system"
        return grpc.ssl_channel_credentials(_read("PENSTOCK_TLS_CA", Path(self.tls_ca)))


@asynccontextmanager
async def connected(address: str, *, retry_s: float = RETRY_S) -> AsyncIterator[Client]:
    """A client of the server. Raises CommandError when none answers there."""
    settings = ClientSettings()
    try:
        made = Client(address, api_key=settings.key(), tls=settings.tls(), retry_total_s=retry_s)
    except ValueError as error:
        raise CommandError(f"PENSTOCK_API_KEY: {error}") from None
    async with made as client:
        try:
            await client.operations.health()
        except (Unavailable, TimedOut):
            raise CommandError(
                f"no server answers at {address}: start one with `penstock up`, or name another with --address"
            ) from None
        yield client


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{setting} {path} cannot be read: {error.strerror}") from error
