"""KPIs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.kpis.v1.kpis_pb2 import Kpi
from penstock.kpis.v1.kpis_service_pb2_grpc import KpiServiceStub
from penstock_client.connection import Connection
from penstock_client.errors import from_rpc
from penstock_client.fields import instant
from penstock_client.sql import AsOf

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

HEAVY_TIMEOUT_S = 600.0  # the server's own bound on forecasts and exports

Comparison = Literal["previous_period", "previous_week", "previous_year"]
Fill = Literal["zero", "empty"]
Method = Literal["auto", "zscore", "mad", "seasonal", "change_point"]
MetricType = Literal["count", "sum", "unique", "ratio", "derived", "cumulative"]
# A dimension's values; with an operator in front, how it is compared: ("not in", ["DE", "AT"]).
Condition = str | Sequence[str] | tuple[Literal["in", "not in", "starts with", "contains"], Sequence[str]]

_COMPARISONS = {
    None: pb.QueryKpisRequest.COMPARISON_UNSPECIFIED,
    "previous_period": pb.QueryKpisRequest.COMPARISON_PREVIOUS_PERIOD,
    "previous_week": pb.QueryKpisRequest.COMPARISON_PREVIOUS_WEEK,
    "previous_year": pb.QueryKpisRequest.COMPARISON_PREVIOUS_YEAR,
}
_FILLS = {
    None: pb.QueryKpisRequest.FILL_UNSPECIFIED,
    "zero": pb.QueryKpisRequest.FILL_ZERO,
    "empty": pb.QueryKpisRequest.FILL_EMPTY,
}
_OPERATORS = {
    "in": pb.QueryKpisRequest.Filter.OPERATOR_IN,
    "not in": pb.QueryKpisRequest.Filter.OPERATOR_NOT_IN,
    "starts with": pb.QueryKpisRequest.Filter.OPERATOR_STARTS_WITH,
    "contains": pb.QueryKpisRequest.Filter.OPERATOR_CONTAINS,
}


@dataclass(frozen=True, slots=True)
class KpiRow:
    """One window of one combination of dimension values; a metric without a value is not in `values`."""

    window_start: datetime
    window_end: datetime
    dimensions: Mapping[str, str]
    values: Mapping[str, float]
    previous: Mapping[str, float]
    change: Mapping[str, float]


class KpisClient:
    """`client.kpis`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> KpiServiceStub:
        return KpiServiceStub(self._connection.channel)

    async def metrics(
        self, *, site_id: str = "", window: timedelta | None = None, as_of: AsOf = None
    ) -> pb.GetMetricsResponse:
        """The latest window (1 minute by default), the recent events by type, and how fresh both are."""
        request = pb.GetMetricsRequest(site_id=site_id, window=_duration(window), **_as_of(as_of))
        return await self._connection.read(self._stub.GetMetrics, request, pb.GetMetricsResponse)

    async def watch(
        self, *, site_id: str = "", window: timedelta | None = None, interval: timedelta | None = None
    ) -> AsyncIterator[pb.GetMetricsResponse]:
        """The same at once and then whenever it changes, at most once an `interval` (5 s by default).

        Connects again by itself, and then yields the metrics anew.
        """
        request = pb.WatchMetricsRequest(site_id=site_id, window=_duration(window), interval=_duration(interval))

        def start() -> Any:
            return self._stub.WatchMetrics(request, metadata=self._connection.metadata)

        async for frame in self._connection.follow(start, pb.WatchMetricsResponse):
            if frame.HasField("metrics"):
                yield frame.metrics

    async def query(
        self,
        metrics: Sequence[str],
        *,
        dimensions: Sequence[str] = (),
        grain: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        last: str = "",
        filters: Mapping[str, Condition] | None = None,
        time_zone: str = "",
        compare: Comparison | None = None,
        fill: Fill | None = None,
        order_by: str = "",
        page_size: int = 1_000,
        as_of: AsOf = None,
    ) -> AsyncIterator[KpiRow]:
        """Metrics by dimensions and windows, page after page, all of one version.

        `grain` is `hour`, `day`, `15 minutes` and the like, or "" for the whole range as one window; `last` is a
        length such as `7 days` or a word such as `last_month`, in place of `start`. `filters` are values by dimension.
        """
        request = _query(
            metrics, dimensions, grain, start, end, last, filters, time_zone, compare, fill, order_by, page_size, as_of
        )
        while True:
            page = await self._connection.read(self._stub.QueryKpis, request, pb.QueryKpisResponse)
            for row in page.rows:
                yield _row(row)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def query_total(
        self,
        metrics: Sequence[str],
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        last: str = "",
        filters: Mapping[str, Condition] | None = None,
        time_zone: str = "",
        compare: Comparison | None = None,
        as_of: AsOf = None,
    ) -> KpiRow:
        """Metrics over a range as one window."""
        request = _query(metrics, (), "", start, end, last, filters, time_zone, compare, None, "", 1, as_of)
        return _row((await self._connection.read(self._stub.QueryKpis, request, pb.QueryKpisResponse)).total)

    async def query_frame(
        self,
        metrics: Sequence[str],
        *,
        dimensions: Sequence[str] = (),
        grain: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        last: str = "",
        filters: Mapping[str, Condition] | None = None,
        time_zone: str = "",
        compare: Comparison | None = None,
        fill: Fill | None = None,
        order_by: str = "",
        as_of: AsOf = None,
    ) -> pd.DataFrame:
        """The rows of `query` as a pandas frame, a column each for window_start, window_end, dimensions and metrics.

        With `compare` also `<metric>_previous` and `<metric>_change`. Needs `penstock[dataframe]`.
        """
        import pandas as pd

        request = _query(
            metrics, dimensions, grain, start, end, last, filters, time_zone, compare, fill, order_by, 10_000, as_of
        )
        columns = ["window_start", "window_end", *dimensions, *metrics]
        if compare is not None:
            columns += [f"{name}_{side}" for side in ("previous", "change") for name in metrics]
        records: list[dict[str, object]] = []
        while True:
            page = await self._connection.read(self._stub.QueryKpis, request, pb.QueryKpisResponse)
            records += [_record(row) for row in page.rows]
            if not page.next_page_token:
                return pd.DataFrame.from_records(records, columns=columns)
            request.page_token = page.next_page_token

    async def trend(
        self,
        metric: str,
        *,
        limit: int = 0,
        site_id: str = "",
        window: timedelta | None = None,
        as_of: AsOf = None,
    ) -> pb.GetTrendResponse:
        """A metric in the newest `limit` windows (60 by default), and where it goes."""
        request = pb.GetTrendRequest(
            metric=metric, limit=limit, site_id=site_id, window=_duration(window), **_as_of(as_of)
        )
        return await self._connection.read(self._stub.GetTrend, request, pb.GetTrendResponse)

    async def conversion_trend(
        self, *, limit: int = 0, site_id: str = "", window: timedelta | None = None, as_of: AsOf = None
    ) -> pb.GetConversionTrendResponse:
        """Conversion in the newest `limit` windows (60 by default), and where it goes."""
        request = pb.GetConversionTrendRequest(limit=limit, site_id=site_id, window=_duration(window), **_as_of(as_of))
        return await self._connection.read(self._stub.GetConversionTrend, request, pb.GetConversionTrendResponse)

    async def revenue_trend(
        self, *, limit: int = 0, site_id: str = "", window: timedelta | None = None, as_of: AsOf = None
    ) -> pb.GetRevenueTrendResponse:
        """GMV in the newest `limit` windows (60 by default), and where it goes."""
        request = pb.GetRevenueTrendRequest(limit=limit, site_id=site_id, window=_duration(window), **_as_of(as_of))
        return await self._connection.read(self._stub.GetRevenueTrend, request, pb.GetRevenueTrendResponse)

    async def anomalies(
        self,
        metric: str = "conversion_rate",
        *,
        method: Method = "auto",
        sensitivity: float | None = None,
        threshold: float | None = None,
        limit: int = 0,
        site_id: str = "",
        window: timedelta | None = None,
        as_of: AsOf = None,
        timeout_s: float | None = None,
    ) -> pb.DetectAnomaliesResponse:
        """The newest `limit` windows (60 by default) of a metric, each judged against what was to be expected."""
        request = pb.DetectAnomaliesRequest(
            metric=metric,
            method=method,
            sensitivity=sensitivity,
            threshold=threshold,
            limit=limit,
            site_id=site_id,
            window=_duration(window),
            **_as_of(as_of),
        )
        return await self._connection.read(self._stub.DetectAnomalies, request, pb.DetectAnomaliesResponse, timeout_s)

    async def forecast(
        self,
        metric: str,
        *,
        horizon: int = 0,
        site_id: str = "",
        window: timedelta | None = None,
        as_of: AsOf = None,
        timeout_s: float = HEAVY_TIMEOUT_S,
    ) -> pb.ForecastKpiResponse:
        """The next `horizon` windows (24 of an hour by default), with intervals and how good such forecasts were."""
        request = pb.ForecastKpiRequest(
            metric=metric, horizon=horizon, site_id=site_id, window=_duration(window), **_as_of(as_of)
        )
        return await self._connection.read(self._stub.ForecastKpi, request, pb.ForecastKpiResponse, timeout_s)

    async def conversion_forecast(
        self, *, site_id: str = "", as_of: AsOf = None, timeout_s: float = HEAVY_TIMEOUT_S
    ) -> pb.GetConversionForecastResponse:
        """Conversion in the next hour, and where it goes."""
        request = pb.GetConversionForecastRequest(site_id=site_id, **_as_of(as_of))
        return await self._connection.read(
            self._stub.GetConversionForecast, request, pb.GetConversionForecastResponse, timeout_s
        )

    async def features(self, user_id: str = "", *, as_of: AsOf = None) -> pb.GetFeaturesResponse:
        """Features of one user, or of all together. Raises NotFound for a user without events."""
        request = pb.GetFeaturesRequest(user_id=user_id, **_as_of(as_of))
        return await self._connection.read(self._stub.GetFeatures, request, pb.GetFeaturesResponse)

    async def export_features(
        self,
        *,
        active_since: datetime | None = None,
        as_of: AsOf = None,
        timeout_s: float = HEAVY_TIMEOUT_S,
    ) -> pa.Table:
        """The features of every user as an Arrow table. Raises an Error when the export broke off."""
        import grpc
        import pyarrow as pa

        since = instant(active_since) if active_since is not None else None
        request = pb.ExportFeaturesRequest(active_since=since, **_as_of(as_of))
        whole = bytearray()
        try:
            call = self._stub.ExportFeatures(request, timeout=timeout_s, metadata=self._connection.metadata)
            async for piece in call:
                whole += piece.data
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        with pa.ipc.open_stream(pa.py_buffer(bytes(whole))) as stream:
            return stream.read_all()

    async def data_quality(self, *, window: timedelta | None = None, site_id: str = "") -> pb.GetDataQualityResponse:
        """Whether the data of the last `window` (24 hours by default) can be trusted, check by check."""
        request = pb.GetDataQualityRequest(window=_duration(window), site_id=site_id)
        return await self._connection.read(self._stub.GetDataQuality, request, pb.GetDataQualityResponse)

    async def latency(self, *, limit: int = 0, site_id: str = "") -> pb.GetLatencyResponse:
        """How long events took to be stored, in the newest `limit` minutes (60 by default)."""
        request = pb.GetLatencyRequest(limit=limit, site_id=site_id)
        return await self._connection.read(self._stub.GetLatency, request, pb.GetLatencyResponse)

    async def catalog(self) -> Sequence[Kpi]:
        """Every metric, by name."""
        return (await self._connection.read(self._stub.ListKpis, pb.ListKpisRequest(), pb.ListKpisResponse)).kpis

    async def get(self, name: str) -> Kpi:
        """One metric of the catalogue. Raises NotFound."""
        return (await self._connection.read(self._stub.GetKpi, pb.GetKpiRequest(name=name), pb.GetKpiResponse)).kpi

    async def create(
        self,
        name: str,
        type: MetricType,
        expression: str,
        *,
        label: str = "",
        description: str = "",
        unit: str = "count",
        good_direction: Literal["up", "down"] | None = None,
        warning: float | None = None,
        critical: float | None = None,
    ) -> Kpi:
        """Adds a metric of your own, such as `("signups", "count", "count(event_type = 'signup')")`.

        Raises InvalidRequest for an expression that cannot be read, AlreadyStored for a name that is taken.
        """
        kpi = _kpi(name, type, expression, label or name, description, unit, good_direction, warning, critical)
        request = pb.CreateKpiRequest(kpi=kpi, request_id=str(uuid4()))
        # One that is there and equal is answered as it is, so the call may be tried again.
        return (await self._connection.read(self._stub.CreateKpi, request, pb.CreateKpiResponse)).kpi

    async def update(
        self,
        name: str,
        *,
        type: MetricType | None = None,
        expression: str | None = None,
        label: str | None = None,
        description: str | None = None,
        unit: str | None = None,
        good_direction: Literal["up", "down"] | None = None,
        warning: float | None = None,
        critical: float | None = None,
    ) -> Kpi:
        """Changes what is given of a metric of your own; `warning` and `critical` go together."""
        given = {
            "type": type, "expression": expression, "label": label, "description": description, "unit": unit,
            "good_direction": good_direction,
        }  # fmt: skip
        paths = [field for field, value in given.items() if value is not None]
        if warning is not None or critical is not None:
            paths.append("thresholds")
        kpi = _kpi(
            name, type, expression or "", label or "", description or "", unit or "", good_direction, warning, critical
        )
        request = pb.UpdateKpiRequest(kpi=kpi, update_mask=FieldMask(paths=paths))
        return (await self._connection.call(self._stub.UpdateKpi, request, pb.UpdateKpiResponse)).kpi

    async def delete(self, name: str) -> None:
        """Removes a metric of your own. Raises Conflict while another is made of it."""
        await self._connection.call(self._stub.DeleteKpi, pb.DeleteKpiRequest(name=name), pb.DeleteKpiResponse)


