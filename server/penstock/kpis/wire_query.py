"""kpis:query between the contract's messages and the area's own data."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import invalid_field
from penstock.kpis.formula import Comparison
from penstock.kpis.grain import MICROS, parsed
from penstock.kpis.moment import Moment
from penstock.kpis.query import Answer, Fill, Order, Query, Row
from penstock.kpis.ranges import Compare, Range, resolved
from penstock.kpis.sources import Filter
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.rpc.tokens import token, values_of

_TOKEN = "kpis"
_OPERATORS = {
    pb.QueryKpisRequest.Filter.OPERATOR_UNSPECIFIED: (Comparison.IN, False),
    pb.QueryKpisRequest.Filter.OPERATOR_IN: (Comparison.IN, False),
    pb.QueryKpisRequest.Filter.OPERATOR_NOT_IN: (Comparison.IN, True),
    pb.QueryKpisRequest.Filter.OPERATOR_STARTS_WITH: (Comparison.STARTS_WITH, False),
    pb.QueryKpisRequest.Filter.OPERATOR_CONTAINS: (Comparison.CONTAINS, False),
}
_COMPARISONS = {
    pb.QueryKpisRequest.COMPARISON_UNSPECIFIED: None,
    pb.QueryKpisRequest.COMPARISON_PREVIOUS_PERIOD: Compare.PERIOD,
    pb.QueryKpisRequest.COMPARISON_PREVIOUS_WEEK: Compare.WEEK,
    pb.QueryKpisRequest.COMPARISON_PREVIOUS_YEAR: Compare.YEAR,
}
_FILLS = {
    pb.QueryKpisRequest.FILL_UNSPECIFIED: Fill.NONE,
    pb.QueryKpisRequest.FILL_ZERO: Fill.ZERO,
    pb.QueryKpisRequest.FILL_EMPTY: Fill.EMPTY,
}


AsOf: TypeAlias = (
    pb.QueryKpisRequest
    | pb.GetTrendRequest
    | pb.GetMetricsRequest
    | pb.GetConversionTrendRequest
    | pb.GetRevenueTrendRequest
    | pb.GetFeaturesRequest
    | pb.ExportFeaturesRequest
    | pb.GetConversionAnomaliesRequest
    | pb.DetectAnomaliesRequest
    | pb.GetConversionForecastRequest
    | pb.ForecastKpiRequest
)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins, and what its first page was computed as of."""

    digest: str  # of the rest of the request
    first: int = 0  # rows before it
    version: int = 0
    now: int = 0  # microseconds since the epoch


def page(tenant: str, request: pb.QueryKpisRequest) -> Page:
    """Which page is asked for. Raises InvalidInput for a token that is not of this request."""
    rest = pb.QueryKpisRequest()
    rest.CopyFrom(request)
    rest.ClearField("page_token")
    rest.ClearField("page_size")
    digest = hashlib.sha256(rest.SerializeToString(deterministic=True)).hexdigest()[:24]
    if not request.page_token:
        return Page(digest)
    wrong = invalid_field(
        "page_token", "is not one that this method gave for the same request", reason="INVALID_PAGE_TOKEN"
    )
    version, now, first, found = values_of(tenant, _TOKEN, request.page_token, (int, int, int, str), wrong)
    if found != digest or not (0 <= int(version) < 2**63 and 0 < int(first) <= limits.KPI_QUERY_ROWS_MAX):
        raise wrong
    return Page(digest, int(first), int(version), int(now))


def first_page(asked: Page, at: Moment) -> Page:
    """The first page, as of a moment."""
    return replace(asked, version=at.version.commit, now=int(at.now * MICROS))


