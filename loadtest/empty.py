"""A server that does nothing, in a process of its own: what a call costs before anybody works on it."""

import argparse
import asyncio
from pathlib import Path
from typing import cast

import grpc
import uvloop

from penstock.rpc.server import listen, make_server
from penstock.signals import stop_event

SERVICE = "penstock.loadtest.Empty"
METHOD = f"/{SERVICE}/Call"


async def _answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return b""


class _Echo(asyncio.Protocol):
    """A socket that sends back what comes: what is left of a call without gRPC."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve(ready_file: Path) -> None:
    stop = stop_event()
    handler = grpc.unary_unary_rpc_method_handler(_answer)
    server = make_server([grpc.method_handlers_generic_handler(SERVICE, {"Call": handler})])
    grpc_port = listen(server, "127.0.0.1", 0)
    await server.start()
    echo = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
    part = ready_file.with_suffix(".part")
    part.write_text(f"{grpc_port} {echo.sockets[0].getsockname()[1]}", encoding="utf-8")
    part.replace(ready_file)
    await stop.wait()
    echo.close()
    await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ready_file", type=Path)
    uvloop.run(_serve(parser.parse_args().ready_file))
