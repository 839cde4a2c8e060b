"""From Arrow tables and dataframes to batches. Needs pyarrow (`penstock-client[arrow]`)."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from penstock.events.v1.events_pb2 import Event
from penstock_client.batch import ColumnRows
from penstock_client.fields import event

# The server's bounds, met here before they are announced: a request of more would be cut and serialised anew.
REQUEST_BYTES_MAX = 2 * 1024 * 1024

_TEXT = (
    "event_id",
    "event_type",
    "user_id",
    "visitor_id",
    "session_id",
    "site_id",
    "product_id",
    "order_id",
    "currency",
    "url",
    "path",
    "referrer",
)
_UTM = ("source", "medium", "campaign", "term", "content")


def batches(data: Any, batch_rows: int, compression: str | None) -> Iterator[ColumnRows]:
    """The rows of `data` in serialised batches of at most `batch_rows` rows and about 2 MiB."""
    for table in _tables(data):
        rows = max(1, min(batch_rows, table.num_rows * REQUEST_BYTES_MAX // max(table.nbytes, 1)))
        for start in range(0, table.num_rows, rows):
            yield ColumnRows.of(table.slice(start, rows), compression)


def from_dataframe(frame: Any) -> pa.Table:
    """A pandas dataframe without its index, or any other dataframe that speaks Arrow."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    return pa.table(frame)


def as_events(table: pa.Table) -> Sequence[Event]:
    """The rows as messages, read as the server reads columns; for giving refused rows back."""
    return tuple(_event(row) for row in table.to_pylist())


def _tables(data: Any) -> Iterator[pa.Table]:
    if isinstance(data, pa.Table):
        yield data
    elif isinstance(data, pa.RecordBatch):
        yield pa.Table.from_batches([data])
    else:
        reader = data if isinstance(data, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(data)
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _event(row: Mapping[str, Any]) -> Event:
    given = {name: value for name, value in row.items() if value is not None}
    fields: dict[str, Any] = {name: str(given.pop(name)) for name in _TEXT if name in given}
    fields |= {f"utm_{name}": text for name, text in given.pop("attribution", {}).items() if text and name in _UTM}
    fields |= {name: given.pop(name) for name in [f"utm_{each}" for each in _UTM] if name in given}
    fields |= {name: given.pop(name) for name in ("price", "quantity") if name in given}
    when = given.pop("timestamp", None)
    if isinstance(when, datetime) and when.tzinfo is None:
        when = when.replace(tzinfo=UTC)  # as the server reads a timestamp column without a zone
    elif isinstance(when, int):
        when /= 1_000_000
    properties = {**dict(given.pop("properties", ())), **given}
    return event(**{"event_type": "", **fields}, timestamp=when, properties=properties)
