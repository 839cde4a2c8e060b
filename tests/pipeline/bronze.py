"""Puts rows into bronze the way the committer does, without a server in front."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import Engine

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after START."""
    return START + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Sent:
    """One event as a client would send it."""

    event_type: str = "page_view"
    event_time: datetime = START
    event_id: uuid.UUID = field(default_factory=uuid.uuid4)
    tenant: str = "default"
    user_id: str = ""
    visitor_id: str = ""
    session_id: str = ""
    site_id: str = "shop"
    product_id: str = ""
    order_id: str = ""
    price: Decimal | None = None
    quantity: int | None = None
    currency: str = ""
    url: str = ""
    path: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    referrer: str = ""
    user_agent: str = ""
    properties: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def visitor(self) -> str:
        """Who it was."""
        return self.user_id or self.visitor_id


_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("commit", pa.int64()),
        ("stream_id", pa.string()),
        ("offset", pa.int64()),
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("user_id", pa.string()),
        ("visitor_id", pa.string()),
        ("session_id", pa.string()),
        ("site_id", pa.string()),
        ("product_id", pa.string()),
        ("order_id", pa.string()),
        ("price", pa.decimal128(18, 6)),
        ("quantity", pa.int32()),
        ("currency", pa.string()),
        ("url", pa.string()),
        ("path", pa.string()),
        ("utm_source", pa.string()),
        ("utm_medium", pa.string()),
        ("utm_campaign", pa.string()),
        ("referrer", pa.string()),
        ("user_agent", pa.string()),
        ("properties", pa.map_(pa.string(), pa.string())),
        ("ingest_time", pa.timestamp("us", tz="UTC")),
    ]
)


async def commit(engine: Engine, log: CommitLog, events: Sequence[Sent]) -> int:
    """Commits `events` in their order; the commit's number."""
    async with log.transaction() as transaction:
        rows = [
            {name: getattr(event, name) for name in Sent.__slots__}
            | {
                "commit": transaction.commit,
                "stream_id": "",
                "offset": offset,
                "event_id": str(event.event_id),
                "properties": list(event.properties.items()),
                "ingest_time": transaction.time,
            }
            for offset, event in enumerate(events)
        ]
        await engine.insert_arrow("bronze_events", pa.Table.from_pylist(rows, _SCHEMA))
        tenants = Counter(event.tenant for event in events)
        streams = [Advance(tenant, "", 0, len(events), accepted, 0) for tenant, accepted in tenants.items()]
        await transaction.append(Entry("append", rows=len(events), streams=streams))
    return transaction.commit
