"""Runs what users wrote in the engine of this process."""

import contextlib
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import chdb
import pyarrow as pa
from chdb.state.sqlitelike import Connection
from clickhouse_connect.driver.binding import bind_query

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
from penstock.storage.user_sql.limits import NARROW_EMBEDDED, Limit
from penstock.storage.user_sql.statement import Format, Statement

_SAMPLES = SAMPLES.format(mark="Settings['log_comment']", prefix=MARK_PREFIX)


class EmbeddedHandle:
    """A handle of chDB's own: clickhouse-connect's tells neither what a statement read nor streams Arrow."""

    spoils = True  # what a failed statement had written already, chDB puts before the result of the next one

    def __init__(self, path: Path, bounds: Mapping[str, Limit]) -> None:
        self._handle: Connection = chdb.connect(str(path.resolve()))  # type: ignore[no-untyped-call]
        # A comment in the text would be the statement's own, but a statement with parameters loses it.
        self._mark = f"{MARK_PREFIX}{uuid.uuid4().hex}"
        wanted = settings_of(bounds, {**NARROW_EMBEDDED, "log_comment": self._mark})
        self._handle.query("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in wanted.items()))

    def mark(self, statement: Statement) -> str:
        return self._mark

    def answer(self, statement: Statement) -> bytes:
        text, parameters = _bound(statement)
        with _errors():
            return bytes(self._handle.query(text, "JSONCompact", params=parameters).bytes())

    def pieces(self, statement: Statement, form: Format) -> Generator[Piece, None, None]:
        text, parameters = _bound(statement)
        with _errors(), self._handle.send_query(text, form, params=parameters) as stream:
            blocks = (
                Piece(bytes(block.bytes()), block.storage_rows_read(), block.storage_bytes_read())
                for block in iter(stream.fetch, None)
            )
            yield from blocks if form == "JSONCompactEachRow" else self._arrow(blocks, statement)

    def _arrow(self, blocks: Iterator[Piece], statement: Statement) -> Iterator[Piece]:
        """chDB writes each block as an Arrow stream of its own, and none where there are no rows."""
        empty = True
        for block in blocks:
            empty = False
            with pa.ipc.open_stream(block.data) as reader:
                for number, batch in enumerate(small(reader)):
                    yield Piece(stream_of(batch)) if number else replace(block, data=stream_of(batch))
        if empty:
            nothing = Statement(f"SELECT * FROM (\n{statement.text}\n) LIMIT 0", statement.parameters)
            text, parameters = _bound(nothing)
            yield Piece(bytes(self._handle.query(text, "ArrowStream", params=parameters).bytes()))

    def close(self) -> None:
        self._handle.close()


class EmbeddedControl:
    """Finds statements by a setting of their handle, because chDB does not let one choose a query id."""

    def __init__(self, path: Path) -> None:
        self._handle: Connection = chdb.connect(str(path.resolve()))  # type: ignore[no-untyped-call]

    def stop(self, mark: str) -> None:
        with _errors():
            self._handle.query(f"KILL QUERY WHERE Settings['log_comment'] = {literal(mark)} ASYNC")

    def samples(self) -> Mapping[str, Sample]:
        with _errors():
            lines = self._handle.query(_SAMPLES, "TabSeparated").bytes().decode().splitlines()
        return samples_of(line.split("\t") for line in lines)

    def close(self) -> None:
        self._handle.close()


def _bound(statement: Statement) -> tuple[str, dict[str, str]]:
    """The text, and the parameters as chDB takes them."""
    text, parameters = bind_query(statement.sql, dict(statement.parameters))
    assert isinstance(text, str)
    return text, {name.removeprefix("param_"): value for name, value in parameters.items()}


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # which chDB's own errors are
        raise engine_error(str(error)) from error
