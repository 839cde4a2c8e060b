"""Turns a client's Arrow batches into the flat columns that the engine checks (`bronze.COLUMNS`)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import limits
from penstock.errors import InvalidInput, invalid_field
from penstock.events.batch import Origin
from penstock.events.bronze import COLUMNS, UTM
from penstock.events.v1 import events_pb2

SCHEMA = pa.schema([(name, kind) for name, _, kind in COLUMNS])


def read_stream(data: bytes) -> pa.Table:
    """The rows of an Arrow IPC stream. Raises InvalidInput when it is none, or holds text that is not UTF-8."""
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowSerializationError, OSError, ValueError) as error:
        raise InvalidInput(
            f"arrow_rows.ipc_stream: is no readable Arrow IPC stream: {error}", reason="MALFORMED_MESSAGE"
        ) from error
    return table


def normalised(table: pa.Table) -> pa.Table:
    """`table` with columns of SCHEMA only, in its order; what has no column there goes into `properties`.

    A column that the client did not send stays away: the engine fills in what it would read of an absent field.
    Raises InvalidInput naming the column whose type does not fit.
    """
    if len(set(table.column_names)) != len(table.column_names):
        raise invalid_field("arrow_rows", "column names must differ", reason="MALFORMED_MESSAGE")
    table = table.combine_chunks()
    given: dict[str, pa.ChunkedArray] = dict(zip(table.column_names, table.columns, strict=True))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    if (times := given.pop("timestamp", None)) is not None:
        columns["micros"] = _micros(times)
    columns.update(_attribution(given))
    own = given.pop("properties", None)
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name not in columns and (column := given.pop(name, None)) is not None:
            columns[name] = _cast(name, column, kind)
    if own is not None or given:
        columns["properties"] = _properties(own, given, table.num_rows)
    names = [name for name in SCHEMA.names if name in columns]
    return pa.table([columns[name] for name in names], schema=pa.schema([SCHEMA.field(name) for name in names]))


def alike(tables: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """The tables with the same columns: where they differ, each gets what it lacks."""
    if all(table.schema == tables[0].schema for table in tables):
        return tables
    wanted = [name for name in SCHEMA.names if any(name in table.schema.names for table in tables)]
    return [_completed(table, wanted) for table in tables]


def _completed(table: pa.Table, wanted: Sequence[str]) -> pa.Table:
    for name in wanted:
        if name not in table.schema.names:
            table = table.append_column(SCHEMA.field(name), _absent(SCHEMA.field(name).type, table.num_rows))
    return table.select([*(name for name in table.schema.names if name not in wanted), *wanted])


def numbered(table: pa.Table, origin: Origin) -> pa.Table:
    """A normalised table with all of the stamp that is known before the commit."""
    rows = table.num_rows
    known: Mapping[str, pa.Array] = {
        "tenant": pa.repeat(origin.tenant, rows),
        "stream_id": pa.repeat(origin.stream_id, rows),
        "row_count": pa.repeat(pa.scalar(rows, pa.uint32()), rows),
        "client_address": pa.repeat(origin.client_address, rows),
        "user_agent": pa.repeat(origin.user_agent, rows),
        "row": pa.array(np.arange(rows, dtype=np.uint32)),
    }
    return pa.table({**known, **dict(zip(table.column_names, table.columns, strict=True))})


def stamped(table: pa.Table, batch: int, first_offset: int) -> pa.Table:
    """A numbered table with the rest of the stamp."""
    rows = table.num_rows
    return table.append_column("batch", pa.repeat(pa.scalar(batch, pa.uint32()), rows)).append_column(
        "first_offset", pa.repeat(pa.scalar(first_offset, pa.int64()), rows)
    )


def event(table: pa.Table, row: int) -> events_pb2.Event:
    """One row of a numbered table as a message."""
    present = [name for name in SCHEMA.names if name in table.schema.names]
    values = table.select(present).slice(row, 1).to_pylist()[0]
    made = events_pb2.Event(properties=dict(values.pop("properties", ())))
    micros = values.pop("micros", None)
    if micros is not None:
        made.timestamp.seconds, made.timestamp.nanos = micros // 1_000_000, micros % 1_000_000 * 1_000
    for name in UTM:
        text = values.pop(f"utm_{name}", "")
        if text:
            setattr(made.attribution, name, text)
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made


def _absent(kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.repeat("", rows)
    return _no_properties(rows) if pa.types.is_map(kind) else pa.nulls(rows, kind)


def _no_properties(rows: int) -> pa.Array:
    nothing = pa.array([], pa.string())
    return pa.MapArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows + 1), nothing, nothing)


def _cast(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        text = plain.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise invalid_field(name, f"cannot be read as {kind}: {error}", reason="MALFORMED_MESSAGE") from error
    return text.fill_null("") if pa.types.is_string(kind) else text


def _micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Microseconds since 1970."""
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.strptime(column, format="%Y-%m-%dT%H:%M:%S%z", unit="us", error_is_null=False)
        is_time = pa.types.is_temporal(column.type)
        return (column.cast(pa.timestamp("us"), safe=False) if is_time else column).cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise invalid_field(
            "timestamp",
            f"must be a timestamp, int64 microseconds, or ISO 8601 text with a zone: {error}",
            reason="MALFORMED_MESSAGE",
        ) from error


