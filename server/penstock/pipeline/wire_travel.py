"""Versions and their rows as the contract's messages."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.pipeline.diff import SUMMED, Diff, Window
from penstock.pipeline.history import Change, HistoryPage
from penstock.pipeline.tables import FIGURES, Kind
from penstock.pipeline.travel import DataPage, Moment
from penstock.pipeline.v1 import pipeline_pb2
from penstock.pipeline.v1 import pipeline_service_pb2 as pb
from penstock.pipeline.wire import TRIGGERS


def moment(request: Any, number: str, time: str) -> Moment:
    """What two fields of a request say."""
    at = getattr(request, time).ToDatetime(tzinfo=UTC) if request.HasField(time) else None
    return Moment(getattr(request, number), at)


def history(page: HistoryPage) -> pb.ListVersionsResponse:
    """Versions of a table."""
    return pb.ListVersionsResponse(
        versions=[_change(each) for each in page.changes],
        current_version=page.current,
        oldest_version=page.oldest,
        next_page_token=page.next_token,
    )


def data(page: DataPage) -> pb.ListDataResponse:
    """Rows as of a version: some 3 µs a value, so a large page is made off the event loop."""
    message = pb.ListDataResponse(
        version=page.version,
        columns=[
            pipeline_pb2.Column(name=column.name, type=column.kind.value, nullable=column.nullable)
            for column in page.table.columns
        ],
        next_page_token=page.next_token,
    )
    if page.time is not None:
        message.time.CopyFrom(_timestamp(page.time))
    writers = [(column.name, _WRITERS[column.kind]) for column in page.table.columns]
    for row in page.rows:
        fields = message.rows.add().fields
        for name, write in writers:
            write(fields[name], row[name])
    return message


def diff(found: Diff) -> pb.DiffVersionsResponse:
    """What changed."""
    message = pb.DiffVersionsResponse(
        from_version=found.older,
        to_version=found.newer,
        windows=[_window(each) for each in found.windows],
        rows=[
            pipeline_pb2.RowChange(event_type=each.event_type, added=each.added, removed=each.removed)
            for each in found.rows
        ],
        next_page_token=found.next_token,
    )
    if found.differences is not None:
        message.summary.windows = found.windows_in_all
        message.summary.differences.update({name: found.differences[name] for name in SUMMED})
    return message


def _change(change: Change) -> pipeline_pb2.Version:
    message = pipeline_pb2.Version(
        version=change.version,
        time=_timestamp(change.time),
        operation=change.operation,
        rows=change.rows,
        rejected=change.rejected,
        run=change.run,
        first_commit=change.first_commit,
        last_commit=change.last_commit,
        streams=[
            pipeline_pb2.Version.StreamAdvance(stream_id=each.stream_id, accepted=each.accepted, rejected=each.rejected)
            for each in change.streams
        ],
        event_type=change.event_type,
        date=change.date,
    )
    if change.trigger is not None:
        message.trigger = TRIGGERS[change.trigger]
    if change.cutoff is not None:
        message.cutoff.CopyFrom(_timestamp(change.cutoff))
    return message


def _window(window: Window) -> pipeline_pb2.WindowChange:
    return pipeline_pb2.WindowChange(
        minute=_timestamp(window.minute),
        site_id=window.site_id,
        currency=window.currency,
        metrics={
            name: pipeline_pb2.MetricChange(
                before=window.before[name],
                after=window.after[name],
                difference=window.after[name] - window.before[name],
            )
            for name in FIGURES
        },
    )


def _timestamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


def _string(to: Value, value: object) -> None:
    to.string_value = str(value)


def _time(to: Value, value: datetime) -> None:
    to.string_value = f"{value.isoformat()}Z"


def _date(to: Value, value: date) -> None:
    to.string_value = value.isoformat()


def _number(to: Value, value: Any) -> None:
    if value is None:
        to.null_value = 0  # type: ignore[assignment]
    else:
        to.number_value = float(value)


def _boolean(to: Value, value: int) -> None:
    to.bool_value = bool(value)


def _map(to: Value, value: Mapping[str, str]) -> None:
    fields = {key: Value(string_value=text) for key, text in value.items()}
    to.struct_value.CopyFrom(Struct(fields=fields))


def _list(to: Value, value: list[Mapping[str, Any]]) -> None:
    """Counted names, the only lists there are."""
    to.list_value.CopyFrom(ListValue())
    for each in value:
        fields = to.list_value.values.add().struct_value.fields
        fields["name"].string_value = each["name"]
        fields["count"].number_value = each["count"]


_WRITERS: Mapping[Kind, Callable[[Value, Any], None]] = {
    Kind.STRING: _string,
    Kind.UUID: _string,
    Kind.TIMESTAMP: _time,
    Kind.DATE: _date,
    Kind.INTEGER: _number,
    Kind.NUMBER: _number,
    Kind.DECIMAL: _number,
    Kind.BOOLEAN: _boolean,
    Kind.MAP: _map,
    Kind.LIST: _list,
}
