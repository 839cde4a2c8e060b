"""Vectors of texts, kept in ClickHouse, so that what was encoded once is never encoded again.

They are facts about texts: whoever finds one may use it, whatever became of the product that it was made for. So they
need no commit, and one that is lost is made again.
"""

import hashlib
from base64 import b64decode
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from penstock import limits
from penstock.errors import PenstockError
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Lane

log = structlog.get_logger()

# Both sides have to be `FixedString`: a `String` differs from one that ends in a zero byte, and a digest in 256 does.
_FIND = """
SELECT hex(text) AS digest, base64Encode(any(vector)) AS vector
FROM text_vectors
WHERE tenant = {tenant:String} AND encoder = {encoder:String}
    AND text IN (SELECT toFixedString(unhex(arrayJoin({digests:Array(String)})), 16))
GROUP BY text
"""
_SCHEMA = pa.schema(
    [("tenant", pa.string()), ("encoder", pa.string()), ("text", pa.binary(16)), ("vector", pa.binary())]
)

Vector = npt.NDArray[np.float32]


def digest_of(texts: Sequence[tuple[str, float]]) -> bytes:
    """Names what is encoded: the texts and their weights."""
    told = hashlib.sha256()
    for text, weight in texts:
        told.update(f"{weight:.6g}\0{len(text)}\0{text}\0".encode())
    return told.digest()[:16]


class StoredVectors:
    """Keeps and finds vectors of one encoder."""

    def __init__(self, engine: Engine, commit_log: CommitLog, encoder: str) -> None:
        self._engine = engine
        self._log = commit_log
        self._encoder = encoder
        self._waiting: dict[str, dict[bytes, Vector]] = {}

    async def find(self, tenant: str, digests: Sequence[bytes]) -> dict[bytes, Vector]:
        """Those that are there. Raises Unavailable."""
        wanted = dict.fromkeys(digests)
        waiting = self._waiting.get(tenant, {})
        found = {digest: waiting[digest] for digest in wanted if digest in waiting}
        missing = [digest for digest in wanted if digest not in found]
        for start in range(0, len(missing), limits.VECTORS_FOUND_AT_ONCE):
            some = missing[start : start + limits.VECTORS_FOUND_AT_ONCE]
            rows = await self._engine.rows(
                _FIND, {"tenant": tenant, "encoder": self._encoder, "digests": [digest.hex() for digest in some]}
            )
            found |= {
                bytes.fromhex(row["digest"]): np.frombuffer(b64decode(row["vector"]), dtype="<f4") for row in rows
            }
        return found

    async def keep(self, tenant: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keeps vectors; they are written in batches, so `flush` before the end."""
        waiting = self._waiting.setdefault(tenant, {})
        waiting.update(vectors)
        if len(waiting) >= limits.VECTORS_KEPT_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        """Writes what waits, where this process may write. What cannot be written is made again after a restart."""
        waiting, self._waiting = self._waiting, {}
        rows = [
            {"tenant": tenant, "encoder": self._encoder, "text": digest, "vector": vector.astype("<f4").tobytes()}
            for tenant, vectors in waiting.items()
            for digest, vector in vectors.items()
        ]
        if not rows or not self._log.leads:
            return
        try:
            await self._engine.insert_arrow("text_vectors", pa.Table.from_pylist(rows, _SCHEMA), lane=Lane.PIPELINE)
        except PenstockError as error:
            log.warning("vectors were not kept", vectors=len(rows), error=error.message)