def query(tenant: str, request: pb.QueryKpisRequest, now: int) -> Query:
    """What is asked for, its range counted from `now`. Raises InvalidInput."""
    zone = _zone(request.time_zone or "UTC")
    return Query(
        tenant=tenant,
        metrics=tuple(request.metrics),
        dimensions=tuple(request.dimensions),
        filters=tuple(_filters(request.filters)),
        covered=_range(request.range, now, zone),
        grain=parsed(request.grain),
        zone=zone.key,
        compare=_COMPARISONS[request.comparison],
        fill=_FILLS[request.fill],
        order=tuple(_order(request.order_by)),
    )


def response(asked: Query, answer: Answer, at: Page, size: int) -> pb.QueryKpisResponse:
    """One page of the answer; `at` as of which version and time it is."""
    rows = answer.rows[at.first : at.first + (size or limits.KPI_QUERY_PAGE_ROWS)]
    behind = at.first + len(rows)
    more = behind < len(answer.rows)
    return pb.QueryKpisResponse(
        rows=[_row(asked, each) for each in rows],
        total=_row(asked, answer.total),
        row_count=len(answer.rows),
        next_page_token=token(asked.tenant, _TOKEN, [at.version, at.now, behind, at.digest]) if more else "",
        range_start=timestamp(asked.covered.start),
        range_end=timestamp(asked.covered.end),
        currency=answer.currency,
        version=at.version,
        reason=answer.reason,
    )


def timestamp(micros: int) -> Timestamp:
    """A time in the contract's form."""
    return Timestamp(seconds=micros // MICROS, nanos=micros % MICROS * 1000)


def as_of(request: AsOf) -> datetime | None:
    """The time that the request wants to see; None where it names none. Raises InvalidInput."""
    if not request.HasField("as_of_time"):
        return None
    if request.as_of_version:
        raise invalid_field("as_of_time", "only one of as_of_version and as_of_time may be set")
    seconds, nanos = request.as_of_time.seconds, request.as_of_time.nanos
    if not (0 <= seconds < 7_258_118_400 and 0 <= nanos < 1_000_000_000):
        raise invalid_field("as_of_time", "must be a time from 1970 to 2199")
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds, microseconds=nanos // 1000)


def _row(asked: Query, row: Row) -> pb.QueryKpisResponse.Row:
    return pb.QueryKpisResponse.Row(
        window_start=timestamp(row.start),
        window_end=timestamp(row.end),
        dimensions=dict(zip(asked.dimensions, row.dimensions, strict=False)),
        values=row.values,
        previous=row.previous,
        change=row.change,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid_field("time_zone", f"{name!r} is not a timezone such as `Europe/Berlin`") from None


def _range(asked: pb.QueryKpisRequest.Range, now: int, zone: ZoneInfo) -> Range:
    start = _micros("range.start", asked.start) if asked.HasField("start") else None
    end = _micros("range.end", asked.end) if asked.HasField("end") else None
    return resolved(start, end, asked.last, now, zone)


def _micros(field: str, moment: Timestamp) -> int:
    """Events are known to the microsecond, so a bound between two of them is as good as the later one."""
    if not 0 <= moment.nanos < 1_000_000_000:
        raise invalid_field(field, "its nanos must be from 0 to 999,999,999")
    return moment.seconds * MICROS + -(-moment.nanos // 1000)


def _filters(asked: Iterable[pb.QueryKpisRequest.Filter]) -> Iterable[Filter]:
    for n, each in enumerate(asked):
        comparison, negated = _OPERATORS[each.operator]
        if comparison is not Comparison.IN and "" in each.values:
            raise invalid_field(f"filters[{n}].values", "every text begins with an empty one and contains it")
        yield Filter(each.dimension, comparison, tuple(each.values), negated)


def _order(text: str) -> Iterable[Order]:
    for part in filter(None, (each.strip() for each in text.split(","))):
        by, _, direction = part.partition(" ")
        if direction.strip() not in ("", "asc", "desc"):
            raise invalid_field("order_by", f"{part!r} is not a name, with ` desc` or without")
        yield Order(by, direction.strip() == "desc")
