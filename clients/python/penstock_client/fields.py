"""From Python values to an `Event`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.events.v1.events_pb2 import Attribution, Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event(
    event_type: str,
    *,
    event_id: str | UUID | None = None,
    timestamp: datetime | float | Timestamp | None = None,
    user_id: str | None = None,
    visitor_id: str | None = None,
    session_id: str | None = None,
    site_id: str | None = None,
    product_id: str | None = None,
    order_id: str | None = None,
    price: float | Decimal | None = None,
    quantity: int | None = None,
    currency: str | None = None,
    url: str | None = None,
    path: str | None = None,
    referrer: str | None = None,
    utm_source: str | None = None,
    utm_medium: str | None = None,
    utm_campaign: str | None = None,
    utm_term: str | None = None,
    utm_content: str | None = None,
    properties: Mapping[str, object] | None = None,
) -> Event:
    """Builds an event; what is None is left out.

    `timestamp` is a datetime with a time zone, or Unix seconds. Values of `properties` become text: True is "true",
    None is left out. The server, not this function, checks bounds. Raises ValueError for a datetime without a zone.
    """
    made = Event(
        event_type=event_type,
        event_id=str(event_id) if event_id is not None else None,
        user_id=user_id,
        visitor_id=visitor_id,
        session_id=session_id,
        site_id=site_id,
        product_id=product_id,
        order_id=order_id,
        price=float(price) if price is not None else None,
        quantity=quantity,
        currency=currency,
        url=url,
        path=path,
        referrer=referrer,
        properties={key: text(value) for key, value in properties.items() if value is not None} if properties else None,
    )
    if timestamp is not None:
        made.timestamp.CopyFrom(instant(timestamp))
    if utm_source or utm_medium or utm_campaign or utm_term or utm_content:
        made.attribution.CopyFrom(
            Attribution(source=utm_source, medium=utm_medium, campaign=utm_campaign, term=utm_term, content=utm_content)
        )
    return made


def instant(when: datetime | float | Timestamp) -> Timestamp:
    """A point in time as the contract has it, to the microsecond."""
    if isinstance(when, Timestamp):
        return when
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when.isoformat()} has no time zone: use datetime.now(UTC) or astimezone()")
        # A third of the time that the constructor takes to convert a datetime by itself.
        since = when - _EPOCH
        return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)
    micros = round(when * 1_000_000)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)


def text(value: object) -> str:
    """A value as properties and attributes have it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)
