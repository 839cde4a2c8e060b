"""What a query does besides computing: pages, fills, comparisons, orders, bounds, versions."""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock import limits
from penstock.errors import InvalidInput, NotFound, TooCostly
from penstock.kpis.catalog import Declaration, Direction, Unit
from penstock.kpis.expression import MetricType
from penstock.kpis.grain import MICROS, Windows
from penstock.kpis.moment import Moments
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.query import KpiQueries
from penstock.kpis.series import SeriesReader
from penstock.kpis.service import KpiService
from penstock.kpis.sources import Selection, Table, statements
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Engine
from tests.kpis.conftest import statements_of
from tests.pipeline import bronze
from tests.pipeline.bronze import Sent

DAY = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
REQUEST = pb.QueryKpisRequest


def at(days: float, **fields: Any) -> Sent:
    return Sent(event_time=DAY + timedelta(days=days), **fields)


EVENTS = [
    at(-7.4, event_type="purchase", visitor_id="a", price=Decimal(50)),
    at(-1, event_type="purchase", visitor_id="a", price=Decimal(8)),
    at(0.5, visitor_id="a"),
    at(0.5, event_type="purchase", visitor_id="a", price=Decimal(10), product_id="p1"),
    at(0.6, event_type="purchase", visitor_id="b", price=Decimal(30), product_id="p2", site_id="blog"),
    at(2.5, visitor_id="b", site_id="blog"),
    at(2.6, event_type="purchase", visitor_id="b", price=Decimal(7), currency="EUR"),
]


class Call:
    tenant = "default"