def _query(
    metrics: Sequence[str],
    dimensions: Sequence[str],
    grain: str,
    start: datetime | None,
    end: datetime | None,
    last: str,
    filters: Mapping[str, Condition] | None,
    time_zone: str,
    compare: Comparison | None,
    fill: Fill | None,
    order_by: str,
    page_size: int,
    as_of: AsOf,
) -> pb.QueryKpisRequest:
    covered = pb.QueryKpisRequest.Range(
        start=instant(start) if start is not None else None,
        end=instant(end) if end is not None else None,
        last=last,
    )
    return pb.QueryKpisRequest(
        metrics=metrics,
        dimensions=dimensions,
        grain=grain,
        range=covered,
        filters=[_filter(dimension, condition) for dimension, condition in (filters or {}).items()],
        time_zone=time_zone,
        comparison=_COMPARISONS[compare],
        fill=_FILLS[fill],
        order_by=order_by,
        page_size=page_size,
        **_as_of(as_of),
    )


def _filter(dimension: str, condition: Condition) -> pb.QueryKpisRequest.Filter:
    match condition:
        case str(value):
            operator, values = "in", [value]
        case (str(name), [*several]) if name in _OPERATORS:
            operator, values = name, [str(each) for each in several]
        case _:
            operator, values = "in", [str(each) for each in condition]
    return pb.QueryKpisRequest.Filter(dimension=dimension, operator=_OPERATORS[operator], values=values)


