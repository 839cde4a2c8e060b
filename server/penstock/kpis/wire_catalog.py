"""The catalogue between the contract's messages and the area's own data."""

from collections.abc import Iterable
from typing import cast

from google.protobuf.field_mask_pb2 import FieldMask
from pydantic import ValidationError

from penstock.errors import InvalidInput, Violation, invalid_field
from penstock.kpis.catalog import Catalog, Declaration, Direction, Metric, Thresholds
from penstock.kpis.expression import MetricType
from penstock.kpis.grain import of as micros_of
from penstock.kpis.v1 import kpis_pb2
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.kpis.wire_query import timestamp

_TYPES = {
    MetricType.COUNT: kpis_pb2.Kpi.TYPE_COUNT,
    MetricType.SUM: kpis_pb2.Kpi.TYPE_SUM,
    MetricType.UNIQUE: kpis_pb2.Kpi.TYPE_UNIQUE,
    MetricType.RATIO: kpis_pb2.Kpi.TYPE_RATIO,
    MetricType.DERIVED: kpis_pb2.Kpi.TYPE_DERIVED,
    MetricType.CUMULATIVE: kpis_pb2.Kpi.TYPE_CUMULATIVE,
}
_DIRECTIONS = {
    Direction.UP: kpis_pb2.Kpi.DIRECTION_UP,
    Direction.DOWN: kpis_pb2.Kpi.DIRECTION_DOWN,
    Direction.NONE: kpis_pb2.Kpi.DIRECTION_UNSPECIFIED,
}
_TYPE_OF = {number: metric_type for metric_type, number in _TYPES.items()}
_DIRECTION_OF = {number: direction for direction, number in _DIRECTIONS.items()}
# The field of a message that says what a field of a declaration does.
_CHANGEABLE = {
    "label": "label",
    "description": "description",
    "unit": "unit",
    "type": "type",
    "expression": "expression",
    "good_direction": "good_direction",
    "thresholds": "thresholds",
}


def catalog(declared: Catalog) -> pb.ListKpisResponse:
    """The metrics, by name."""
    return pb.ListKpisResponse(kpis=[kpi(declared, metric) for metric in declared.metrics.values()])


def kpi(declared: Catalog, metric: Metric) -> kpis_pb2.Kpi:
    """One metric."""
    given = metric.thresholds
    return kpis_pb2.Kpi(
        name=metric.name,
        label=metric.label,
        description=metric.description,
        unit=metric.unit,
        type=_TYPES[metric.type],
        expression=metric.expression,
        good_direction=_DIRECTIONS[metric.good_direction],
        thresholds=(
            kpis_pb2.Kpi.Thresholds(warning=given.warning, critical=given.critical) if given != Thresholds() else None
        ),
        dimensions=declared.dimensions(metric.name),
        own=metric.own,
        update_time=timestamp(micros_of(metric.update_time)) if metric.update_time is not None else None,
    )


def declaration(message: kpis_pb2.Kpi) -> Declaration:
    """What the message declares. Raises InvalidInput, with a violation for each field that is wrong."""
    return _validated({"name": message.name, **_fields(message, _CHANGEABLE)})


def changed(before: Declaration, message: kpis_pb2.Kpi, mask: FieldMask) -> Declaration:
    """The declaration with what the mask names, or without one with all that the message sets. Raises InvalidInput."""
    paths = list(mask.paths) or [name for name in _CHANGEABLE if _is_set(message, name)]
    for path in paths:
        if path.partition(".")[0] not in _CHANGEABLE:
            raise invalid_field("update_mask", f"{path!r} cannot be changed; what can is {', '.join(_CHANGEABLE)}")
    return _validated({**before.model_dump(), **_fields(message, [path.partition(".")[0] for path in paths])})


def _is_set(message: kpis_pb2.Kpi, name: str) -> bool:
    return message.HasField("thresholds") if name == "thresholds" else bool(getattr(message, name))


def _fields(message: kpis_pb2.Kpi, names: Iterable[str]) -> dict[str, object]:
    return {name: _field(message, name) for name in names}


def _field(message: kpis_pb2.Kpi, name: str) -> object:
    match name:
        case "type":
            if message.type not in _TYPE_OF:
                raise invalid_field("kpi.type", "is required")
            return _TYPE_OF[message.type]
        case "good_direction":
            if message.good_direction not in _DIRECTION_OF:
                raise invalid_field("kpi.good_direction", "is not one that there is")
            return _DIRECTION_OF[message.good_direction]
        case "thresholds":
            given = message.thresholds
            return {
                "warning": given.warning if given.HasField("warning") else None,
                "critical": given.critical if given.HasField("critical") else None,
            }
        case _:
            return cast(str, getattr(message, name))


def _validated(fields: dict[str, object]) -> Declaration:
    try:
        return Declaration.model_validate(fields)
    except ValidationError as error:
        wrong = [Violation(".".join(("kpi", *map(str, each["loc"]))), each["msg"]) for each in error.errors()]
        text = "; ".join(f"{each.field}: {each.description}" for each in wrong)
        raise InvalidInput(text, reason="INVALID_FIELD", violations=wrong) from None