@pytest.fixture
async def runner(engine: Engine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[PipelineRunner]:
    opened = PipelineRunner(engine, commit_log, settings)
    await opened.open()
    yield opened
    await opened.stop()


@pytest.fixture
async def service(
    catalogs: Catalogs, moments: Moments, queries: KpiQueries, engine: Engine, commit_log: CommitLog,
    runner: PipelineRunner,
) -> KpiService:  # fmt: skip
    """A service with the events in it, as far as queries need one."""
    await bronze.commit(engine, commit_log, EVENTS)
    await runner.run()
    made = object.__new__(KpiService)
    made._catalogs, made._moments, made._queries = catalogs, moments, queries
    return made


def request(*metrics: str, days: float = 4, **fields: Any) -> pb.QueryKpisRequest:
    covered = REQUEST.Range(start=stamp(DAY), end=stamp(DAY + timedelta(days=days)))
    return REQUEST(**{"metrics": metrics, "grain": "day", "range": covered, **fields})


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def ask(service: KpiService, asked: pb.QueryKpisRequest) -> pb.QueryKpisResponse:
    return await service.QueryKpis(asked, Call())  # type: ignore[arg-type]


def table(response: pb.QueryKpisResponse, metric: str) -> list[tuple[int, float | None]]:
    """Day of each row and its value."""
    start = int(DAY.timestamp())
    return [((row.window_start.seconds - start) // 86_400, row.values.get(metric)) for row in response.rows]


BUYERS = Declaration(
    name="buyers_so_far", label="Buyers", description="", unit=Unit.COUNT, type=MetricType.CUMULATIVE,
    expression="cumulative(purchase_users)", good_direction=Direction.UP,
)  # fmt: skip


async def test_windows_without_events_are_left_out_or_filled(service: KpiService, catalogs: Catalogs) -> None:
    plain = await ask(service, request("gmv", "conversion_rate", "cumulative_gmv"))
    assert table(plain, "gmv") == [(0, 40), (2, 0)]
    zero = await ask(service, request("gmv", "conversion_rate", "cumulative_gmv", fill=REQUEST.FILL_ZERO))
    assert table(zero, "gmv") == [(0, 40), (1, 0), (2, 0), (3, 0)]
    assert table(zero, "conversion_rate") == [(0, 2), (1, None), (2, 1), (3, None)]
    assert table(zero, "cumulative_gmv") == [(0, 40), (1, 40), (2, 40), (3, 40)]
    empty = await ask(service, request("gmv", fill=REQUEST.FILL_EMPTY))
    assert table(empty, "gmv") == [(0, 40), (1, None), (2, 0), (3, None)]
    assert plain.total == zero.total
    await catalogs.create("default", BUYERS)
    so_far = await ask(service, request("buyers_so_far", fill=REQUEST.FILL_ZERO))
    assert table(so_far, "buyers_so_far") == [(0, 2), (1, 2), (2, 2), (3, 2)]
    sites = await ask(service, request("orders", dimensions=["site"], fill=REQUEST.FILL_ZERO))
    assert [(row.dimensions["site"], row.values["orders"]) for row in sites.rows] == [
        ("blog", 1), ("shop", 1), ("blog", 0), ("shop", 0), ("blog", 0), ("shop", 1), ("blog", 0), ("shop", 0),
    ]  # fmt: skip


async def test_the_end_of_a_window_is_not_in_it(service: KpiService) -> None:
    noon = DAY + timedelta(days=0.5)
    until, since = REQUEST.Range(start=stamp(DAY), end=stamp(noon)), REQUEST.Range(start=stamp(noon), last="")
    since.end.CopyFrom(stamp(noon + timedelta(microseconds=1)))
    for dimensions in ([], ["source"], ["product"]):
        for metric, seen in (("events", 2), ("sessions", 1)):
            if metric == "sessions" and "product" in dimensions:
                continue
            asked = [request(metric, grain="", range=each, dimensions=dimensions) for each in (until, since)]
            assert [(await ask(service, each)).total.values[metric] for each in asked] == [0, seen], dimensions


async def test_totals_are_of_the_range_not_of_the_rows(service: KpiService) -> None:
    answer = await ask(service, request("purchase_users", "orders", dimensions=["site"]))
    assert [row.values["purchase_users"] for row in answer.rows] == [1, 1, 0, 1]
    assert answer.total.values == {"purchase_users": 2, "orders": 3}
    assert (answer.total.window_start.seconds, answer.row_count) == (int(DAY.timestamp()), 4)


async def test_amounts_are_of_one_currency_unless_split_by_it(service: KpiService) -> None:
    assert (await ask(service, request("gmv", grain=""))).total.values["gmv"] == 40
    split = await ask(service, request("gmv", grain="", dimensions=["currency"]))
    assert [(row.dimensions["currency"], row.values["gmv"]) for row in split.rows] == [("EUR", 7), ("USD", 40)]
    assert (split.total.values["gmv"], split.currency) == (40, "USD")
    euros = await ask(service, request("gmv", grain="", filters=[REQUEST.Filter(dimension="currency", values=["EUR"])]))
    assert (euros.rows[0].values["gmv"], euros.total.values["gmv"], euros.currency) == (7, 7, "EUR")


async def test_rows_are_compared_with_those_before(service: KpiService) -> None:
    day = request("gmv", "orders", days=1, grain="", comparison=REQUEST.COMPARISON_PREVIOUS_PERIOD)
    (row,) = (await ask(service, day)).rows
    assert (dict(row.values), dict(row.previous)) == ({"gmv": 40, "orders": 2}, {"gmv": 8, "orders": 1})
    assert row.change == {"gmv": 4, "orders": 1}
    week = await ask(service, request("gmv", days=7, grain="", comparison=REQUEST.COMPARISON_PREVIOUS_WEEK))
    assert (week.rows[0].previous["gmv"], week.total.previous["gmv"]) == (8, 8)
    year = await ask(service, request("gmv", comparison=REQUEST.COMPARISON_PREVIOUS_YEAR))
    assert [(dict(row.previous), dict(row.change)) for row in [*year.rows, year.total]] == [({}, {})] * 3
    filled = request("gmv", comparison=REQUEST.COMPARISON_PREVIOUS_YEAR, fill=REQUEST.FILL_ZERO)
    assert [(dict(row.previous), dict(row.change)) for row in (await ask(service, filled)).rows] == [
        ({"gmv": 0}, {})
    ] * 4


async def test_rows_come_in_the_order_that_is_asked_for(service: KpiService) -> None:
    metrics = ("gmv", "conversion_rate", "average_order_value")
    for order_by, products in (
        ("gmv desc", ["p2", "p1", ""]),
        ("gmv", ["", "p1", "p2"]),
        ("product desc", ["p2", "p1", ""]),
        ("conversion_rate, product desc", ["", "p2", "p1"]),
        ("average_order_value desc", ["p2", "p1", ""]),  # without a value comes last either way
        ("average_order_value", ["p1", "p2", ""]),
    ):
        asked = request(*metrics, grain="", dimensions=["product"], order_by=order_by)
        assert [row.dimensions["product"] for row in (await ask(service, asked)).rows] == products, order_by


async def test_pages_are_of_one_version_and_one_request(
    service: KpiService, engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner
) -> None:
    asked = request("orders", dimensions=["site", "product"], page_size=2)
    whole = list((await ask(service, request("orders", dimensions=["site", "product"]))).rows)
    first = await ask(service, asked)
    await bronze.commit(engine, commit_log, [at(0.1, event_type="purchase", visitor_id="late")])
    await runner.run()
    rows, page = list(first.rows), first
    while page.next_page_token:
        asked.page_token = page.next_page_token
        page = await ask(service, asked)
        assert (page.version, page.row_count) == (first.version, len(whole))
        rows += page.rows
    assert rows == whole
    asked.ClearField("page_token")
    assert (await ask(service, asked)).version > first.version
    for wrong in (request("gmv", page_token=first.next_page_token), request("gmv", page_token="nonsense")):
        with pytest.raises(InvalidInput) as raised:
            await ask(service, wrong)
        assert raised.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("dimensions", [["site"], ["source"], ["product"]], ids=["gold", "visits", "silver"])
async def test_an_older_version_stays_what_it_was(
    dimensions: list[str], service: KpiService, engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner
) -> None:
    asked = request("gmv", "active_users", dimensions=dimensions)
    then = await ask(service, asked)
    await bronze.commit(engine, commit_log, [at(0.1, event_type="purchase", visitor_id="late", price=Decimal(1))])
    await runner.run()
    assert (await ask(service, asked)).total.values["gmv"] == 41
    asked.as_of_version = then.version
    service._queries = KpiQueries(engine, service._catalogs, "USD")  # which has no answer in memory
    again = await ask(service, asked)
    assert (list(again.rows), again.total) == (list(then.rows), then.total)


async def test_no_data_is_an_answer_with_a_reason(
    service: KpiService, queries: KpiQueries, engine: ClickHouseEngine
) -> None:
    answer = await ask(
        service, request("gmv", "conversion_rate", filters=[REQUEST.Filter(dimension="site", values=["x"])])
    )
    assert (list(answer.rows), answer.reason) == ([], "no events in this range that pass the filters")
    assert answer.total.values == {"gmv": 0}
    empty = request(
        "sessions", range=REQUEST.Range(start=stamp(DAY - timedelta(days=99)), end=stamp(DAY - timedelta(days=98)))
    )
    assert (await ask(service, empty)).reason == "no events in this range"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dimensions": ["colour"]}, "dimensions"),
    ({"dimensions": ["properties."]}, "dimensions"),
    ({"metrics": ["gmv", "sessions"], "dimensions": ["device"]}, "dimensions"),
    (
        {"metrics": ["bounce_rate"], "filters": [REQUEST.Filter(dimension="path", values=["/"])]},
        "filters[0].dimension",
    ),
    ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ({"time_zone": "../../etc/passwd"}, "time_zone"),
    ({"order_by": "orders"}, "order_by"),
    ({"order_by": "gmv down"}, "order_by"),
    ({"grain": "minute", "range": REQUEST.Range(last="8 days")}, "grain"),
    ({"grain": "25 hours"}, "grain"),
    ({"range": REQUEST.Range(last="soon")}, "range.last"),
    ({"range": REQUEST.Range(start=stamp(DAY), end=stamp(DAY))}, "range"),
    ({"filters": [REQUEST.Filter(dimension="site", values=[""], operator=4)]}, "filters[0].values"),
    ({"as_of_version": 1, "as_of_time": stamp(DAY)}, "as_of_time"),
]


async def test_what_is_wrong_is_told_by_its_field(service: KpiService) -> None:
    for fields, field in WRONG:
        with pytest.raises(InvalidInput) as raised:
            await ask(service, request(**{"metrics": ["gmv"], **fields}))
        assert [violation.field for violation in raised.value.violations] == [field]


async def test_a_metric_that_there_is_not(service: KpiService) -> None:
    with pytest.raises(NotFound) as raised:
        await ask(service, request("gmv", "nothing"))
    assert raised.value.reason == "KPI_NOT_FOUND"


async def test_more_rows_than_the_bound_are_refused(service: KpiService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KPI_QUERY_ROWS_MAX", 3)
    assert len((await ask(service, request("orders"))).rows) == 2
    for fields in ({"dimensions": ["product", "site"]}, {"fill": REQUEST.FILL_ZERO}):
        with pytest.raises(TooCostly) as raised:
            await ask(service, request("orders", **fields))
        assert raised.value.reason == "TOO_MANY_ROWS"


async def test_values_of_filters_and_keys_are_never_sql(service: KpiService) -> None:
    hostile = "x') OR 1=1 --`\\\"{tenant:String}"
    for name in ("site", f"properties.{hostile}"):
        answer = await ask(
            service, request("events", dimensions=[name], filters=[REQUEST.Filter(dimension=name, values=[hostile])])
        )
        assert not answer.rows


async def test_the_same_again_costs_no_statement(
    service: KpiService, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(service, request("gmv", "sessions"))
    read = statements_of(engine, monkeypatch)
    assert await ask(service, request("gmv", "sessions")) == first
    assert read == []


async def test_each_metric_is_read_from_the_cheapest_table(catalogs: Catalogs, commit_log: CommitLog) -> None:
    catalog = await catalogs.of("default")
    plans: list[tuple[Sequence[str], tuple[str, ...], int, set[Table]]] = [
        (("page_views",), (), 0, {Table.GOLD_EVENTS}),
        (("page_views", "events"), ("event_type",), 0, {Table.GOLD_EVENTS}),
        (("gmv", "page_views"), ("site",), 0, {Table.GOLD_KPIS}),
        (("conversion_rate", "orders"), ("currency",), 0, {Table.GOLD_KPIS}),
        (("gmv", "active_users"), ("device", "source"), 0, {Table.GOLD_VISITS}),
        (("gmv",), ("device",), 60, {Table.SILVER}),
        (("gmv",), ("product",), 0, {Table.SILVER}),
        (("page_views",), ("device", "event_type"), 0, {Table.SILVER}),
        (("gmv",), (), 1, {Table.SILVER}),
        (("gmv", "sessions"), ("site",), 0, {Table.GOLD_KPIS, Table.SESSIONS}),
    ]
    month: list[tuple[Sequence[str], tuple[str, ...], int, set[Table]]] = [
        (("conversion_rate", "gmv", "orders"), ("site",), 0, {Table.GOLD_VISITS, Table.GOLD_KPIS}),
        (("conversion_rate",), ("site",), 60, {Table.GOLD_KPIS}),
    ]
    for hours, (metrics, dimensions, seconds, tables) in [*((1, each) for each in plans), *((720, e) for e in month)]:
        start = (int(DAY.timestamp()) + seconds) * MICROS
        windows = Windows((start, start + hours * 3_600 * MICROS))
        selection = Selection("default", commit_log.version, windows, dimensions, (), "USD")
        made = statements(selection, catalog.need(metrics).aggregates)
        read = {next(table for table in Table if re.search(rf"FROM\s+\(?[^)]*\b{table}\b", each.sql)) for each in made}
        assert read == tables, (metrics, dimensions)


async def test_series_mark_gaps_and_keep_both_sides_of_a_ratio(
    service: KpiService, series: SeriesReader, commit_log: CommitLog
) -> None:
    found = await series.series(
        "default", "conversion_rate", timedelta(days=1), 4, "", commit_log.version, until=DAY + timedelta(days=9)
    )
    assert [(p.start.day, p.value, p.numerator, p.denominator, p.empty) for p in found.points] == [
        (1, None, 1, 0, False), (2, 2.0, 2, 1, False), (3, None, 0, 0, True), (4, 1.0, 1, 1, False),
    ]  # fmt: skip
    found = await series.series(
        "default", "gmv", timedelta(days=1), 3, "", commit_log.version, until=DAY + timedelta(days=9), gaps=False
    )
    assert [(p.start.day, p.value, p.numerator) for p in found.points] == [(1, 8, None), (2, 40, None), (4, 0, None)]
    nowhere = await series.series("default", "gmv", timedelta(hours=1), 3, "x", commit_log.version, until=DAY)
    assert (list(nowhere.points), nowhere.reason) == ([], "no events of this site yet")
    with pytest.raises(NotFound):
        await series.series("default", "nothing", timedelta(hours=1), 3, "", commit_log.version, until=DAY)
