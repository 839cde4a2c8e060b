"""Rows of bronze for tests that care only for their commit."""

from penstock.storage.engine import Engine, Lane

_INSERT = """
INSERT INTO bronze_events (tenant, commit, stream_id, offset, ingest_time)
SELECT 'default', {commit:Int64}, 's', number, now64(6) FROM numbers({rows:UInt32})
"""
_COUNT = "SELECT count() AS rows FROM bronze_events WHERE commit <= {upto:Int64}"


async def write_bronze(engine: Engine, commit: int, rows: int = 3) -> None:
    """Writes so many rows under that commit."""
    await engine.execute(_INSERT, {"commit": commit, "rows": rows}, lane=Lane.COMMIT)


async def count_bronze(engine: Engine, upto: int = 1_000_000) -> int:
    """How many rows there are up to a commit, visible or not."""
    return int((await engine.rows(_COUNT, {"upto": upto}))[0]["rows"])
