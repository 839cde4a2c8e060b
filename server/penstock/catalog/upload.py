"""Takes products that come as newline-delimited JSON of any size: a commit for every few thousand lines."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from penstock import limits
from penstock.catalog.lines import LineReader
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.catalog.writer import CatalogueWriter
from penstock.errors import InvalidInput
from penstock.rest import ndjson


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no product."""

    line: int  # from 1
    reason: str
    message: str


@dataclass(slots=True)
class Uploaded:
    """What became of an upload so far."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    errors: list[BadLine] = field(default_factory=list)
    commit: int = 0

    @property
    def stored(self) -> int:
        """Lines that are in the catalogue."""
        return self.created + self.updated + self.unchanged


class Uploads:
    """Stores uploads."""

    def __init__(self, writer: CatalogueWriter) -> None:
        self._writer = writer
        self._reader = LineReader()

    async def store(self, tenant: str, pieces: AsyncIterator[bytes]) -> Uploaded:
        """Stores the products of a body. Raises InvalidInput (LINE_TOO_LONG), and what the writer raises: what was
        stored before stays."""
        done = Uploaded()
        waiting: list[tuple[int, bytes]] = []
        async for numbered in ndjson.lines(pieces, lambda: done.stored):
            waiting.append(numbered)
            if len(waiting) >= limits.UPLOAD_PRODUCTS:
                await self._store(tenant, waiting, done)
                waiting = []
        if waiting:
            await self._store(tenant, waiting, done)
        return done

    async def _store(self, tenant: str, lines: Sequence[tuple[int, bytes]], done: Uploaded) -> None:
        products, bad = await asyncio.to_thread(self._read, lines)
        done.rejected += len(bad)
        done.errors += bad[: limits.LINE_ERRORS_SHOWN - len(done.errors)]
        if not products:
            return
        written = await self._writer.upsert(tenant, products)
        done.created += written.counts.created
        done.updated += written.counts.updated
        done.unchanged += written.counts.unchanged
        done.commit = written.commit or done.commit

    def _read(self, lines: Sequence[tuple[int, bytes]]) -> tuple[list[Product], list[BadLine]]:
        products: list[Product] = []
        bad: list[BadLine] = []
        for number, line in lines:
            try:
                products.append(self._reader.product(line))
            except InvalidInput as error:
                bad.append(BadLine(number, error.reason, error.message))
        return products, bad
