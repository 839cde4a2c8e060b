"""Features between the contract's messages and the area's own data."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.errors import invalid_field
from penstock.kpis.features import AggregateFeatures, Features, UserFeatures
from penstock.kpis.v1 import kpis_service_pb2 as pb

ARROW_STREAM = "application/vnd.apache.arrow.stream"
_SECONDS_END = 7_258_118_400  # 2200-01-01: ClickHouse's times end a century later


def active_since(request: pb.ExportFeaturesRequest) -> datetime | None:
    """From when on a user must have been active; None for all. Raises InvalidInput for no time at all."""
    if not request.HasField("active_since"):
        return None
    moment = request.active_since
    if not (0 <= moment.seconds < _SECONDS_END and 0 <= moment.nanos < 1_000_000_000):
        raise invalid_field("active_since", "must be a time from 1970 to 2199")
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=moment.seconds, microseconds=moment.nanos // 1000)


def features(found: Features) -> pb.GetFeaturesResponse:
    """The features of one user, or of all together."""
    response = pb.GetFeaturesResponse(currency=found.currency, reason=found.reason)
    if found.reference_time is not None:
        response.reference_time.CopyFrom(_timestamp(found.reference_time))
    match found.of:
        case UserFeatures():
            response.user.CopyFrom(pb.UserFeatures(**asdict(found.of)))
        case AggregateFeatures():
            response.aggregate.CopyFrom(pb.GetFeaturesResponse.AggregateFeatures(**asdict(found.of)))
    return response


def piece(data: bytes) -> HttpBody:
    """A piece of an export."""
    return HttpBody(content_type=ARROW_STREAM, data=data)


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)
