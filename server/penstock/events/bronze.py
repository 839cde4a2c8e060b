"""The statements that put batches into bronze: the engine parses the rows, checks them, and keeps the good ones.

Both forms of a batch, messages and columns, are brought to the same flat columns, so the checks stand here once.
"""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from penstock import limits
from penstock.events import engine_schema
from penstock.events.batch import BadRow
from penstock.storage.payload import Payload

# Fields of `Event` that are plain strings, with the bound that each has.
IDS = ("user_id", "visitor_id", "session_id", "site_id", "product_id", "order_id")
ADDRESSES = ("url", "path", "referrer")
UTM = ("source", "medium", "campaign", "term", "content")
PLAIN_TEXTS = ("event_type", *IDS, "currency", *ADDRESSES)  # those that are stored as they came
STAMPS = ("batch", "tenant", "stream_id", "first_offset", "row_count", "client_address", "user_agent")

# The flat columns: name, its ClickHouse type in an Arrow batch, its Arrow type, and its path in a message.
FLAT: tuple[tuple[str, str, pa.DataType, str], ...] = (
    ("event_id", "String", pa.string(), "event_id"),
    ("event_type", "String", pa.string(), "event_type"),
    ("seconds", "Nullable(Int64)", pa.int64(), "timestamp.seconds"),
    ("nanos", "Int32", pa.int32(), "timestamp.nanos"),
    *((name, "String", pa.string(), name) for name in IDS),
    ("price", "Nullable(Float64)", pa.float64(), "price"),
    ("quantity", "Nullable(Int32)", pa.int32(), "quantity"),
    ("currency", "String", pa.string(), "currency"),
    *((name, "String", pa.string(), name) for name in ADDRESSES),
    *((f"utm_{name}", "String", pa.string(), f"attribution.{name}") for name in UTM),
    ("properties", "Map(String, String)", pa.map_(pa.string(), pa.string()), "properties"),
)
STAMP_TYPES = {
    "batch": "UInt32",
    "tenant": "String",
    "stream_id": "String",
    "first_offset": "Int64",
    "row_count": "UInt32",
    "client_address": "String",
    "user_agent": "String",
}
_MESSAGE_STRUCTURE = ", ".join(
    [f"{name} {kind}" for name, kind in STAMP_TYPES.items()]
    + [f"`event_rows.events.{path}` Array({kind})" for _, kind, _, path in FLAT]
)
# Columns carry their time as microseconds, which the engine takes apart faster than Python.
COLUMNS = (
    ("micros", "Nullable(Int64)", pa.int64()),
    *((n, k, a) for n, k, a, _ in FLAT if n not in ("seconds", "nanos")),
)
_COLUMN_STRUCTURE = ", ".join(
    [f"{name} {kind}" for name, kind in STAMP_TYPES.items()]
    + ["row UInt32"]
    + [f"{name} {kind}" for name, kind, _ in COLUMNS]
)
_BATCH_SOURCE = engine_schema.batch_source()

# A message in which the engine finds another number of rows than the edge did (a forged repetition of fields) is left
# out, so that the count of what was stored gives it away.
_FROM_MESSAGES = f"""
    SELECT {", ".join(STAMPS)}, toUInt32(position - 1) AS row, {", ".join(name for name, *_ in FLAT)}
    FROM {{source}}
    ARRAY JOIN arrayEnumerate(`event_rows.events.event_id`) AS position,
        {", ".join(f"`event_rows.events.{path}` AS {name}" for name, _, _, path in FLAT)}
    WHERE length(`event_rows.events.event_id`) = row_count
"""
_FROM_COLUMNS = """
    SELECT
        *,
        intDiv(micros, 1000000) AS seconds,
        toInt32(if(ifNull(micros, 0) < 0, 0, ifNull(micros, 0) % 1000000) * 1000) AS nanos
    FROM {source}
"""


