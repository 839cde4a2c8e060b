"""Reads a filter: comparisons of a column with a value, joined by AND, after AIP-160.

The rest of that language (OR, NOT, parentheses, functions) is left out, and said to be. What is read becomes SQL with
its values bound, and names only columns that the table declares.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from uuid import UUID

from penstock.errors import InvalidInput, invalid_field
from penstock.pipeline.tables import Column, Kind, Table

COMPARISONS_MAX = 20

_COMPARISON = re.compile(
    r"""\s*(?P<name>[A-Za-z_]\w*)\s*(?P<operator>!=|<=|>=|=|<|>)\s*
    (?: "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)' | (?P<bare>[^\s"'()]+) )\s*""",
    re.VERBOSE | re.DOTALL,
)
_AND = re.compile(r"AND\b")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_QUOTED = frozenset({Kind.STRING, Kind.UUID, Kind.TIMESTAMP, Kind.DATE})
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter as SQL; `names` are the columns that it asks for."""

    sql: str
    parameters: Mapping[str, int | float | str]
    names: frozenset[str]


def condition(text: str, table: Table) -> Condition:
    """The condition that `text` says; empty text holds for every row. Raises InvalidInput (INVALID_FILTER)."""
    parts: list[str] = []
    parameters: dict[str, int | float | str] = {}
    names: set[str] = set()
    place = 0
    while place < len(text) and (parts or text.strip()):
        if parts:
            both = _AND.match(text, place)
            if both is None:
                raise _wrong(f"comparisons are joined by AND, and by nothing else, at character {place + 1}")
            place = both.end()
        found = _COMPARISON.match(text, place)
        if found is None:
            raise _wrong(f'a comparison, such as event_type = "purchase", is expected at character {place + 1}')
        if len(parts) == COMPARISONS_MAX:
            raise _wrong(f"it holds more than {COMPARISONS_MAX} comparisons")
        column = table.column(found["name"])
        if column is None:
            known = ", ".join(each.name for each in table.columns)
            raise _wrong(f"{found['name']}: {table.name} has no such column; it has {known}")
        sql, value = _compared(column, found, f"filter_{len(parts)}")
        parts.append(sql)
        parameters |= value
        names.add(column.name)
        place = found.end()
    return Condition(" AND ".join(parts) or "1", parameters, frozenset(names))


def _compared(column: Column, found: re.Match[str], parameter: str) -> tuple[str, dict[str, int | float | str]]:
    operator, bare = found["operator"], found["bare"]
    if column.kind in (Kind.MAP, Kind.LIST):
        raise _wrong(f"{column.name}: a {column.kind.value} cannot be compared")
    if bare == "null":
        if not column.nullable or operator not in ("=", "!="):
            raise _wrong(f"{column.name}: null goes with = and != alone, and with columns that may be null")
        return f"{column.name} IS {'NOT ' if operator == '!=' else ''}NULL", {}
    if (bare is None) != (column.kind in _QUOTED):
        quotes = "in quotes" if column.kind in _QUOTED else "without quotes"
        raise _wrong(f"{column.name}: a {column.kind.value} stands {quotes}")
    quoted = found["double"] if found["double"] is not None else found["single"]
    value = bare if bare is not None else _ESCAPED.sub(r"\1", quoted)
    try:
        bound, said = bound_value(column.kind, value, parameter)
    except (ValueError, InvalidOperation, OverflowError) as error:
        raise _wrong(f"{column.name}: {value[:64]!r} is no {column.kind.value}") from error
    return f"{column.name} {operator} {bound}", {parameter: said}


def bound_value(kind: Kind, value: str, name: str) -> tuple[str, int | float | str]:
    """A value as SQL, and what it binds. Raises ValueError, InvalidOperation or OverflowError."""
    match kind:
        case Kind.UUID:
            return f"toUUID({{{name}:String}})", str(UUID(value))
        case Kind.TIMESTAMP:
            return f"fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')", micros(_time(value))
        case Kind.DATE:
            return f"toDate32({{{name}:String}})", date.fromisoformat(value).isoformat()
        case Kind.INTEGER:
            if int(value) not in _INT64:
                raise ValueError(value)
            return f"{{{name}:Int64}}", int(value)
        case Kind.DECIMAL | Kind.NUMBER:
            number = Decimal(value)
            if not number.is_finite() or abs(number) >= 10**30:
                raise ValueError(value)
            if kind is Kind.NUMBER:
                return f"{{{name}:Float64}}", float(number)
            return f"toDecimal256({{{name}:String}}, 12)", f"{number:f}"
        case Kind.BOOLEAN:
            return f"{{{name}:UInt8}}", _truth(value)
    return f"{{{name}:String}}", value


def _truth(value: str) -> int:
    if value not in ("true", "false"):
        raise ValueError(value)
    return int(value == "true")


def _time(value: str) -> datetime:
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError(value)
    return found


def micros(time: datetime) -> int:
    """Microseconds since the epoch."""
    since = time.astimezone(UTC) - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _wrong(why: str) -> InvalidInput:
    return invalid_field("filter", why, reason="INVALID_FILTER")
