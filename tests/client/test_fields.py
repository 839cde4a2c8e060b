"""Building events, and reading errors."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

import penstock
from penstock_client.errors import from_rpc, from_status


def test_all_fields() -> None:
    """Every argument goes where the contract has it."""
    event = penstock.event(
        "purchase",
        event_id=UUID(int=7),
        timestamp=datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2))),
        price=Decimal("12.50"),
        quantity=2,
        utm_source="newsletter",
        properties={"gift": True, "shelf": 7, "note": None, "seen": datetime(2024, 1, 1, tzinfo=UTC)},
    )
    assert event.event_id == "00000000-0000-0000-0000-000000000007"
    assert event.timestamp.ToDatetime(tzinfo=UTC) == datetime(2024, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC)
    assert (event.price, event.quantity) == (12.5, 2)
    assert event.attribution.source == "newsletter"
    assert dict(event.properties) == {"gift": "true", "shelf": "7", "seen": "2024-01-01T00:00:00+00:00"}


def test_what_is_not_given_is_absent() -> None:
    """Zero is a price; nothing is none."""
    event = penstock.event("view")
    assert [field.name for field, _ in event.ListFields()] == ["event_type"]
    assert penstock.event("view", price=0).HasField("price")


@pytest.mark.parametrize(
    ("when", "seconds", "nanos"),
    [
        (0, 0, 0),
        (1.5, 1, 500_000_000),
        (-0.25, -1, 750_000_000),
        (datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), -1, 1_000),
    ],
)
def test_times(when: datetime | float, seconds: int, nanos: int) -> None:
    """Before 1970 too, nanos are never negative."""
    stamp = penstock.event("view", timestamp=when).timestamp
    assert (stamp.seconds, stamp.nanos) == (seconds, nanos)


def test_a_time_without_a_zone_is_refused() -> None:
    """It could mean any of 38 instants."""
    with pytest.raises(ValueError, match="no time zone"):
        penstock.event("view", timestamp=datetime(2024, 1, 1))


def packed(*details: object) -> list[Any]:
    """Details as a status carries them."""
    made = []
    for detail in details:
        wrapped = Any()
        wrapped.Pack(detail)  # type: ignore[arg-type]
        made.append(wrapped)
    return made


def test_an_error_tells_all_that_the_server_told() -> None:
    """Reason, metadata, violations, and when to come again."""
    status = status_pb2.Status(
        code=code_pb2.INVALID_ARGUMENT,
        message="page_size: must be at most 1000",
        details=packed(
            error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="penstock", metadata={"a": "b"}),
            error_details_pb2.BadRequest(
                field_violations=[error_details_pb2.BadRequest.FieldViolation(field="page_size", description="no")]
            ),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        ),
    )
    error = from_status(status)
    assert type(error) is penstock.InvalidRequest
    assert (error.reason, error.metadata, error.retry_after_s) == ("INVALID_FIELD", {"a": "b"}, 1.5)
    assert error.violations == (penstock.Violation("page_size", "no"),)
    assert str(error) == "INVALID_FIELD: page_size: must be at most 1000"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (code_pb2.OUT_OF_RANGE, "OFFSET_GAP", penstock.OffsetMismatch),
        (code_pb2.OUT_OF_RANGE, "OF_LATER", penstock.OutOfRange),
        (code_pb2.ABORTED, "STREAM_TAKEN_OVER", penstock.StreamTakenOver),
        (code_pb2.FAILED_PRECONDITION, "RUN_IN_PROGRESS", penstock.RunInProgress),
        (code_pb2.UNAVAILABLE, "STORAGE_UNAVAILABLE", penstock.StorageUnavailable),
        (code_pb2.UNAUTHENTICATED, "NO_KEY", penstock.AccessDenied),
        (code_pb2.DATA_LOSS, "ODD", penstock.ServerFault),
    ],
)
def test_the_reason_picks_the_class_and_the_code_where_it_is_new(
    code: int, reason: str, kind: type[penstock.Error]
) -> None:
    """A reason of a later server is still the kind that its code says."""
    status = status_pb2.Status(code=code, details=packed(error_details_pb2.ErrorInfo(reason=reason)))
    assert type(from_status(status)) is kind


def test_an_error_without_details_has_its_code_as_reason() -> None:
    """As when the connection fails, or a proxy answers."""
    metadata = grpc.aio.Metadata()
    error = from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, "Connection refused"))
    assert type(error) is penstock.Unavailable
    assert (error.reason, error.message) == ("UNAVAILABLE", "Connection refused")
