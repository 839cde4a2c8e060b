"""What the embedded engine does by itself, without gRPC around it: the limits that the server is held against.

Each function runs in a process of its own, over a data folder with the server's tables in it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from loadtest.rows import Batches, event_rows, varint
from penstock.events import bronze
from penstock.events.engine_schema import Stamp
from penstock.settings import Settings
from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.connection import scratch_folder
from penstock.storage.engine import ClickHouseEngine, Lane, open_engine
from penstock.storage.payload import ONE_PART, Payload, literal
from penstock.storage.schema import migrate

_PLAIN_TYPES = {
    "event_type": "String",
    "timestamp.seconds": "Int64",
    "timestamp.nanos": "Int32",
    **dict.fromkeys(("user_id", "visitor_id", "session_id", "site_id", "product_id", "order_id"), "String"),
    "price": "Nullable(Float64)",
    "quantity": "Nullable(Int32)",
    **dict.fromkeys(("currency", "url", "referrer"), "String"),
    "properties": "Map(String, String)",
}
_PLAIN_STRUCTURE = ", ".join(f"`{name}` {kind}" for name, kind in _PLAIN_TYPES.items())
_PLAIN_KEPT = [name for name in _PLAIN_TYPES if not name.startswith("timestamp")]
_PLAIN_INSERT = f"""
INSERT INTO bronze_events (tenant, commit, event_id, event_time, ingest_time, {", ".join(_PLAIN_KEPT)})
SELECT
    'default', @commit, generateUUIDv7(),
    fromUnixTimestamp64Micro(timestamp.seconds * 1000000 + intDiv(timestamp.nanos, 1000), 'UTC'), now64(6),
    {", ".join(_PLAIN_KEPT)}
FROM file(@file, ProtobufList, {literal(_PLAIN_STRUCTURE)})
SETTINGS {ONE_PART}, format_schema = @schema
"""
_LAST_COMMIT = "SELECT max(commit) AS commit FROM bronze_events"


def insert_rate(data_dir: Path, batches: Batches, *, fsync: bool, seconds: float) -> float:
    """Rows/s of the server's own insert statement over all `batches` at once, again and again."""
    return asyncio.run(_insert_rate(data_dir, batches, fsync=fsync, seconds=seconds))


def plain_rate(data_dir: Path, batches: Batches, *, fsync: bool, seconds: float) -> float:
    """Rows/s of `INSERT … FORMAT ProtobufList` into the same table: no checks, no stamps, the file written once."""
    return asyncio.run(_plain_rate(data_dir, batches, fsync=fsync, seconds=seconds))


def commit_times(data_dir: Path, batches: Batches, *, fsync: bool, commits: int) -> list[float]:
    """Seconds that each of so many bare commits took: one batch inserted, then its row in the commit log."""
    return asyncio.run(_commit_times(data_dir, batches, fsync=fsync, commits=commits))


async def _insert_rate(data_dir: Path, batches: Batches, *, fsync: bool, seconds: float) -> float:
    async with _engine(data_dir, fsync=fsync) as engine:
        payload = _payload(batches)
        rows = batches.rows * len(batches.requests)

        async def insert(commit: int) -> int:
            await engine.insert_payload(_statement(commit), payload)
            return rows

        return await _rate(engine, insert, seconds)


async def _plain_rate(data_dir: Path, batches: Batches, *, fsync: bool, seconds: float) -> float:
    async with _engine(data_dir, fsync=fsync) as engine:
        folder = scratch_folder(data_dir)
        file = folder / "plain.bin"
        data = event_rows(batches)
        file.write_bytes(varint(len(data)) + data)
        schema = f"{Path(__file__).with_name('plain.proto')}:Event"
        statement = _PLAIN_INSERT.replace("@file", literal(str(file))).replace("@schema", literal(schema))
        rows = batches.rows * len(batches.requests)

        async def insert(commit: int) -> int:
            await engine.execute(statement.replace("@commit", str(commit)), lane=Lane.COMMIT)
            return rows

        return await _rate(engine, insert, seconds)


async def _commit_times(data_dir: Path, batches: Batches, *, fsync: bool, commits: int) -> list[float]:
    times = []
    async with _engine(data_dir, fsync=fsync) as engine:
        log = CommitLog(engine)
        await log.open()
        for number in range(commits):
            payload = _payload(Batches(batches.rows, [batches.request(number, None)]))
            started = time.perf_counter()
            async with log.transaction() as transaction:
                await engine.insert_payload(_statement(transaction.commit), payload)
                end = batches.rows * (number + 1)
                advance = Advance("default", "bench", end - batches.rows, end, batches.rows, 0)
                await transaction.append(Entry("append", rows=batches.rows, streams=[advance]))
            times.append(time.perf_counter() - started)
    return times


@asynccontextmanager
async def _engine(data_dir: Path, *, fsync: bool) -> AsyncIterator[ClickHouseEngine]:
    settings = Settings.model_validate({"data_dir": data_dir, "fsync": fsync})
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        yield engine
    finally:
        await engine.close()


async def _rate(engine: ClickHouseEngine, insert: Callable[[int], Awaitable[int]], seconds: float) -> float:
    commit = int((await engine.rows(_LAST_COMMIT))[0]["commit"])
    await insert(commit := commit + 1)  # the first one also starts threads and reads the schema
    rows = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        rows += await insert(commit := commit + 1)
    return rows / elapsed if rows else 0.0


def _payload(batches: Batches) -> Payload:
    stamps = [_stamp(number, batches.rows) for number in range(len(batches.requests))]
    return bronze.message_payload(list(zip(batches.requests, stamps, strict=True)))


def _stamp(number: int, rows: int) -> bytes:
    stamp = Stamp(
        batch=number,
        tenant="default",
        stream_id="bench",
        first_offset=number * rows,
        row_count=rows,
        client_address="127.0.0.1",
        user_agent="loadtest",
    )
    return bytes(stamp.SerializeToString())


def _statement(commit: int) -> str:
    return bronze.filled(bronze.INSERT, columns=False, commit=commit, time=datetime.now(UTC))