def _attribution(given: dict[str, pa.ChunkedArray]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """A struct column `attribution`, taken apart; plain utm columns are read with the others."""
    struct = given.pop("attribution", None)
    if struct is None:
        return {}
    if not pa.types.is_struct(struct.type):
        raise invalid_field("attribution", "must be a struct of strings", reason="MALFORMED_MESSAGE")
    names = {struct.type.field(i).name for i in range(struct.type.num_fields)}
    taken = {name for name in UTM if name in names and f"utm_{name}" not in given}
    return {f"utm_{name}": _cast(f"utm_{name}", pc.struct_field(struct, name), pa.string()) for name in taken}


def _properties(own: pa.ChunkedArray | None, others: Mapping[str, pa.ChunkedArray], rows: int) -> pa.Array:
    """The map of each row: its own entries, then one for every other column that is not null there."""
    if len(others) > limits.PROPERTIES_MAX:
        raise invalid_field("arrow_rows", f"at most {limits.PROPERTIES_MAX} columns beside those of Event")
    texts = {name: _scalar_text(name, column) for name, column in others.items()}
    if own is None and texts and not any(text.null_count for text in texts.values()):
        return _full_properties(texts, rows)
    entries: list[tuple[pa.Array, pa.Array, pa.Array]] = []  # row, key, value
    if own is not None:
        entries.append(_own_entries(own))
    position = pa.array(np.arange(rows))
    for name, text in texts.items():
        present = pc.is_valid(text)
        at = position.filter(present)
        entries.append((at, pa.repeat(name, len(at)), text.filter(present)))
    at = pa.concat_arrays([each[0] for each in entries])
    order = pc.array_sort_indices(at)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(at.to_numpy(), minlength=rows)))).astype(np.int32)
    keys = pa.concat_arrays([each[1] for each in entries]).take(order)
    values = pa.concat_arrays([each[2] for each in entries]).take(order)
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


def _full_properties(texts: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """Every row has every entry, which is the usual case and needs no sorting."""
    count = len(texts)
    # Column by column, the entry of row r and column c stands at c × rows + r; row by row they are wanted.
    order = pa.array(np.arange(count * rows).reshape(count, rows).T.ravel())
    keys = pa.DictionaryArray.from_arrays(pa.array(np.tile(np.arange(count, dtype=np.int32), rows)), list(texts))
    values = pa.concat_arrays(list(texts.values())).take(order)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * count)
    return pa.MapArray.from_arrays(offsets, keys.dictionary_decode(), values)


def _own_entries(own: pa.ChunkedArray) -> tuple[pa.Array, pa.Array, pa.Array]:
    if not pa.types.is_map(own.type):
        raise invalid_field("properties", "must be map<string, string>", reason="MALFORMED_MESSAGE")
    maps = _cast("properties", own, SCHEMA.field("properties").type)
    array = maps.combine_chunks() if isinstance(maps, pa.ChunkedArray) else maps
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], SCHEMA.field("properties").type)
    lists = array.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])))
    flat = pc.list_flatten(lists)
    return pc.list_parent_indices(lists).cast(pa.int64()), flat.field("key"), flat.field("value").fill_null("")


def _scalar_text(name: str, column: pa.ChunkedArray) -> pa.Array:
    """A scalar column as text, as JSON would print it."""
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_nested(plain.type):
        raise invalid_field(name, "only scalar columns can go into properties", reason="MALFORMED_MESSAGE")
    try:
        text = plain.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise invalid_field(name, f"cannot be kept as text: {error}", reason="MALFORMED_MESSAGE") from error
    array = text.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks else pa.array([], pa.string())
    return array