# What is wrong with a row: the reason (with the field behind it where the reason alone does not name it) and, in SQL,
# when it holds. The first that holds is the row's. `@now` is the second of the commit.
_TEXTS = {
    "event_type": limits.EVENT_TYPE_CHARS_MAX,
    **dict.fromkeys((*IDS, *(f"utm_{name}" for name in UTM)), limits.ID_CHARS_MAX),
}
FAULTS: tuple[tuple[str, str], ...] = (
    ("MISSING_EVENT_TYPE", "empty(event_type)"),
    # Characters are counted only where the bytes, which are known at once, are too many.
    *(
        (f"FIELD_TOO_LONG {name}", f"length({name}) > {bound} AND lengthUTF8({name}) > {bound}")
        for name, bound in _TEXTS.items()
    ),
    *((f"FIELD_TOO_LONG {name}", f"length({name}) > {limits.URL_BYTES_MAX}") for name in ADDRESSES),
    ("INVALID_EVENT_ID", "notEmpty(event_id) AND (length(event_id) != 36 OR toUUIDOrNull(event_id) IS NULL)"),
    ("INVALID_TIMESTAMP", "nanos < 0 OR nanos > 999999999"),
    (
        "TIMESTAMP_TOO_OLD",
        f"ifNull(seconds, @now) < {limits.EVENT_TIME_SECONDS_MIN} OR (nanos != 0 AND isNull(seconds))",
    ),
    ("TIMESTAMP_IN_FUTURE", f"ifNull(seconds, @now) > @now + {limits.EVENT_FUTURE_SECONDS_MAX}"),
    ("INVALID_PRICE", f"NOT (abs(ifNull(price, 0)) <= {limits.PRICE_MAGNITUDE_MAX})"),
    ("INVALID_CURRENCY", "notEmpty(currency) AND (length(currency) != 3 OR NOT match(currency, '^[A-Za-z]+$'))"),
    ("TOO_MANY_PROPERTIES", f"length(properties) > {limits.PROPERTIES_MAX}"),
    (
        "INVALID_PROPERTY",
        "arrayExists((key, value) -> empty(key)"
        f" OR length(key) > {limits.PROPERTY_KEY_BYTES_MAX} OR length(value) > {limits.PROPERTY_VALUE_BYTES_MAX},"
        " mapKeys(properties), mapValues(properties))",
    ),
)
# The reason of a row, '' for a good one.
REASON = f"multiIf({', '.join(f'{holds}, {reason!r}' for reason, holds in FAULTS)}, '')"
# A row for which this holds is good. It is what an insert filters by, and says less than "no fault holds": texts are
# measured in bytes, not characters, so it leaves out a text of 200 umlauts that is within its bound; the count then
# gives that away, and a second insert takes REST. What it buys: to analyse REASON takes the engine 30 ms, however few
# the rows are, and this a third of that.
SURELY_GOOD = f"""NOT (
    empty(event_type) OR length(event_type) > {limits.EVENT_TYPE_CHARS_MAX}
    OR greatest({", ".join(f"length({name})" for name in _TEXTS if name != "event_type")}) > {limits.ID_CHARS_MAX}
    OR greatest({", ".join(f"length({name})" for name in ADDRESSES)}) > {limits.URL_BYTES_MAX}
    OR (notEmpty(event_id) AND (length(event_id) != 36 OR isNull(toUUIDOrNull(event_id))))
    OR nanos < 0 OR nanos > 999999999 OR (nanos != 0 AND isNull(seconds))
    OR ifNull(seconds, @now) < {limits.EVENT_TIME_SECONDS_MIN}
    OR ifNull(seconds, @now) > @now + {limits.EVENT_FUTURE_SECONDS_MAX}
    OR NOT (abs(ifNull(price, 0)) <= {limits.PRICE_MAGNITUDE_MAX})
    OR NOT match(currency, '^([A-Za-z][A-Za-z][A-Za-z])?$')
    OR length(properties) > {limits.PROPERTIES_MAX}
    OR arrayExists((key, value) -> empty(key) OR length(key) > {limits.PROPERTY_KEY_BYTES_MAX}
        OR length(value) > {limits.PROPERTY_VALUE_BYTES_MAX}, mapKeys(properties), mapValues(properties))
)"""

# Good all the same.
REST = f"{REASON} = '' AND NOT ({SURELY_GOOD})"