def _kpi(
    name: str,
    type: MetricType | None,
    expression: str,
    label: str,
    description: str,
    unit: str,
    good_direction: Literal["up", "down"] | None,
    warning: float | None,
    critical: float | None,
) -> Kpi:
    thresholds = Kpi.Thresholds(warning=warning, critical=critical)
    return Kpi(
        name=name,
        type=f"TYPE_{type.upper()}" if type is not None else None,
        expression=expression,
        label=label,
        description=description,
        unit=unit,
        good_direction=f"DIRECTION_{good_direction.upper()}" if good_direction else None,
        thresholds=thresholds if warning is not None or critical is not None else None,
    )


def _row(row: pb.QueryKpisResponse.Row) -> KpiRow:
    return KpiRow(
        row.window_start.ToDatetime(UTC),
        row.window_end.ToDatetime(UTC),
        dict(row.dimensions),
        dict(row.values),
        dict(row.previous),
        dict(row.change),
    )


def _record(row: pb.QueryKpisResponse.Row) -> dict[str, object]:
    record: dict[str, object] = {
        "window_start": row.window_start.ToDatetime(UTC),
        "window_end": row.window_end.ToDatetime(UTC),
        **row.dimensions,
        **row.values,
    }
    record.update({f"{name}_previous": value for name, value in row.previous.items()})
    record.update({f"{name}_change": value for name, value in row.change.items()})
    return record


def _as_of(as_of: AsOf) -> dict[str, Any]:
    if as_of is None:
        return {}
    if isinstance(as_of, int):
        return {"as_of_version": as_of}
    moment: Timestamp = instant(as_of)
    return {"as_of_time": moment}


def _duration(length: timedelta | None) -> Duration | None:
    if length is None:
        return None
    made = Duration()
    made.FromTimedelta(length)
    return made
