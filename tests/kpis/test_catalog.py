"""The catalogue says what is wrong with it, and what comes with Penstock is right."""

import json
from decimal import Decimal
from typing import Any

import pytest

from penstock.kpis.catalog import CatalogError, Declaration, load_catalog, metric_of, parse_catalog
from penstock.kpis.expression import MetricType, compiled
from penstock.kpis.fields import Bindings
from penstock.kpis.formula import Aggregate, aggregate_sql
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
    return "".join(
        METRIC.format(name=name, type=kind, expression=json.dumps(expression)) for name, kind, expression in metrics
    )


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
        ("count", "count(colour = 'red')", "metric m: unknown field 'colour'; known: event_type, "),
        ("count", "sum(amount)", "unknown function 'sum' in a metric of type count; known: count"),
        ("count", "count(event_type = 3)", "event_type holds a text and cannot be compared with 3"),
        ("count", "count(price = 'dear')", "price holds a number and cannot be compared with 'dear'"),
        ("count", "count(event_type < 'b')", "event_type cannot be compared so with 'b'"),
        ("count", "count(1 < price < 3)", "is not a condition"),
        ("count", "count(price)", "'price' holds a number: compare it with something"),
        ("count", "count(session.converted = 1)", "converted cannot be compared with 1"),
        (
            "count",
            "count(session.seconds > 9 and path = '/')",
            "'path' is of events; the rest of the metric is of sessions",
        ),
        ("count", "count(event_type in 'abc')", "cannot be compared so with 'abc'"),
        ("count", "count(event_type in ('a', 3))", "cannot be compared with"),
        ("count", "count(event_type = f'{path}')", "is neither a text, a number nor a list of them"),
        ("count", "count(event_type = 'it\\'s')", "cannot be read"),
        ("count", "count(file('/etc/passwd'))", "is not a condition"),
        ("count", "count(*path)", "is not a condition"),
        ("count", "count() + count()", "cannot stand in a metric of type count"),
        ("count", "count(", "'count(' cannot be read"),
        ("count", "count(not " + "not " * 40 + "session.converted)", "as many negations"),
        ("count", "(" * 300, "may have 32 parentheses"),
        ("sum", "sum(path)", "path holds a text; what is added up are numbers"),
        ("sum", "sum(amount, path = '/', site = 'a')", "cannot stand in a metric of type sum"),
        ("unique", "unique(amount)", "amount holds a number; unique counts texts"),
        ("unique", "unique(visitor) + unique(order)", "cannot stand in a metric of type unique"),
        ("unique", "unique_in_currency(session.visitor)", "sessions have no currency"),
        ("ratio", "count() / count()", "a ratio is `metric / metric` or `average(field)`"),
        ("ratio", "nothing / m", "unknown metric 'nothing'"),
        ("derived", "count()", "a derived metric is `+`, `-`, `*`, `/` and `abs` over metrics and numbers"),
        ("derived", "m ** 2", "a derived metric is"),
        ("derived", "1e999", "too large a number"),
        ("derived", "m + 1", "made of itself: m → m"),
        ("cumulative", "gmv", "a cumulative metric is `cumulative(metric)`"),
        ("median", "count()", "metric 1, type: Input should be 'count', 'sum', "),
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
        (declared(("Gmv", "count", "count()")), "metric 1, name: String should match pattern"),
        (declared(("m", "count", "count()")) + "  colour: red\n", "metric 1, colour: Extra inputs are not permitted"),
        (declared(("m", "count", "count()"), ("m", "count", "count()")), "metric m is declared twice"),
    ],
)
def test_says_what_is_wrong_with_the_file(text: str, error: str) -> None:
    with pytest.raises(CatalogError) as raised:
        parse_catalog(text, "mine.yaml")
    assert error in str(raised.value)


def test_reads_only_what_the_metrics_need() -> None:
    catalog = load_catalog()
    views = catalog.need(["page_views"]).aggregates
    assert len(views) == 1
    assert len(catalog.need(["conversion_rate", "purchase_users", "view_users"]).aggregates) == 2
    running = catalog.need(["cumulative_gmv"])
    assert (running.aggregates, len(running.running)) == ((), 1)


def test_a_ratio_without_a_denominator_has_no_value_and_neither_has_what_is_made_of_it() -> None:
    text = declared(("value", "derived", "conversion_rate * 100 - 1"))
    catalog = load_catalog().with_own(parse_catalog(text.replace("conversion_rate", "1"), "mine.yaml").metrics.values())
    assert catalog.values(["value"], {}) == {"value": Decimal(99)}
    assert load_catalog().values(["conversion_rate", "gmv", "orders"], {}) == {
        "conversion_rate": None,
        "gmv": Decimal(0),
        "orders": 0,
    }
    made = metric_of(Declaration(**{**FIELDS, "expression": "conversion_rate * 100 - 1"}))
    assert load_catalog().with_own([made]).values(["m"], {}) == {"m": None}


def test_no_value_is_infinite_or_not_a_number() -> None:
    expressions = ("1e300 * 1e300 * 1e300 * m0", "average_session_length * 1e308 * 1e308", "m1 - m1")
    metrics = [
        metric_of(Declaration(**{**FIELDS, "name": f"m{n}", "expression": each}))
        for n, each in enumerate(("gmv + 2", *expressions))
    ]
    catalog = load_catalog().with_own(metrics)
    seconds, sessions = catalog.need(["average_session_length"]).aggregates
    values = catalog.values(["m1", "m2", "m3", "average_session_length"], {seconds: 1e300, sessions: 1})
    assert (values["m1"], values["m2"], values["m3"]) == (None, None, None)
    assert catalog.values(["average_session_length"], {seconds: float("nan"), sessions: 1}) == {
        "average_session_length": None
    }


def test_what_a_text_says_never_becomes_sql() -> None:
    hostile = ("x') OR 1=1 --", "{tenant:String}", "`", "'; DROP TABLE commits", "$$")
    for text in hostile:
        for expression in (f'count(event_type = "{text}")', f'count(properties["{text}"] = "a")'):
            made = compiled(expression, MetricType.COUNT)
            assert isinstance(made, Aggregate)
            bind = Bindings()
            assert text not in aggregate_sql(made, bind, "")
            assert text in bind.values.values()


def test_dimensions_are_those_that_all_parts_have() -> None:
    catalog = load_catalog()
    assert set(catalog.dimensions("gmv")) > {"site", "device", "product", "properties.<key>"}
    assert catalog.dimensions("bounce_rate") == ("site", "source", "medium", "campaign", "experiment.<name>")


def test_the_alert_threshold_of_conversion_is_a_setting() -> None:
    assert load_catalog().metrics["conversion_rate"].thresholds.warning == 0.05
    assert load_catalog(conversion_alert_threshold=0.2).metrics["conversion_rate"].thresholds.warning == 0.2


FIELDS: dict[str, Any] = {
    "name": "m", "label": "M", "description": "", "unit": "count", "type": "derived", "expression": "1",
    "good_direction": "up",
}  # fmt: skip
