"""A wire that breaks: TCP on loopback between writers and the server, cut by bytes and by direction.

Its address stays the same while servers come and go behind it, as a load balancer's does.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

CHUNK_BYTES = 16 * 1024


class Way(Enum):
    """A direction."""

    UP = "to the server"
    DOWN = "to the client"


class Break(Enum):
    """How a connection ends."""

    RESET = "reset"  # both sides learn at once
    HALF_CLOSE = "half-close"  # the receiver sees an orderly end while the other way still carries
    SWALLOW = "swallow"  # bytes vanish for a while, then both sides learn: sent, and never acknowledged


@dataclass(frozen=True, slots=True)
class Cut:
    """What happens to one connection."""

    way: Way
    after_bytes: int
    how: Break
    delay_s: float  # of every chunk, in both directions
    linger_s: float  # between the break and the end of the connection


def draw(chance: random.Random) -> Cut:
    """A cut somewhere between the handshake and some hundred batches."""
    way = chance.choice(list(Way))
    # What comes back is small: a few hundred bytes are a few acknowledgements.
    reach = 200_000 if way is Way.UP else 6_000
    return Cut(
        way,
        int(chance.random() ** 2 * reach),
        chance.choice(list(Break)),
        chance.choice([0.0, 0.0, 0.002, 0.02]),
        chance.uniform(0.0, 0.15),
    )


class Proxy:
    """Forwards to `upstream`, a port of this machine; None refuses. `breaking` has new connections cut by the seed."""

    def __init__(self, seed: int) -> None:
        self.upstream: int | None = None
        self.cuts = 0  # connections cut so far
        self._random = random.Random(f"{seed}/proxy")
        self._breaking = False
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """Where it listens, as host:port."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """While it is open connections break: at once those there are, new ones by the seed, at the end the rest."""
        self._breaking = True
        self.reset()
        try:
            yield
        finally:
            self._breaking = False
            self.reset()

    def reset(self) -> None:
        """Resets every connection."""
        self.cuts += len(self._open) // 2
        for writer in self._open:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            await self._connect(reader, writer)
        except OSError:
            pass  # nobody listens there now; the client sees the same
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.upstream is None:
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        self._open.add(to_server)
        cut = draw(self._random) if self._breaking else None
        ways = (
            asyncio.create_task(self._pump(reader, to_server, Way.UP, cut)),
            asyncio.create_task(self._pump(from_server, writer, Way.DOWN, cut)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if cut is not None and cut.how is Break.HALF_CLOSE:
                await asyncio.wait(ways, timeout=cut.linger_s)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._open.discard(to_server)
            to_server.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way, cut: Cut | None) -> None:
        left = cut.after_bytes if cut is not None and cut.way is way else None
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if cut is not None and cut.delay_s:
                    await asyncio.sleep(cut.delay_s)
                if left is not None and cut is not None and len(data) > left:
                    sink.write(data[:left])
                    await sink.drain()
                    await self._end(source, sink, cut)
                    return
                left = left - len(data) if left is not None else None
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

    async def _end(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: Cut) -> None:
        self.cuts += 1
        if cut.how is Break.HALF_CLOSE:
            sink.write_eof()
        if cut.how is Break.SWALLOW:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(cut.linger_s):
                    while await source.read(CHUNK_BYTES):
                        pass
