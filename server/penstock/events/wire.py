"""Between the area's own data and the messages of the contract."""

from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import InvalidInput, PenstockError, Violation, invalid_field
from penstock.events.batch import BadRow, Stored
from penstock.events.bronze import PLAIN_TEXTS, UTM
from penstock.events.tail import Position
from penstock.events.v1 import events_pb2, events_service_pb2
from penstock.rpc.status import status_of
from penstock.storage.engine import Row

Frame = events_service_pb2.AppendResponse


def timestamp(when: datetime) -> Timestamp:
    """A Timestamp; one without a zone is UTC, as the engine gives it."""
    made = Timestamp()
    made.FromDatetime(when if when.tzinfo is None else when.astimezone(UTC))
    return made


def opened(stream_id: str, next_offset: int, durability: events_pb2.Durability) -> Frame:
    """The first frame of a stream."""
    return Frame(
        opened=events_service_pb2.StreamOpened(stream_id=stream_id, next_offset=next_offset, durability=durability),
        flow_control=events_service_pb2.FlowControl(
            max_outstanding_requests=limits.STREAM_OUTSTANDING_REQUESTS_MAX,
            max_outstanding_bytes=limits.STREAM_OUTSTANDING_BYTES_MAX,
            max_request_rows=limits.REQUEST_ROWS_MAX,
            max_request_bytes=limits.REQUEST_BYTES_MAX,
        ),
    )


@lru_cache(maxsize=16)
def _commit_time(when: datetime) -> Timestamp:
    """The same message for all batches of a commit; to make one costs as much as the rest of an answer."""
    return timestamp(when)


def append_result(stored: Stored, durability: events_pb2.Durability) -> Frame:
    """A batch is durable."""
    result = events_service_pb2.AppendResult(
        offset=stored.offset,
        accepted_rows=stored.accepted,
        rejected=row_errors(stored.rejected),
        durability=durability,
        commit=stored.commit,
        commit_time=_commit_time(stored.time),
    )
    return Frame(append_result=result)


def append_error(error: PenstockError, offset: int | None, expected_offset: int | None) -> Frame:
    """A batch is refused."""
    return Frame(
        error=events_service_pb2.AppendError(status=status_of(error), offset=offset, expected_offset=expected_offset)
    )


def rows_rejected(rows: Sequence[BadRow], offset: int | None, expected_offset: int | None) -> Frame:
    """An ALL_OR_NOTHING batch is refused for its bad rows."""
    frame = append_error(rejection(rows, "event_rows.events"), offset, expected_offset)
    frame.error.rejected.extend(row_errors(rows))
    return frame


def rejection(rows: Sequence[BadRow], path: str) -> InvalidInput:
    """What the client of a refused batch is told; `path` is that of the rows in its request."""
    shown = rows[:10]
    text = "; ".join(f"row {row.index}: {row.message}" for row in shown)
    more = f"; and {len(rows) - len(shown)} more" if len(rows) > len(shown) else ""
    return InvalidInput(
        f"nothing was stored, {len(rows)} rows are bad: {text}{more}",
        reason="ROWS_REJECTED",
        violations=[Violation(f"{path}[{row.index}].{row.message.partition(':')[0]}", row.message) for row in shown],
    )


def row_errors(rows: Sequence[BadRow]) -> list[events_service_pb2.RowError]:
    """Bad rows, as answers have them."""
    return [events_service_pb2.RowError(index=row.index, reason=row.reason, message=row.message) for row in rows]


def end(next_offset: int, *, draining: bool) -> Frame:
    """The last frame of a stream."""
    reasons = events_service_pb2.StreamEnd
    reason = reasons.END_REASON_DRAINING if draining else reasons.END_REASON_CLIENT_DONE
    return Frame(end=events_service_pb2.StreamEnd(reason=reason, next_offset=next_offset))


def stored_event(row: Row) -> events_pb2.StoredEvent:
    """A row of bronze, canonical type and all."""
    event = events_pb2.Event(
        event_id=str(row["event_id"]),
        timestamp=timestamp(row["event_time"]),
        attribution=events_pb2.Attribution(**{name: row[f"utm_{name}"] for name in UTM}),
        properties=row["properties"],
    )
    for name in PLAIN_TEXTS:
        setattr(event, name, row[name])
    if row["price"] is not None:
        event.price = float(row["price"])
    if row["quantity"] is not None:
        event.quantity = row["quantity"]
    return events_pb2.StoredEvent(
        event=event,
        commit=row["commit"],
        ingest_time=timestamp(row["ingest_time"]),
        stream_id=row["stream_id"],
        offset=row["offset"],
        client_address=row["client_address"],
        user_agent=row["user_agent"],
    )


def batch_results(events: Sequence[events_pb2.Event], stored: Stored) -> events_service_pb2.BatchCollectResponse:
    """A result for each event of a batch."""
    bad = {row.index: row for row in stored.rejected}
    results = []
    for index, event in enumerate(events):
        fault = bad.get(index)
        results.append(
            events_service_pb2.CollectResult(
                event_id=event.event_id,
                accepted=fault is None,
                reason=fault.reason if fault else "",
                message=fault.message if fault else "",
            )
        )
    return events_service_pb2.BatchCollectResponse(
        results=results,
        accepted_rows=stored.accepted,
        rejected_rows=len(bad),
        commit=stored.commit if stored.accepted else 0,
    )


def tail_frame(tenant: str, row: Row | None, position: Position) -> events_service_pb2.TailEventsResponse:
    """An event, or a heartbeat."""
    token = position.token(tenant)
    if row is None:
        beat = events_service_pb2.TailHeartbeat(commit=position.commit)
        return events_service_pb2.TailEventsResponse(heartbeat=beat, resume_token=token)
    return events_service_pb2.TailEventsResponse(event=stored_event(row), resume_token=token)


def rejected_event(row: Row) -> events_pb2.RejectedEvent:
    """A row of the rejected table."""
    formats = {"protobuf": events_pb2.RAW_FORMAT_PROTOBUF, "json": events_pb2.RAW_FORMAT_JSON}
    made = events_pb2.RejectedEvent(
        rejected_id=str(row["rejected_id"]),
        reason=row["reason"],
        message=row["message"],
        stream_id=row["stream_id"],
        offset=row["offset"],
        ingest_time=timestamp(row["ingest_time"]),
        raw=b64decode(row["raw"]),
        raw_format=formats[row["raw_format"]],
    )
    if row["replay_time"] is not None:
        made.replay_time.CopyFrom(timestamp(row["replay_time"]))
    return made


def moment(request: Message, field: str) -> datetime | None:
    """A Timestamp field as a datetime; None when absent. Raises InvalidInput for one that is none."""
    if not request.HasField(field):
        return None
    try:
        return cast("Timestamp", getattr(request, field)).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid_field(field, f"must be a time from year 1 to 9999: {error}") from error
