"""Hands serialised rows to ClickHouse, which parses them itself.

The embedded engine reads them from a file in memory, a server gets them as the body of the statement. They are either
length-delimited protobuf messages of one type, which a statement reads as a table with one row a message, or one Arrow
IPC stream.

A statement that takes a payload is formatted: `{source}` and `{settings}` are filled in, so literal braces in it are
doubled. Settings of its own stand behind: `SETTINGS {settings}, …`.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
from clickhouse_connect.driver.binding import format_query_value, quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.external import ExternalData
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]

# One thread makes one part of an insert: fewer files to flush, and less to merge.
ONE_PART = "max_insert_threads = 1"


@dataclass(frozen=True, slots=True)
class Payload:
    """Rows for one statement."""

    messages: Sequence[tuple[bytes, ...]]  # each message in pieces, which protobuf lets one simply join
    structure: str  # the columns to read, as ClickHouse's `file` and `input` take them
    schema: str = ""  # Protobuf: the .proto source that describes a message, without imports
    message: str = ""  # Protobuf: the message's name in it
    format: Literal["Protobuf", "ArrowStream"] = "Protobuf"

    def chunks(self) -> list[bytes]:
        """The bytes of the payload: protobuf messages each behind its length, an Arrow stream as it is."""
        if self.format == "ArrowStream":
            return [piece for pieces in self.messages for piece in pieces]
        chunks: list[bytes] = []
        for pieces in self.messages:
            chunks.append(_VarintBytes(sum(map(len, pieces))))
            chunks.extend(pieces)
        return chunks


@dataclass(frozen=True, slots=True)
class Write:
    """What goes with a statement that changes something; the embedded engine needs none of it."""

    query_id: str = ""  # by which it can be ended
    fence: str = ""  # the condition, in SQL, under which the statement may still take effect; empty: always

    @property
    def settings(self) -> dict[str, Any]:
        """As clickhouse-connect takes it."""
        return {"query_id": self.query_id} if self.query_id else {}


class PayloadSource(Protocol):
    """Runs statements that take rows along."""

    def insert(self, client: Client, sql: str, payload: Payload, write: Write) -> None:
        """Runs `INSERT … SELECT … FROM {source} …`."""
        ...

    def query(self, client: Client, sql: str, payload: Payload) -> list[dict[str, Any]]:
        """Runs `SELECT … FROM {source} …`."""
        ...

    def insert_arrow(self, client: Client, table: str, rows: pa.Table, write: Write) -> None:
        """Appends an Arrow table to `table`, columns by name."""
        ...

    def close(self) -> None:
        """Leaves nothing behind."""
        ...


class EmbeddedSource:
    """Payloads for chDB: a file in `folder` that lives for one statement.

    The folder is this source's own: what a killed process left in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._folder = folder
        self._schemas: dict[str, Path] = {}

    def insert(self, client: Client, sql: str, payload: Payload, write: Write) -> None:
        self._run(sql, payload, lambda text: client.command(text))

    def query(self, client: Client, sql: str, payload: Payload) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        self._run(sql, payload, lambda text: rows.extend(client.query(text).named_results()))
        return rows

    def insert_arrow(self, client: Client, table: str, rows: pa.Table, write: Write) -> None:
        path = self._written([arrow_file(rows)])
        try:
            # INFILE, not SELECT … FROM file(…): that takes 23 ms where this takes 17 (100,000 narrow rows).
            columns = quoted(rows.schema.names)
            client.command(f"INSERT INTO {table} ({columns}) FROM INFILE {literal(str(path))} FORMAT Arrow")
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, sql: str, payload: Payload, run: Callable[[str], object]) -> None:
        path = self._written(payload.chunks())
        try:
            source = f"file({literal(str(path))}, {payload.format}, {literal(payload.structure)})"
            run(sql.format(source=source, settings=self._settings(payload)))
        finally:
            path.unlink(missing_ok=True)

    def _written(self, chunks: Sequence[bytes]) -> Path:
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(chunks)
        return Path(path)

    def _settings(self, payload: Payload) -> str:
        if payload.format != "Protobuf":
            return ONE_PART
        return f"{ONE_PART}, format_schema = {literal(f'{self._schema(payload)}:{payload.message}')}"

    def _schema(self, payload: Payload) -> Path:
        # A file, not `format_schema_source = 'string'`, which made a statement 0.4 ms longer (3.2 to 3.6 ms).
        path = self._schemas.get(payload.message)
        if path is None:
            path = self._schemas[payload.message] = self._folder / f"{payload.message}.proto"
            path.write_text(payload.schema, encoding="utf-8")
        return path


class HttpSource:
    """Payloads for a ClickHouse server: the body of the statement.

    Everything goes out by `command`, never by clickhouse-connect's insert methods: those send an insert again when the
    connection broke after it, and the rows would be there twice.
    """

    def __init__(self) -> None:
        self._structures: dict[str, dict[str, str]] = {}

    def insert(self, client: Client, sql: str, payload: Payload, write: Write) -> None:
        source = _fenced(f"input({literal(payload.structure)})", write)
        settings = ", ".join([ONE_PART, *(f"{name} = {literal(value)}" for name, value in _schema_of(payload).items())])
        text = sql.format(source=source, settings=settings).rstrip()
        client.command(f"{text} FORMAT {payload.format}", data=b"".join(payload.chunks()), settings=write.settings)

    def query(self, client: Client, sql: str, payload: Payload) -> list[dict[str, Any]]:
        # A SELECT cannot read `input`; a table sent along can hold the same bytes. The server reads it before it parses
        # the statement, so what describes the messages must be in the URL; a SETTINGS clause would come too late.
        external = ExternalData(
            file_name="payload", data=b"".join(payload.chunks()), fmt=payload.format, structure=payload.structure
        )
        text = sql.format(source="payload", settings=ONE_PART)
        result = client.query(text, external_data=external, settings=_schema_of(payload))
        return [dict(row) for row in result.named_results()]

    def insert_arrow(self, client: Client, table: str, rows: pa.Table, write: Write) -> None:
        columns = quoted(rows.schema.names)
        text = f"INSERT INTO {table} ({columns})"
        if write.fence:
            types = self._types(client, table)
            structure = ", ".join(f"{quoted([name])} {types[name]}" for name in rows.schema.names)
            text += f" SELECT {columns} FROM {_fenced(f'input({literal(structure)})', write)}"
        client.command(f"{text} FORMAT Arrow", data=arrow_file(rows), settings=write.settings)

    def close(self) -> None:
        pass  # nothing is kept outside the process

    def _types(self, client: Client, table: str) -> dict[str, str]:
        if table not in self._structures:
            described = client.query(f"DESCRIBE TABLE {table}").named_results()
            self._structures[table] = {row["name"]: row["type"] for row in described}
        return self._structures[table]


def arrow_file(rows: pa.Table) -> bytes:
    """`rows` in the Arrow file format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def quoted(names: Sequence[str]) -> str:
    """Identifiers as a comma-separated list, quoted."""
    return ", ".join(quote_identifier(name) for name in names)


def literal(value: str | int | list[str] | list[int]) -> str:
    """`value` as SQL; with NUL escaped too, because chDB takes a statement as a C string."""
    return str(format_query_value(value)).replace("\0", "\\0")


def _fenced(source: str, write: Write) -> str:
    return f"(SELECT * FROM {source} WHERE {write.fence})" if write.fence else source


def _schema_of(payload: Payload) -> dict[str, str]:
    if payload.format != "Protobuf":
        return {}
    return {
        "format_schema_source": "string",
        "format_schema": payload.schema,
        "format_schema_message_name": payload.message,
    }
