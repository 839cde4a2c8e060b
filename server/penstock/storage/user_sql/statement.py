"""A statement of a user on its way to the engine, and what comes back."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

import orjson

Bound: TypeAlias = "str | int | float | datetime | list[Bound] | tuple[Bound, ...] | None"
Format: TypeAlias = Literal["JSONCompactEachRow", "ArrowStream"]

BLOCK_ROWS = 8_192  # of the larger tables
MIB = 1024 * 1024
EXACT_MAX = 2**53  # a double holds every integer up to here,
EXACT_DIGITS_MAX = 15  # and every decimal of so many digits
_WIDE = re.compile(r"Decimal|Int128|Int256")
_LONG = re.compile(r"Int64")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, as the gate printed it."""

    text: str
    parameters: Mapping[str, Bound] = field(default_factory=dict)
    rows: int = 0  # at most so many rows of the result; 0: all
    tenant: str = ""  # on whose behalf it waits for its turn
    query_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def sql(self) -> str:
        """What the engine is given.

        `limit` is a bound on the result whatever the statement is, also of a UNION, and where it has a LIMIT of its own
        too; it is one of the two settings that `readonly` lets a statement say.
        """
        return f"{self.text}\nSETTINGS limit = {self.rows:d}" if self.rows else self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """What a statement took."""

    rows_read: int = 0
    bytes_read: int = 0
    elapsed_ms: float = 0.0
    memory_bytes: int | None = None  # the most that was seen; None when it ended before anybody looked

    def rounded(self) -> "Usage":
        """What may be shown: rows in whole blocks, bytes in whole MiB.

        The engine reads whole blocks, in which other tenants' rows lie beside the caller's, and counts all of them.
        """
        memory = None if self.memory_bytes is None else _up(self.memory_bytes, MIB)
        return replace(
            self, rows_read=_up(self.rows_read, BLOCK_ROWS), bytes_read=_up(self.bytes_read, MIB), memory_bytes=memory
        )


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result; the type as ClickHouse writes it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole result; values are what JSON has."""

    columns: tuple[Column, ...]
    rows: Sequence[list[object]]
    usage: Usage
    size: int = 0  # of its JSON in bytes


def parsed_answer(data: bytes) -> Answer:
    """What `FORMAT JSONCompact` says."""
    columns = _columns(data)
    found = loaded(data, columns)
    assert isinstance(found, dict)
    rows: list[list[object]] = found["data"]
    statistics = found.get("statistics", {})
    usage = Usage(statistics.get("rows_read", 0), statistics.get("bytes_read", 0), statistics.get("elapsed", 0.0) * 1e3)
    return Answer(columns, exact(rows, columns), usage, len(data))


def parsed_rows(lines: bytes, columns: Sequence[Column]) -> list[list[object]]:
    """What lines of `FORMAT JSONCompactEachRow` say."""
    rows = loaded(b"[" + b",".join(lines.splitlines()) + b"]", columns)
    assert isinstance(rows, list)
    return exact(rows, columns)


def _columns(data: bytes) -> tuple[Column, ...]:
    # The head of the text is read apart, because how the rest is read depends on the types in it.
    head = json.JSONDecoder().raw_decode(data[data.index(b"[") : data.index(b'"data":')].decode())[0]
    return tuple(Column(column["name"], column["type"]) for column in head)


def loaded(data: bytes, columns: Sequence[Column]) -> object:
    """JSON, with numbers that a double would change as the strings of their digits."""
    if not any(_WIDE.search(column.type) for column in columns):
        return orjson.loads(data)
    return json.loads(data, parse_float=_decimal, parse_int=_integer)


def exact(rows: list[list[object]], columns: Sequence[Column]) -> list[list[object]]:
    """`rows`, with integers beyond 2^53 as strings. Only columns that may hold such are looked at."""
    suspects = [index for index, column in enumerate(columns) if _LONG.search(column.type)]
    for row in rows:
        for index in suspects:
            value = row[index]
            if type(value) is not int or not -EXACT_MAX <= value <= EXACT_MAX:
                row[index] = _exact(value)
    return rows


def _exact(value: object) -> object:
    if type(value) is int:
        return value if -EXACT_MAX <= value <= EXACT_MAX else str(value)
    if type(value) is list:
        return [_exact(each) for each in value]
    if type(value) is dict:
        return {key: _exact(each) for key, each in value.items()}
    return value


def _integer(digits: str) -> int | str:
    value = int(digits)
    return value if -EXACT_MAX <= value <= EXACT_MAX else digits


def _decimal(digits: str) -> float | str:
    significant = digits.lstrip("-0.").replace(".", "")
    if "." in digits and "e" not in digits:
        significant = significant.rstrip("0")
    if len(significant) <= EXACT_DIGITS_MAX or "e" in digits:
        return float(digits)
    shortest = float(digits)
    return shortest if repr(shortest) == digits else digits
