"""Rows to send: events of a shop, serialised before the clock starts, so that the client costs the machine little.

They are drawn from one seed: 70 % page views, 20 % carts, 10 % purchases, of 20,000 visitors and 2,000 products. A row
has 8 to 13 fields and one property, some 160 bytes.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from penstock.events.v1 import events_pb2, events_service_pb2

SEED = 20_110_901
VISITORS = 20_000
PRODUCTS = 2_000
SITE = "bench"
_TYPES = ("page_view", "add_to_cart", "purchase")
_SHARES = (70, 20, 10)
_REFERRERS = ("https://search.example/", "https://news.example/shoes", "https://mail.example/u/0")
_OFFSET_KEY = b"\x10"  # field 2 of AppendRequest, a varint


@dataclass(frozen=True, slots=True)
class Batches:
    """Serialised requests without offset, each of `rows` rows, to be sent round and round."""

    rows: int
    requests: Sequence[bytes]

    def request(self, number: int, offset: int | None) -> bytes:
        """The bytes of the `number`th request; protobuf fields may be appended in any order."""
        request = self.requests[number % len(self.requests)]
        return request if offset is None else request + _OFFSET_KEY + varint(offset)

    def repeated(self, batches: int) -> "Batches":
        """So many batches, these over again."""
        return Batches(self.rows, [self.requests[number % len(self.requests)] for number in range(batches)])


def as_messages(rows: int, *, batches: int, timestamps: bool = True, seed: int = SEED) -> Batches:
    """Batches of `EventRows`. Without `timestamps` an event happens when the server receives it."""
    source = random.Random(seed)
    made = []
    for _ in range(batches):
        request = events_service_pb2.AppendRequest()
        request.event_rows.events.extend(_event(source, timestamps=timestamps) for _ in range(rows))
        made.append(request.SerializeToString())
    return Batches(rows, made)


def as_columns(rows: int, *, batches: int, seed: int = SEED) -> Batches:
    """The same rows as `as_messages` would make, as `ArrowRows`."""
    source = random.Random(seed)
    made = []
    for _ in range(batches):
        table = _table([_event(source, timestamps=True) for _ in range(rows)])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        columns = events_service_pb2.ArrowRows(ipc_stream=sink.getvalue().to_pybytes())
        made.append(events_service_pb2.AppendRequest(arrow_rows=columns).SerializeToString())
    return Batches(rows, made)


def event_rows(batches: Batches) -> bytes:
    """The rows of all `batches` as one serialised `EventRows`."""
    rows = events_service_pb2.EventRows()
    for request in batches.requests:
        rows.MergeFrom(events_service_pb2.AppendRequest.FromString(request).event_rows)
    return rows.SerializeToString()


def varint(number: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _event(source: random.Random, *, timestamps: bool) -> events_pb2.Event:
    (kind,) = source.choices(_TYPES, _SHARES)
    visitor = source.randrange(VISITORS)
    product = source.randrange(PRODUCTS)
    event = events_pb2.Event(
        event_type=kind,
        visitor_id=f"visitor-{visitor:05d}",
        session_id=f"s-{visitor:05d}-{source.randrange(4)}",
        site_id=SITE,
        product_id=f"sku-{product:04d}",
        url=f"https://shop.example/products/{product:04d}?page={source.randrange(9)}",
        referrer=source.choice(_REFERRERS),
        properties={"variant": source.choice("ABCD")},
    )
    if timestamps:
        event.timestamp.FromNanoseconds(time.time_ns() - source.randrange(3_600_000_000_000))
    if kind != "page_view":
        event.price = round(source.uniform(1, 200), 2)
        event.quantity = source.randint(1, 4)
    if kind == "purchase":
        event.user_id = f"user-{visitor:05d}"
        event.order_id = f"o-{source.randrange(1 << 40):x}"
        event.currency = "EUR"
    return event


def _table(events: Sequence[events_pb2.Event]) -> pa.Table:
    """The columns that a dataframe of these events would have."""
    text = ("event_type", "visitor_id", "session_id", "site_id", "product_id", "url", "referrer", "user_id", "order_id")
    columns: dict[str, pa.Array] = {name: pa.array([getattr(event, name) for event in events]) for name in text}
    columns["timestamp"] = pa.array([event.timestamp.ToMicroseconds() for event in events], pa.timestamp("us", "UTC"))
    columns["price"] = pa.array([event.price if event.HasField("price") else None for event in events], pa.float64())
    columns["quantity"] = pa.array(
        [event.quantity if event.HasField("quantity") else None for event in events], pa.int32()
    )
    columns["currency"] = pa.array([event.currency for event in events])
    columns["properties"] = pa.array(
        [list(event.properties.items()) for event in events], pa.map_(pa.string(), pa.string())
    )
    return pa.table(columns)
