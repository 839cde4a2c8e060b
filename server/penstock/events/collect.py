"""Reads an event as web trackers send it: a JSON object or query parameters, in any of the usual spellings.

What has a field goes there; what has none is kept in `properties` under its own name. Nothing is dropped.
"""

import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson
import uuid_utils
from dateutil import parser as dates
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import InvalidInput, invalid_field
from penstock.events.bronze import PLAIN_TEXTS, UTM
from penstock.events.v1 import events_pb2
from penstock.rest.json_values import Json, depth, json_object, number, snake_case, text, whole

_TEXT_FIELDS = frozenset(("event_id", *PLAIN_TEXTS))
_ALIASES = {
    "event": "event_type",
    "type": "event_type",
    "anonymous_id": "visitor_id",
    "client_id": "visitor_id",
    "referer": "referrer",
    "time": "timestamp",
    "time_stamp": "timestamp",
    "ts": "timestamp",
}
# A Unix time is in seconds up to the year 5138, then in milliseconds, microseconds, nanoseconds.
_UNIX_SCALES = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))


def from_json(data: bytes) -> events_pb2.Event:
    """The event in one JSON object. Raises InvalidInput with the position, or naming the field as it was spelled."""
    if len(data) > limits.COLLECT_BYTES_MAX:
        raise InvalidInput(f"an event may have at most {limits.COLLECT_BYTES_MAX} bytes", reason="EVENT_TOO_LARGE")
    return from_fields(json_object(data))


def from_fields(fields: Mapping[str, Json]) -> events_pb2.Event:
    """The event in named values. Raises InvalidInput naming the field as the client spelled it."""
    event = events_pb2.Event()
    for spelled, value in fields.items():
        if value is None or value == "":
            continue
        _take(event, spelled, _canonical(spelled), value)
    if not event.event_type:
        raise invalid_field("event_type", "must be set", reason="MISSING_EVENT_TYPE")
    return event


def complete(event: events_pb2.Event) -> events_pb2.Event:
    """Gives the event an id and a time where it has none, because the answer names both."""
    if not event.event_id:
        event.event_id = str(uuid_utils.uuid7())
    else:
        event.event_id = canonical_id(event.event_id)
    if not event.HasField("timestamp"):
        event.timestamp.GetCurrentTime()
    elif not event.timestamp.seconds and not event.timestamp.nanos:
        event.timestamp.seconds = -1  # as in `_time`: a zero would be read as none
    return event


def canonical_id(text: str) -> str:
    """An id as it is stored, so that the answer names what a read will show; what is no UUID stays as it is."""
    try:
        return str(uuid.UUID(text)) if len(text) == 36 else text
    except ValueError:
        return text


def _canonical(name: str) -> str:
    snake = snake_case(name)
    return _ALIASES.get(snake, snake)


def _take(event: events_pb2.Event, spelled: str, name: str, value: Json) -> None:
    if name in _TEXT_FIELDS:
        setattr(event, name, text(spelled, value))
    elif name == "timestamp":
        event.timestamp.CopyFrom(_time(spelled, value))
    elif name == "price":
        event.price = number(spelled, value, "INVALID_PRICE")
    elif name == "quantity":
        event.quantity = whole(spelled, value)
    elif name == "attribution" and isinstance(value, dict):
        if depth(value) > limits.JSON_DEPTH_MAX:
            raise invalid_field(spelled, f"is nested more than {limits.JSON_DEPTH_MAX} deep", reason="INVALID_PROPERTY")
        _attribution(event, value)
    elif name.startswith("utm_") and name[4:] in UTM:
        setattr(event.attribution, name[4:], text(spelled, value))
    elif name == "properties" and isinstance(value, dict):
        for key, each in value.items():
            _property(event, key, each)
    else:
        _property(event, spelled, value)


def _attribution(event: events_pb2.Event, given: Mapping[str, Json]) -> None:
    """`{"utmParams": {"utm_source": …}}`, `{"utm_source": …}` and `{"source": …}`; the rest becomes properties."""
    for spelled, value in given.items():
        name = _canonical(spelled)
        if name == "utm_params" and isinstance(value, dict):
            _attribution(event, value)
        elif (short := name.removeprefix("utm_")) in UTM and not isinstance(value, dict | list) and value is not None:
            setattr(event.attribution, short, text(f"attribution.{spelled}", value))
        elif value is not None:
            _property(event, f"attribution.{spelled}", value)


def _property(event: events_pb2.Event, key: str, value: Json) -> None:
    """Text stays text; everything else is kept as the JSON that it was."""
    if value is None:
        return
    if depth(value) > limits.JSON_DEPTH_MAX:
        raise invalid_field(key, f"is nested more than {limits.JSON_DEPTH_MAX} deep", reason="INVALID_PROPERTY")
    if len(event.properties) >= limits.PROPERTIES_MAX and key not in event.properties:
        raise invalid_field(
            key, f"is one property too many; an event may have {limits.PROPERTIES_MAX}", reason="TOO_MANY_PROPERTIES"
        )
    event.properties[key] = value if isinstance(value, str) else orjson.dumps(value).decode()


def _time(field: str, value: Json) -> Timestamp:
    made = Timestamp()
    try:
        if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?", value):
            parsed = dates.isoparse(value)
            made.FromDatetime(parsed.astimezone(UTC) if parsed.tzinfo else parsed)
        else:
            unix = number(field, value, "INVALID_TIMESTAMP")
            scale = next(scale for bound, scale in _UNIX_SCALES if abs(unix) < bound)
            made.FromDatetime(datetime.fromtimestamp(unix / scale, UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise invalid_field(
            field, f"must be an ISO 8601 time or a Unix time ({error})", reason="INVALID_TIMESTAMP"
        ) from error
    if made.seconds == 0 and made.nanos == 0:
        made.seconds = -1  # the wire cannot tell a zero from none; either is before the first time that is taken
    return made