MESSAGES = {
    "MISSING_EVENT_TYPE": "event_type: must be set",
    "INVALID_EVENT_ID": "event_id: must be a UUID in its 36-character form, or absent",
    "INVALID_TIMESTAMP": "timestamp: nanos must be in [0, 999999999]",
    "TIMESTAMP_TOO_OLD": "timestamp: must not be before 2000-01-01T00:00:00Z; mend it or leave it out",
    "TIMESTAMP_IN_FUTURE": "timestamp: must not be more than a day ahead of the server's clock",
    "INVALID_PRICE": f"price: must be finite and its magnitude at most {limits.PRICE_MAGNITUDE_MAX}",
    "INVALID_CURRENCY": "currency: must be the three letters of an ISO 4217 code, or absent",
    "TOO_MANY_PROPERTIES": f"properties: must have at most {limits.PROPERTIES_MAX} entries",
    "INVALID_PROPERTY": (
        f"properties: keys must have 1 to {limits.PROPERTY_KEY_BYTES_MAX} bytes,"
        f" values at most {limits.PROPERTY_VALUE_BYTES_MAX}"
    ),
}
_BOUNDS = {
    "event_type": f"{limits.EVENT_TYPE_CHARS_MAX} characters",
    **dict.fromkeys(ADDRESSES, f"{limits.URL_BYTES_MAX} bytes"),
}

# One thread, because a second gains the engine nothing here (measured) and costs the connections their core.
#
# Price to six decimals: multiplied and rounded as a double, then read as the Decimal's own integer, because a cast from
# Float64 cuts off (2.55 would become 2.549999).
INSERT = f"""
INSERT INTO bronze_events
SELECT
    tenant, @commit, stream_id, first_offset + row,
    if(event_id = '', generateUUIDv7(), toUUIDOrZero(event_id)),
    event_type,
    if(seconds IS NULL, @time, fromUnixTimestamp64Micro(assumeNotNull(seconds) * 1000000 + intDiv(nanos, 1000), 'UTC')),
    {", ".join(IDS)},
    if(price IS NULL, NULL, reinterpret(toInt64(round(assumeNotNull(price) * 1000000)), 'Decimal(18, 6)')),
    quantity,
    upper(currency),
    {", ".join(ADDRESSES)},
    {", ".join(f"utm_{name}" for name in UTM)},
    properties, @time, client_address, user_agent
FROM (@flat)
WHERE @rows
SETTINGS {{settings}}, max_threads = 1
"""

VERDICT = f"""
SELECT batch, row, {REASON} AS reason
FROM (@flat)
WHERE reason != ''
ORDER BY batch, row
SETTINGS {{settings}}
"""

# What the engine read of each batch, to be held against what the edge saw.
COUNT = "SELECT count() AS rows FROM bronze_events WHERE tenant IN {tenants:Array(String)} AND commit = {commit:Int64}"


def filled(sql: str, *, columns: bool, commit: int, time: datetime, rows: str = SURELY_GOOD) -> str:
    """`sql` for one commit and those `rows`; `{source}` and `{settings}` are left for the payload."""
    micros = int(time.timestamp() * 1_000_000)
    return (
        sql.replace("@flat", _FROM_COLUMNS if columns else _FROM_MESSAGES)
        .replace("@rows", rows)
        .replace("@commit", str(commit))
        .replace("@now", str(micros // 1_000_000))
        .replace("@time", f"fromUnixTimestamp64Micro({micros}, 'UTC')")
    )


def message_payload(messages: Sequence[tuple[bytes, ...]]) -> Payload:
    """Batches as messages: each the bytes of its requests, and a stamp."""
    return Payload(messages, _MESSAGE_STRUCTURE, _BATCH_SOURCE, "Batch")


def column_payload(tables: Sequence[pa.Table]) -> Payload:
    """Batches as columns: stamped tables of one schema."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return Payload([(sink.getvalue().to_pybytes(),)], _COLUMN_STRUCTURE, format="ArrowStream")


def bad_row(index: int, verdict: str) -> BadRow:
    """The row's reason and what a person is told, from the engine's verdict."""
    reason, _, field = verdict.partition(" ")
    if field:
        return BadRow(
            index, reason, f"{field}: must be at most {_BOUNDS.get(field, f'{limits.ID_CHARS_MAX} characters')}"
        )
    return BadRow(index, reason, MESSAGES[reason])
