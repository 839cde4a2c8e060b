"""Streams a file of past events, at the speed of the disk or at that of the clock. Needs `penstock-client[replay]`.

Row n of the file is row n of the stream. So a replay that was interrupted, by Ctrl-C or by a crash, goes on exactly
where it was when the same file is replayed to the same stream, and a replay that was finished does nothing.
"""

import asyncio
import hashlib
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock_client.acks import Ack
from penstock_client.client import Client
from penstock_client.replay_files import Chunk, chunks
from penstock_client.replay_mapping import PRESETS, RowMapping, field_mapping, parse_mapping
from penstock_client.writer import Writer

__all__ = [
    "PRESETS",
    "ReplayOptions",
    "ReplayProgress",
    "ReplayResult",
    "ReplaySource",
    "RowMapping",
    "field_mapping",
    "parse_mapping",
    "replay",
    "stream_id_of",
]

# A time outside is no time but a clock that was never set: it is neither moved nor waited for.
_SANE_TIME_MIN = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1e6)
_DAY_MICROS = 86_400 * 1_000_000
_YEAR_9999 = 253_402_300_000_000_000
NAMED_BY_BYTES = 1024 * 1024  # of a file, beside its size
PACE_S = 0.05  # rows that are due within it go together


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """A file, and what its rows mean."""

    path: Path
    mapping: RowMapping

    def chunks(self, skip: int = 0) -> Iterator[Chunk]:
        """Its rows behind the first `skip`."""
        return chunks(self.path, skip, columns=self.mapping.columns, delimiter=self.mapping.delimiter)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a file is replayed."""

    stream_id: str = ""  # empty: made from the file's name
    site_id: str = ""  # empty: as the rows say
    speed: float | None = None  # event time passes so many times as fast as the clock; None: as fast as it goes
    now: bool = False  # move all times so that the last event is now
    limit: int | None = None  # only so many rows of the file


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is; told after every chunk."""

    fraction: float | None  # of the file that is read, from 0 to 1; None where only part of a chunk is sent yet
    rows_sent: int  # in this run
    rows_settled: int
    rows_rejected: int
    event_time: datetime | None  # of the last row sent


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did."""

    stream_id: str
    rows_skipped: int  # stored by earlier runs
    rows_accepted: int
    rows_rejected: int
    reasons: Mapping[str, int] = field(default_factory=dict)  # of the rejected rows
    last_commit: int = 0
    seconds: float = 0.0


async def replay(
    client: Client,
    source: ReplaySource,
    options: ReplayOptions | None = None,
    progress: Callable[[ReplayProgress], None] | None = None,
) -> ReplayResult:
    """Replays a file to the end; bad rows are kept by the server with their reason, no good row is lost.

    Raises ValueError where file, mapping and options do not fit each other, and the writer's Errors. Cancelled, it
    drops what is not settled: the next run sends that again.
    """
    options = options or ReplayOptions()
    started = time.perf_counter()
    stream_id = options.stream_id or stream_id_of(source.path)
    shift = await asyncio.to_thread(_shift_to_now, source, options) if options.now else 0
    reasons: Counter[str] = Counter()
    writer = client.events.writer(stream_id, row_policy="keep_good")
    counting = asyncio.create_task(_count(writer.acks(), reasons))
    try:
        async with writer:
            skipped = writer.next_offset
            await _send_all(writer, source, options, shift, progress or (lambda _: None))
    finally:
        await asyncio.gather(counting, return_exceptions=True)  # it ends with the writer, and as the writer does
    stats = writer.stats
    return ReplayResult(
        stream_id,
        skipped,
        stats.rows_accepted + stats.rows_already_stored,
        stats.rows_rejected,
        dict(reasons),
        stats.last_commit,
        time.perf_counter() - started,
    )


def stream_id_of(path: Path) -> str:
    """The stream that a file is replayed to by default: its name, and a digest, as two files may share a name."""
    with path.open("rb") as file:
        begin = file.read(NAMED_BY_BYTES)
    digest = hashlib.sha256(str(path.stat().st_size).encode() + begin).hexdigest()
    return f"replay:{re.sub(r'[^A-Za-z0-9._:-]', '-', path.name)[:100]}:{digest[:12]}"


async def _send_all(
    writer: Writer,
    source: ReplaySource,
    options: ReplayOptions,
    shift: int,
    progress: Callable[[ReplayProgress], None],
) -> None:
    skip, stats = writer.next_offset, writer.stats
    pace = _Pace(options.speed) if options.speed is not None else None
    prepared = _prepared(source, options, skip, shift)
    while (ready := await asyncio.to_thread(next, prepared, None)) is not None:
        events, times, fraction = ready
        async for first, last in _at_once(events) if pace is None else pace.groups(times):
            await writer.send_arrow(events.slice(first, last - first))
            settled = stats.rows_accepted + stats.rows_rejected + stats.rows_already_stored
            progress(
                ReplayProgress(
                    fraction if last == events.num_rows else None,
                    writer.next_offset - skip,
                    settled,
                    stats.rows_rejected,
                    _instant(times, last - 1),
                )
            )


def _prepared(
    source: ReplaySource, options: ReplayOptions, skip: int, shift: int
) -> Iterator[tuple[pa.Table, Any, float]]:
    """The rows behind the first `skip` as events, with their times and the fraction of the file that they end at."""
    position = skip
    for chunk in source.chunks(skip):
        left = chunk.table.num_rows if options.limit is None else options.limit - position
        if left <= 0:
            return
        table = chunk.table.slice(0, left)
        position += table.num_rows
        times = source.mapping.times(table) if source.mapping.times is not None else None
        if times is not None and shift:
            times = pc.if_else(_sane(times), pc.add(times, shift), times)
        yield source.mapping.events(table, times, options.site_id), times, chunk.fraction


def _shift_to_now(source: ReplaySource, options: ReplayOptions) -> int:
    """Microseconds from the file's last event to now. Raises ValueError when no row has a time."""
    newest = [
        pc.max(times.filter(_sane(times))).as_py()
        for _, times, _ in _prepared(source, options, 0, 0)
        if times is not None
    ]
    known = [each for each in newest if each is not None]
    if not known:
        raise ValueError(f"{source.path.name} has no times that could be moved to now: map a column to timestamp")
    return time.time_ns() // 1_000 - int(max(known))


