"""From the columns of a file to the fields of events.

What cannot be read is sent so that the server refuses the row with a reason, and the value goes along in `properties`:
a time that is none as 1970 (TIMESTAMP_TOO_OLD), a price or quantity that is none as a price of NaN (INVALID_PRICE), a
line that is no row without an event type (MISSING_EVENT_TYPE).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock.events.v1.events_pb2 import Event
from penstock_client.replay_files import MALFORMED

UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
FIELDS = frozenset((*(field.name for field in Event.DESCRIPTOR.fields), *UTM)) - {"attribution", "properties"}

_NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
_UNREADABLE_TIME = 0
# A Unix time is in seconds, milliseconds, microseconds or nanoseconds, by its magnitude: each unit has its century.
_UNITS = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (0.0, 1e6))


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How rows of a file become events.

    `times` gives int64 microseconds since 1970, null for none; `fields` gives the other columns of the events, under
    the names of Event's fields, and those that go to `properties`, under any other.
    """

    fields: Callable[[pa.Table], dict[str, Any]]
    times: Callable[[pa.Table], Any] | None
    columns: tuple[str, ...] = ()  # of a CSV file without a header
    delimiter: str = ","

    def events(self, table: pa.Table, times: Any, site_id: str = "") -> pa.Table:
        """The rows as `Writer.send_arrow` takes them; `site_id` replaces the rows' own."""
        columns = {name: column for name, column in self.fields(table).items() if column is not None}
        if times is not None:
            columns["timestamp"] = times
        if site_id:
            columns["site_id"] = _constant(site_id, table)
        if MALFORMED in table.column_names:
            malformed = table[MALFORMED]
            kind = columns.get("event_type", _constant("", table))
            columns["event_type"] = pc.if_else(pc.is_valid(malformed), "", kind)
            columns[MALFORMED] = malformed
        return pa.table(columns)


def field_mapping(pairs: Mapping[str, str], *, delimiter: str = ",", header: bool = True) -> RowMapping:
    """A mapping from `field → column`, or `field → 'constant'` in quotes.

    A column that is not mapped keeps its name: it is that field of Event if there is one, else goes to `properties`.
    A file without a header has columns c1, c2, … as far as the mapping names them. Raises ValueError for a field that
    Event has not.
    """
    for name in pairs:
        if name not in FIELDS:
            raise ValueError(f"{name} is no field of an event; the fields are {', '.join(sorted(FIELDS))}")
    constants = {field: value[1:-1] for field, value in pairs.items() if re.fullmatch(r"(['\"]).*\1", value)}
    sources = {field: column for field, column in pairs.items() if field not in constants}

    def fields(table: pa.Table) -> dict[str, Any]:
        _require(table, sources.values())
        taken = set(sources.values())
        named = {name: table[name] for name in table.column_names if name not in taken and name not in pairs}
        mapped = {field: table[column] for field, column in sources.items()}
        made = {**named, **mapped, **{field: _constant(value, table) for field, value in constants.items()}}
        made.pop(MALFORMED, None)
        made.pop("timestamp", None)
        return _readable(made, table, unreadable_of=sources)

    def times(table: pa.Table) -> Any:
        column = sources.get("timestamp", "timestamp")
        return instants(table[column]) if column in table.column_names else None

    numbered = [int(column[1:]) for column in sources.values() if re.fullmatch(r"c[1-9]\d?", column)]
    columns = () if header else tuple(f"c{n}" for n in range(1, max(numbered, default=1) + 1))
    return RowMapping(fields, times, columns, delimiter)


def parse_mapping(arguments: Sequence[str], *, delimiter: str = ",", header: bool = True) -> RowMapping:
    """What the command line says: the name of a preset, or `field=column` pairs. Raises ValueError."""
    if len(arguments) == 1 and "=" not in arguments[0]:
        if arguments[0] not in PRESETS:
            raise ValueError(f"{arguments[0]} is no preset; there are {', '.join(sorted(PRESETS))}, or field=column")
        return PRESETS[arguments[0]]
    pairs = dict(argument.partition("=")[::2] for argument in arguments)
    return field_mapping(pairs, delimiter=delimiter, header=header)


def instants(column: Any) -> Any:
    """Any column of times as int64 microseconds: timestamps, dates, Unix times, or text of those, ISO 8601 or numbers.

    Times without a zone are UTC. What is empty or cannot be read is 1970.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(_UNREADABLE_TIME)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _unix(column.cast(pa.float64()))
    text = column.cast(pa.string())
    if pc.all(pc.match_substring_regex(text, _NUMBER)).as_py():
        return _unix(pc.utf8_trim_whitespace(text).cast(pa.float64()))
    return pa.chunked_array([pa.array([_micros(value) for value in text.to_pylist()], pa.int64())])


def _unix(numbers: Any) -> Any:
    micros = pc.multiply(numbers, _UNITS[-1][1])
    for least, factor in reversed(_UNITS[:-1]):
        micros = pc.if_else(pc.greater_equal(pc.abs(numbers), least), pc.multiply(numbers, factor), micros)
    sane = pc.and_(pc.is_finite(micros), pc.less(pc.abs(micros), 9e18))
    return pc.if_else(sane, micros, 0.0).cast(pa.int64(), safe=False).fill_null(_UNREADABLE_TIME)


def _micros(text: str | None) -> int:
    if not text:
        return _UNREADABLE_TIME
    if re.match(_NUMBER, text):
        return int(_unix(pa.array([float(text)]))[0].as_py())
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return _UNREADABLE_TIME
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)


def numbers(column: Any) -> tuple[Any, Any]:
    """A column as float64, and where it holds something that is no number."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64()), None
    text = column.cast(pa.string())
    given = pc.and_(pc.is_valid(text), pc.not_equal(pc.utf8_trim_whitespace(text), ""))
    readable = pc.and_(given, pc.match_substring_regex(text, _NUMBER)).fill_null(False)
    values = pc.utf8_trim_whitespace(pc.if_else(readable, text, None)).cast(pa.float64())
    return values, pc.and_(given.fill_null(False), pc.invert(readable))


