"""When a stream's initial metadata is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from penstock.rpc.call import Call, reply_headers

OPENING_S = 0.25


class Opening:
    """Sends a stream's initial metadata, once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = asyncio.Lock()
        self.done = False

    async def send(self) -> None:
        """Sends it, unless it was."""
        async with self._lock:
            if not self.done:
                await self._call.context.send_initial_metadata(reply_headers(self._call))
                self.done = True

    async def send_later(self) -> None:
        """Sends it in OPENING_S."""
        await asyncio.sleep(OPENING_S)
        await self.send()


@contextlib.asynccontextmanager
async def opening(call: Call) -> AsyncIterator[Opening]:
    """Has the initial metadata sent with the first response, or by itself after OPENING_S without one.

    Not before: headers that are out mean 200 to REST, and a refusal of the request could no longer be told. Not much
    later: a reader of a quiet stream waits for them to know that it is connected.
    """
    opened = Opening(call)
    later = asyncio.create_task(opened.send_later())
    try:
        yield opened
    finally:
        later.cancel()
        await asyncio.gather(later, return_exceptions=True)
