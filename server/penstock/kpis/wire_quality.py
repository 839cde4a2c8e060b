"""Data quality and latency between the contract's messages and the area's own data."""

from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.kpis.latency import Lag, Latency
from penstock.kpis.quality import Finding, Quality
from penstock.kpis.quality_checks import Dimension
from penstock.kpis.v1 import kpis_service_pb2 as pb

WINDOW_DEFAULT = timedelta(hours=24)
MINUTES_DEFAULT = 60


def window(request: pb.GetDataQualityRequest) -> timedelta:
    """How far back."""
    return request.window.ToTimedelta() if request.HasField("window") else WINDOW_DEFAULT


def quality(found: Quality) -> pb.GetDataQualityResponse:
    """The state of the data."""
    return pb.GetDataQualityResponse(
        **{each.value: _dimension(found, each) for each in Dimension},
        grade=found.grade,
        events=found.events,
        reason=found.reason,
    )


def minutes(request: pb.GetLatencyRequest) -> int:
    """How many minutes."""
    return request.limit or MINUTES_DEFAULT


def latency(found: Latency) -> pb.GetLatencyResponse:
    """Latency by minute."""
    response = pb.GetLatencyResponse
    return response(
        data=[
            response.Point(
                minute=Timestamp(seconds=int(minute.timestamp())),
                avg_seconds=lag.mean,
                p50_seconds=lag.p50,
                p95_seconds=lag.p95,
                p99_seconds=lag.p99,
                events_processed=lag.events,
                status=lag.status,
                backfilled_share=lag.backfilled_share,
            )
            for minute, lag in found.minutes
        ],
        summary=_summary(found.total),
        reason=found.reason,
    )


def _summary(total: Lag | None) -> pb.GetLatencyResponse.Summary:
    if total is None:
        return pb.GetLatencyResponse.Summary(status="unknown")
    return pb.GetLatencyResponse.Summary(
        avg_seconds=total.mean,
        p50_seconds=total.p50,
        p95_seconds=total.p95,
        p99_seconds=total.p99,
        events_processed=total.events,
        status=total.status,
        backfilled_share=total.backfilled_share,
    )


def _dimension(found: Quality, dimension: Dimension) -> pb.GetDataQualityResponse.Dimension:
    checks = [_check(each) for each in found.findings[dimension]]
    return pb.GetDataQualityResponse.Dimension(status=found.status(dimension), checks=checks)


def _check(found: Finding) -> pb.GetDataQualityResponse.Check:
    check = found.check
    return pb.GetDataQualityResponse.Check(
        name=check.name,
        field=check.field,
        value=found.value,
        unit=check.unit,
        warning=check.warning,
        critical=check.critical,
        status=found.status,
        description=check.description,
    )