def _sane(times: Any) -> Any:
    latest = time.time_ns() // 1_000 + _DAY_MICROS
    return pc.and_(pc.greater_equal(times, _SANE_TIME_MIN), pc.less_equal(times, latest))


def _instant(times: Any, row: int) -> datetime | None:
    micros = times[row].as_py() if times is not None else None
    return datetime.fromtimestamp(micros / 1e6, UTC) if micros is not None and abs(micros) < _YEAR_9999 else None


async def _at_once(events: pa.Table) -> AsyncIterator[tuple[int, int]]:
    yield 0, events.num_rows


class _Pace:
    """Lets rows go when their time has come, event time running `speed` times as fast as the clock."""

    def __init__(self, speed: float) -> None:
        if speed <= 0:
            raise ValueError("speed must be positive")
        self._speed = speed
        self._started = time.monotonic()
        self._first: int | None = None
        self._newest = 0

    async def groups(self, times: Any) -> AsyncIterator[tuple[int, int]]:
        """From and to, exclusive, of the rows that are due together; waits before each."""
        if times is None:
            raise ValueError("pacing needs times: map a column to timestamp")
        due = [self._due_s(micros) for micros in times.to_pylist()]
        first = 0
        while first < len(due):
            wait = due[first] - (time.monotonic() - self._started)
            if wait > 0:
                await asyncio.sleep(max(wait, PACE_S))
            last = max(first + 1, bisect_right(due, time.monotonic() - self._started, lo=first))
            yield first, last
            first = last

    def _due_s(self, micros: int | None) -> float:
        """Seconds after the start; never less than the row before, since rows keep the file's order."""
        if micros is not None and micros >= _SANE_TIME_MIN:
            self._first = micros if self._first is None else self._first
            self._newest = max(self._newest, micros)
        return 0.0 if self._first is None else (self._newest - self._first) / 1e6 / self._speed


async def _count(acks: AsyncIterator[Ack], reasons: Counter[str]) -> None:
    async for ack in acks:
        reasons.update(row.reason for row in ack.rejected)
