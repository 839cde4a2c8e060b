"""What a connection must be able to do to run what users wrote; `embedded` and `http` are the two that there are.

Handles are blocking and belong to one statement at a time. Errors are clickhouse-connect's, of either.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa

from penstock import limits
from penstock.storage.user_sql.limits import NARROW, WRITING, Limit
from penstock.storage.user_sql.statement import Format, Statement

MARK_PREFIX = "penstock-user/"
SAMPLES = """
SELECT {mark} AS mark, read_rows, read_bytes, peak_memory_usage
FROM system.processes
WHERE startsWith(mark, '{prefix}')
"""
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a statement has taken so far."""

    rows_read: int
    bytes_read: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a result, and what was read for it; a server does not say that until the end."""

    data: bytes
    rows_read: int = 0
    bytes_read: int = 0


class Handle(Protocol):
    """Runs one statement at a time, read-only and within its lane's bounds."""

    spoils: bool
    """Whether a statement that failed, or was left, leaves something behind for the handle's next one."""

    def mark(self, statement: Statement) -> str:
        """By which a `Control` knows the statement while it runs on this handle."""
        ...

    def answer(self, statement: Statement) -> bytes:
        """The whole result in JSONCompact."""
        ...

    def pieces(self, statement: Statement, form: Format) -> Generator[Piece, None, None]:
        """The result as it is found: whole lines, or whole Arrow streams. Closing it stops the work."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class Control(Protocol):
    """Looks at statements of other handles, and stops them."""

    def stop(self, mark: str) -> None:
        """Has the engine stop the statement; it may not have begun, so ask until it has ended."""
        ...

    def samples(self) -> Mapping[str, Sample]:
        """What the running statements have taken, by mark."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


Settings = Mapping[str, str | int]


def settings_of(bounds: Mapping[str, Limit], more: Settings | None = None) -> dict[str, str | int]:
    """Every setting of a lane; `readonly` last."""
    return {**{name: bound.value for name, bound in bounds.items()}, **WRITING, **(more or {}), **NARROW}


def samples_of(rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> dict[str, Sample]:
    """What SAMPLES found, by mark."""
    return {str(mark): Sample(int(read), int(size), max(0, int(memory))) for mark, read, size, memory in rows}


def small(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most SQL_STREAM_BYTES, or of one row."""
    for batch in batches:
        if batch.nbytes <= limits.SQL_STREAM_BYTES or batch.num_rows <= 1:
            yield batch
        else:
            half = batch.num_rows // 2
            yield from small((batch.slice(0, half), batch.slice(half)))


def stream_of(batch: pa.RecordBatch) -> bytes:
    """The batch as a whole Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_LZ4) as writer:
        writer.write_batch(batch)
    return cast(bytes, sink.getvalue().to_pybytes())