def _readable(columns: dict[str, Any], table: pa.Table, unreadable_of: Mapping[str, str]) -> dict[str, Any]:
    """Numbers as numbers; a price or quantity that is none makes the price NaN, and goes to properties as it was."""
    bad = None
    for name in ("price", "quantity"):
        if columns.get(name) is None:
            continue
        raw = columns[name]
        values, wrong = numbers(raw)
        if name == "quantity":
            whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2**31))
            odd = pc.and_(pc.is_valid(values), pc.invert(whole)).fill_null(False)
            values = pc.if_else(odd, None, values).cast(pa.int32())
            wrong = odd if wrong is None else pc.or_(wrong, odd)
        columns[name] = values
        if wrong is not None and pc.any(wrong).as_py():
            columns[unreadable_of.get(name, name) + "_unreadable"] = pc.if_else(wrong, raw.cast(pa.string()), None)
            bad = wrong if bad is None else pc.or_(bad, wrong)
    if bad is not None:
        columns["price"] = pc.if_else(bad, float("nan"), columns.get("price", pa.nulls(table.num_rows, pa.float64())))
    return columns


def _constant(value: str, table: pa.Table) -> Any:
    return pa.repeat(value, table.num_rows)


def _require(table: pa.Table, columns: Any) -> None:
    missing = sorted(set(columns) - set(table.column_names))
    # A chunk of NDJSON need not hold every name; a file whose every line is malformed holds none.
    if missing and MALFORMED not in table.column_names:
        raise ValueError(f"the file has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")


def _text(column: Any) -> Any:
    return column.cast(pa.string())


def _column(table: pa.Table, name: str) -> Any:
    _require(table, (name,))
    return table[name]


def _online_retail(table: pa.Table) -> dict[str, Any]:
    invoice = _text(_column(table, "InvoiceNo"))
    cancelled = pc.starts_with(invoice, "C")
    columns = {
        "event_type": pc.if_else(cancelled, "refund", "purchase"),
        "order_id": invoice,
        "product_id": table["StockCode"],
        "user_id": _text(table["CustomerID"]),
        "price": table["UnitPrice"],
        "quantity": table["Quantity"],
        "currency": _constant("GBP", table),
        "site_id": _constant("online-retail", table),
        "country": table["Country"],
        "description": table["Description"],
    }
    return _readable(columns, table, {})


def _taobao(table: pa.Table) -> dict[str, Any]:
    behaviour = _column(table, "behaviour")
    names = {"pv": "page_view", "cart": "add_to_cart", "fav": "favorite", "buy": "purchase"}
    event_type = behaviour
    for short, name in names.items():
        event_type = pc.if_else(pc.equal(behaviour, short), name, event_type)
    return {
        "event_type": event_type,
        "user_id": table["user"],
        "product_id": table["item"],
        "category": table["category"],
        "site_id": _constant("taobao", table),
    }


_ESHOP_PROPERTIES = {
    "country": "country",
    "category": "page 1 (main category)",
    "colour": "colour",
    "location": "location",
    "photography": "model photography",
    "price_class": "price 2",
    "clicks": "order",
}


def _eshop_clothing(table: pa.Table) -> dict[str, Any]:
    columns = {
        "event_type": _constant("page_view", table),
        "session_id": _column(table, "session ID"),
        "product_id": table["page 2 (clothing model)"],
        "price": table["price"],
        "currency": _constant("USD", table),
        "path": pc.binary_join_element_wise("/page", table["page"], "/"),
        "site_id": _constant("eshop-clothing", table),
        **{name: table[column] for name, column in _ESHOP_PROPERTIES.items()},
    }
    return _readable(columns, table, {})


def _eshop_times(table: pa.Table) -> Any:
    """The file has days only: clicks of a session stand a second apart from midnight, in their order."""
    day = pc.binary_join_element_wise(
        table["year"], pc.utf8_lpad(table["month"], 2, "0"), pc.utf8_lpad(table["day"], 2, "0"), "-"
    )
    midnight = instants(day)
    seconds, _ = numbers(table["order"])
    micros = pc.multiply(seconds.cast(pa.int64(), safe=False).fill_null(0), 1_000_000)
    return pc.if_else(pc.equal(midnight, _UNREADABLE_TIME), _UNREADABLE_TIME, pc.add(midnight, micros))


PRESETS: dict[str, RowMapping] = {
    "online-retail": RowMapping(_online_retail, lambda table: instants(table["InvoiceDate"])),
    "taobao": RowMapping(
        _taobao, lambda table: instants(table["time"]), ("user", "item", "category", "behaviour", "time")
    ),
    "eshop-clothing": RowMapping(_eshop_clothing, _eshop_times, delimiter=";"),
}
