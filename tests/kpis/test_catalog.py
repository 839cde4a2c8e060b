"""The catalogue says what is wrong with it, and what comes with Penstock is right."""

from decimal import Decimal

import pytest

from penstock.kpis.catalog import CatalogError, load_catalog, parse_catalog
from penstock.kpis.reader import WINDOW_METRICS
from penstock.kpis.v1 import kpis_pb2

METRIC = """
- name: {name}
  label: A label
  description: A description.
  unit: count
  type: {type}
  expression: {expression}
  good_direction: up
"""


def declared(*metrics: tuple[str, str, str]) -> str:
    return "".join(METRIC.format(name=name, type=kind, expression=expression) for name, kind, expression in metrics)


def test_comes_with_the_metrics_that_gold_can_make() -> None:
    assert set(load_catalog().metrics) >= {
        *("orders", "gmv", "purchase_users", "view_users", "active_users", "conversion_rate", "add_to_cart_rate"),
        *("average_order_value", "refunds", "revenue_net"),
    }


def test_a_window_of_the_contract_shows_metrics_of_the_catalogue() -> None:
    fields = set(kpis_pb2.KpiWindow.DESCRIPTOR.fields_by_name) - {"window_start", "window_end", "currency"}
    assert fields == set(WINDOW_METRICS) <= set(load_catalog().metrics)


def test_metrics_are_in_the_order_of_their_names() -> None:
    names = list(load_catalog().metrics)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("kind", "expression", "error"),
    [
        ("count", "sum(clicks)", "metric m: unknown column 'clicks'; known: events, "),
        ("count", "sum(gmv)", "column 'gmv' holds an amount; a metric of type count reads a counter"),
        ("sum", "sum(page_views)", "column 'page_views' holds a counter; a metric of type sum reads an amount"),
        ("unique", "sum(orders)", "unknown function 'sum' in a metric of type unique; known: unique, "),
        ("unique", "unique(orders) + unique(view_users)", "cannot stand in a metric of type unique"),
        ("count", "sum(page_views) * 2", "'sum(page_views) * 2' cannot stand in a metric of type count"),
        ("count", "sum(file('/etc/passwd'))", "cannot stand in a metric of type count"),
        ("count", "page_views", "'page_views' cannot stand in a metric of type count"),
        ("count", "sum(page_views", "'sum(page_views' cannot be read"),
        ("ratio", "sum(page_views) / sum(events)", "a ratio is `metric / metric`"),
        ("ratio", "m / nothing", "'m' is a ratio itself"),
        ("ratio", "nothing / m", "unknown metric 'nothing'"),
        ("derived", "sum(events)", "metric 1, type: Input should be 'count', 'sum', 'unique' or 'ratio'"),
    ],
)
def test_says_what_is_wrong_with_a_metric(kind: str, expression: str, error: str) -> None:
    with pytest.raises(CatalogError) as raised:
        parse_catalog(declared(("m", kind, expression)), "mine.yaml")
    assert str(raised.value).startswith("mine.yaml: ")
    assert error in str(raised.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("metrics: [", "mine.yaml: while parsing"),
        ("", "mine.yaml: the file: Input should be a valid list"),
        ("- name: m", "metric 1, label: Field required"),
        (declared(("Gmv", "sum", "sum(gmv)")), "metric 1, name: String should match pattern"),
        (declared(("m", "sum", "sum(gmv)")) + "  colour: red\n", "metric 1, colour: Extra inputs are not permitted"),
        (declared(("m", "sum", "sum(gmv)"), ("m", "sum", "sum(gmv)")), "metric m is declared twice"),
    ],
)
def test_says_what_is_wrong_with_the_file(text: str, error: str) -> None:
    with pytest.raises(CatalogError) as raised:
        parse_catalog(text, "mine.yaml")
    assert error in str(raised.value)


def test_reads_only_what_the_metrics_need() -> None:
    catalog = parse_catalog(
        declared(("views", "count", "sum(page_views)"), ("all", "count", "sum(events)"), ("r", "ratio", "views / all")),
        "mine.yaml",
    )
    assert catalog.select(["views"]) == "sum(gold.page_views) AS views"
    assert catalog.select(["r", "views"]).count("page_views") == 1


def test_a_ratio_without_a_denominator_has_no_value() -> None:
    catalog = load_catalog()
    row = {"gmv": Decimal("12.50"), "orders_in_currency": 2, "purchase_users": 0, "view_users": 0}
    assert catalog.values(["average_order_value"], row) == {"average_order_value": 6.25}
    assert catalog.values(["conversion_rate"], row) == {"conversion_rate": None}
