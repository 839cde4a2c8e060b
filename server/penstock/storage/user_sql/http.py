"""Runs what users wrote on a ClickHouse server."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3 import Timeout

from penstock.storage.connection import CONNECT_S
from penstock.storage.payload import literal
from penstock.storage.user_sql.failures import engine_error
from penstock.storage.user_sql.handles import (
    MARK_PREFIX,
    SAMPLES,
    Piece,
    Sample,
    samples_of,
    settings_of,
    small,
    stream_of,
)
from penstock.storage.user_sql.limits import Limit
from penstock.storage.user_sql.statement import Format, Statement

ANSWER_S = 5.0  # after a statement's own time is up, a server has so long to say so
READ_BYTES = 256 * 1024
# A server that fails when the first bytes are out says so in the body, where the rows would go on.
FAILURE = b"__exception__\r\n"
FAILURE_BYTES = 32 * 1024
_MESSAGE = re.compile(rb"Code: \d+\. DB::Exception: [^\r]*", re.DOTALL)
_SAMPLES = SAMPLES.format(mark="query_id", prefix=MARK_PREFIX)


class HttpHandle:
    """A connection to a server; bounds and mark go with every statement."""

    spoils = False

    def __init__(self, connect: Callable[[], Client], bounds: Mapping[str, Limit]) -> None:
        self._client = connect()
        self._settings = settings_of(bounds)
        if isinstance(self._client, HttpClient):
            seconds = bounds["max_execution_time"].value
            self._client.timeout = Timeout(connect=CONNECT_S, read=seconds + ANSWER_S)

    def mark(self, statement: Statement) -> str:
        return f"{MARK_PREFIX}{statement.query_id}"

    def answer(self, statement: Statement) -> bytes:
        return self._client.raw_query(
            statement.sql, dict(statement.parameters), settings=self._with(statement), fmt="JSONCompact"
        )

    def pieces(self, statement: Statement, form: Format) -> Generator[Piece, None, None]:
        body = self._client.raw_stream(
            statement.sql, dict(statement.parameters), settings=self._with(statement), fmt=form
        )
        assert isinstance(body, io.IOBase)
        with contextlib.closing(body):
            read = iter(lambda: cast(io.RawIOBase, body).read(READ_BYTES) or b"", b"")
            yield from map(Piece, _whole_lines(read) if form == "JSONCompactEachRow" else _whole_streams(read))

    def _with(self, statement: Statement) -> dict[str, Any]:
        return {**self._settings, "query_id": self.mark(statement)}

    def close(self) -> None:
        self._client.close()


class HttpControl:
    """Finds statements by their query id."""

    def __init__(self, connect: Callable[[], Client], cluster: str) -> None:
        self._client = connect()
        self._on_cluster = f" ON CLUSTER {literal(cluster)}" if cluster else ""

    def stop(self, mark: str) -> None:
        self._client.command(f"KILL QUERY{self._on_cluster} WHERE query_id IN {literal([mark])} SYNC")

    def samples(self) -> Mapping[str, Sample]:
        return samples_of(self._client.query(_SAMPLES).result_rows)

    def close(self) -> None:
        self._client.close()


def _whole_lines(read: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in read:
        head, newline, tail = piece.rpartition(b"\n")
        if newline:
            _check(rest + head + newline + tail, read)
            yield rest + head + newline
            rest = tail
        else:
            rest += piece
    if rest:
        _check(rest, read)
        yield rest


def _whole_streams(read: Iterator[bytes]) -> Iterator[bytes]:
    with pa.ipc.open_stream(_Body(read)) as reader:
        empty = True
        for batch in small(reader):
            empty = False
            yield stream_of(batch)
        if empty:
            yield stream_of(pa.RecordBatch.from_pylist([], schema=reader.schema))


def _check(piece: bytes, more: Iterator[bytes]) -> None:
    """Raises what the server says in the body, where it does."""
    start = piece.find(FAILURE, max(0, len(piece) - FAILURE_BYTES))
    if start >= 0:
        message = _MESSAGE.search(piece[start:] + b"".join(more))
        raise engine_error(message[0].decode(errors="replace")) if message else DatabaseError("the server broke off")


class _Body(io.RawIOBase):
    """A server's answer as a file, which fails where the server says that it failed."""

    def __init__(self, read: Iterator[bytes]) -> None:
        super().__init__()
        self._read = read
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = sys.maxsize if size is None or size < 0 else size
        while len(self._rest) < wanted and (piece := next(self._read, b"")):
            _check(piece, self._read)
            self._rest += piece
        taken, self._rest = self._rest[:wanted], self._rest[wanted:]
        return taken
