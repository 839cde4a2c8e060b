"""The features of every user as one Arrow IPC stream, made and sent piece by piece.

The engine computes them for some users at a time, chosen by a hash of their id, so that neither it nor this process
holds all of them.

Arrow lets a stream end with its end-of-stream mark or with the end of the input, so a reader takes a stream that broke
off between two messages for a whole one, and over REST an error in mid-stream is a body that ends. Hence the last byte
that was made is held back until the next are there: a stream that breaks off ends inside a message, which every reader
refuses.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime

import pyarrow as pa

from penstock import limits
from penstock.errors import Overloaded
from penstock.kpis.features import FeatureReader, users_sql
from penstock.storage.engine import Engine, Row
from penstock.storage.shares import Shares
from penstock.storage.version import Version

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # https://arrow.apache.org/docs/format/Columnar.html
BATCH_ROWS = 4_096

_USERS = """
SELECT uniq(visitor) AS users
FROM silver_events
WHERE tenant = {{tenant:String}} AND {visible} AND visitor != ''
"""
_PART = "silver.visitor != '' AND cityHash64(silver.visitor) % {parts:UInt32} = {part:UInt32}"

_FIELDS = [
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("total_events", pa.int32(), nullable=False),
    pa.field("purchases", pa.int32(), nullable=False),
    pa.field("avg_order_value", pa.float64()),
    pa.field("unique_products_viewed", pa.int32(), nullable=False),
    pa.field("preferred_hour", pa.int32(), nullable=False),
    pa.field("days_since_last_activity", pa.float64(), nullable=False),
    pa.field("avg_events_per_day", pa.float64(), nullable=False),
    pa.field("recency", pa.float64()),
    pa.field("frequency", pa.int32(), nullable=False),
    pa.field("monetary", pa.float64(), nullable=False),
    pa.field("recency_score", pa.int32(), nullable=False),
    pa.field("frequency_score", pa.int32(), nullable=False),
    pa.field("monetary_score", pa.int32(), nullable=False),
]


class FeatureExport:
    """Exports features, a few at a time."""

    def __init__(self, engine: Engine, features: FeatureReader) -> None:
        self._engine = engine
        self._features = features
        self._open = Shares(limits.FEATURE_EXPORTS_MAX + 1, limits.FEATURE_EXPORTS_MAX)

    async def pieces(self, tenant: str, version: Version, active_since: datetime | None) -> AsyncGenerator[bytes, None]:
        """The stream in pieces of at most FEATURE_EXPORT_BYTES; the schema's metadata says what it is of.

        Only users with an event at or after `active_since`. Raises Overloaded when FEATURE_EXPORTS_MAX of the
        tenant are under way, or fewer beside others', and as the reader.
        """
        if not self._open.take(tenant):
            raise Overloaded("too many exports are under way", reason="OVERLOADED", retry_after_s=5.0)
        try:
            held = bytearray()
            async with contextlib.aclosing(self._messages(tenant, version, active_since)) as messages:
                async for message in messages:
                    held += message
                    for piece in _cut(held, keep=1):
                        yield piece
            held += END_OF_STREAM
            for piece in _cut(held, keep=0):
                yield piece
        finally:
            self._open.give_back(tenant)

    async def _messages(
        self, tenant: str, version: Version, active_since: datetime | None
    ) -> AsyncGenerator[bytes, None]:
        """Arrow's messages: the schema, then batches of rows."""
        population = await self._features.population(tenant, version)
        metadata = {"version": str(version.commit), "currency": self._features.currency}
        if population is None:
            yield pa.schema(_FIELDS, metadata).serialize().to_pybytes()
            return
        schema = pa.schema(_FIELDS, {**metadata, "reference_time": population.reference_time.isoformat()})
        yield schema.serialize().to_pybytes()
        since = round(active_since.timestamp() * 1e6) if active_since else 0
        bounds = self._features.bounds(tenant, population, since)
        parts = await self._parts(tenant, version)
        for part in range(parts):
            rows = await self._engine.rows(
                users_sql(version, _PART), {**bounds, "parts": parts, "part": part}, timeout_s=limits.HEAVY_DEADLINE_S
            )
            for start in range(0, len(rows), BATCH_ROWS):
                yield await asyncio.to_thread(_encoded, rows[start : start + BATCH_ROWS], schema)

    async def _parts(self, tenant: str, version: Version) -> int:
        sql = _USERS.format(visible=version.visible("silver_events"))
        found = await self._engine.rows(sql, {"tenant": tenant}, timeout_s=limits.HEAVY_DEADLINE_S)
        return 1 + int(found[0]["users"]) // limits.FEATURE_EXPORT_USERS


def _encoded(rows: list[Row], schema: pa.Schema) -> bytes:
    batch: bytes = pa.RecordBatch.from_pylist(rows, schema).serialize().to_pybytes()
    return batch


def _cut(held: bytearray, *, keep: int) -> Iterator[bytes]:
    """Takes pieces off `held` until `keep` bytes of it are left; a small rest waits for more unless nothing is kept."""
    least = limits.FEATURE_EXPORT_BYTES if keep else 1
    while len(held) - keep >= least:
        size = min(limits.FEATURE_EXPORT_BYTES, len(held) - keep)
        yield bytes(held[:size])
        del held[:size]
