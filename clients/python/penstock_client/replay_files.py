"""Reads CSV, NDJSON and Parquet files of any size, row by row in their order, compressed or not.

A chunk is a table of at most CHUNK_ROWS rows. Columns of text formats are text: what they mean is the mapping's matter,
and a value that is no number, or no time, must not stop the file. A line that is no row at all is a row nevertheless,
with nothing in it but MALFORMED, so that row n of the file stays row n of the stream.
"""

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

CHUNK_ROWS = 10_000
MALFORMED = "malformed_row"
BUFFER_BYTES = 1024 * 1024
COMPRESSED: dict[str, Callable[[IO[bytes]], Any]] = {
    ".xz": lzma.LZMAFile,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file."""

    table: pa.Table
    lines: Sequence[int]  # where each begins in the file, from 1; of Parquet, which has no lines, the number of the row
    fraction: float  # of the file that is read with them, by bytes or rows


def chunks(path: Path, skip: int, *, columns: tuple[str, ...], delimiter: str) -> Iterator[Chunk]:
    """The rows of a file behind the first `skip`.

    `columns` names the columns of a CSV file without a header, `delimiter` separates them. The format follows from the
    name: .csv, .tsv, .ndjson, .jsonl, .parquet, and .xz or .gz behind any but the last. Raises ValueError for others.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    unpack = COMPRESSED.get(suffixes[-1]) if suffixes else None
    kind = suffixes[-2] if unpack and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind == ".parquet" and unpack is None:
        yield from _parquet(path, skip)
        return
    if kind not in (".csv", ".tsv", ".ndjson", ".jsonl"):
        raise ValueError(f"{path.name}: must end in .csv, .tsv, .ndjson, .jsonl (or these with .xz, .gz) or .parquet")
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        size = max(path.stat().st_size, 1)
        data = stack.enter_context(io.BufferedReader(unpack(file), BUFFER_BYTES)) if unpack else file
        # Bytes that are not UTF-8 become replacement characters, for the server to judge.
        text = stack.enter_context(io.TextIOWrapper(data, encoding="utf-8-sig", errors="replace", newline=""))
        if kind in (".ndjson", ".jsonl"):
            tables = _ndjson(text, skip)
        else:
            tables = _csv(text, skip, columns, "\t" if kind == ".tsv" else delimiter)
        for table, lines in tables:
            yield Chunk(table, lines, min(1.0, file.tell() / size))


def _parquet(path: Path, skip: int) -> Iterator[Chunk]:
    with pq.ParquetFile(path) as file:
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(CHUNK_ROWS):
            first = max(0, skip - done)
            done += batch.num_rows
            if first < batch.num_rows:
                table = pa.Table.from_batches([batch.slice(first)])
                yield Chunk(table, range(done - table.num_rows + 1, done + 1), done / total)


def _csv(
    text: Iterator[str], skip: int, columns: tuple[str, ...], delimiter: str
) -> Iterator[tuple[pa.Table, Sequence[int]]]:
    reader = csv.reader(text, delimiter=delimiter)
    names = list(columns) or [name.strip() for name in next(reader, [])]

    def numbered() -> Iterator[tuple[int, list[str]]]:
        begin = reader.line_num + 1
        for row in reader:
            if row:  # blank lines are no rows, as everywhere
                yield begin, row
            begin = reader.line_num + 1

    rows = islice(numbered(), skip, None)
    width, nothing = len(names), [None] * len(names)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        lines, read = zip(*chunk, strict=True)
        malformed = [None if len(row) == width else delimiter.join(row) for row in read]
        whole = [row if len(row) == width else nothing for row in read]
        yield _texts(dict(zip(names, map(list, zip(*whole, strict=True)), strict=True)), malformed), lines


def _ndjson(text: Iterator[str], skip: int) -> Iterator[tuple[pa.Table, Sequence[int]]]:
    rows = islice(((number, line) for number, line in enumerate(text, 1) if line.strip()), skip, None)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        objects = [_json_object(line) for _, line in chunk]
        malformed = [line.strip() if each is None else None for (_, line), each in zip(chunk, objects, strict=True)]
        flat = [_flat(each or {}) for each in objects]
        names = dict.fromkeys(name for each in flat for name in each)
        table = _texts({name: [each.get(name) for each in flat] for name in names}, malformed)
        yield table, [number for number, _ in chunk]


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _flat(row: dict[str, Any]) -> dict[str, str]:
    """One level of columns: entries of `properties` are columns of their own, those of `attribution` utm columns."""
    properties, attribution = row.get("properties"), row.get("attribution")
    merged = {**properties, **row} if isinstance(properties, dict) else dict(row)
    if isinstance(properties, dict):
        del merged["properties"]
    if isinstance(attribution, dict):
        del merged["attribution"]
        merged |= {f"utm_{name}": value for name, value in attribution.items()}
    return {name: _json_text(value) for name, value in merged.items() if value is not None}


def _json_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(columns: dict[str, list[str | None]], malformed: list[str | None]) -> pa.Table:
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    if any(line is not None for line in malformed):
        arrays[MALFORMED] = pa.array(malformed, pa.string())
    return pa.table(arrays) if arrays else pa.table({MALFORMED: pa.array(malformed, pa.string())})
