"""The views say of themselves what is true, and the lists of functions fit the engine."""

import re

from penstock.queries import allowed
from penstock.queries.gate import Gate
from penstock.queries.verdict import Checked, Refused
from penstock.queries.views import TENANT, VIEWS
from penstock.storage.engine import ClickHouseEngine
from tests.queries.house import OURS, SECRET, THEIRS, VERSION

# Of the engine's own categories of functions, those of which none may be called.
_DANGEROUS = {"Dictionary", "Embedded Dictionary", "Introspection", "Internal", "Machine Learning", "AI", "Encryption"}


async def test_columns_are_what_the_engine_says(house: ClickHouseEngine) -> None:
    for view in VIEWS.values():
        described = await house.rows(f"DESCRIBE {view.relation(VERSION)}", {TENANT: OURS})
        found = [(row["name"], re.sub(r"\n\s*", "", row["type"].replace(",\n", ", "))) for row in described]
        assert [(name, re.sub(r", +", ", ", kind)) for name, kind in found] == [
            (c.name, c.type) for c in view.columns
        ], view.name
        assert all(column.description for column in view.columns)


async def test_rows_are_the_tenants_own_of_that_version(house: ClickHouseEngine) -> None:
    for view in VIEWS.values():
        for tenant, secret in ((OURS, False), (THEIRS, True)):
            rows = await house.rows(f"SELECT * FROM {view.relation(VERSION)}", {TENANT: tenant})
            assert rows
            assert all((SECRET in str(row)) is secret for row in rows) or view.name == "rejected_events"
        assert not await house.rows(f"SELECT * FROM {view.relation(VERSION)}", {TENANT: "nobody"})


async def test_gold_is_in_numbers(house: ClickHouseEngine) -> None:
    totals = "SELECT sum(events) AS events, sum(purchases) AS purchases, sum(gmv) AS gmv FROM gold_kpis"
    raw = (
        "SELECT count() AS events, countIf(event_type = 'purchase') AS purchases,"
        " sumIf(amount, event_type = 'purchase') AS gmv FROM events"
    )
    found = []
    for sql in (totals, raw):
        verdict = Gate().check(sql)
        assert isinstance(verdict, Checked)
        found.append(await house.rows(verdict.sql(VERSION), {TENANT: OURS}))
    assert found[0] == found[1]


def test_no_view_shows_what_is_ours() -> None:
    hidden = {"tenant", "run", "actor", "deleted", "client_address", "landing_time", "exit_time", "utm_time"}
    for view in VIEWS.values():
        assert not {column.name for column in view.columns} & hidden
        assert "AggregateFunction" not in str(view.columns)


async def test_the_list_of_functions_is_the_engines(engine: ClickHouseEngine) -> None:
    rows = await engine.rows("SELECT name, is_aggregate, case_insensitive, categories, alias_to FROM system.functions")
    known = {row["name"]: row for row in rows}
    assert known.keys() >= allowed.FUNCTIONS
    assert {name for name in allowed.FUNCTIONS if known[name]["categories"] in _DANGEROUS} == set()
    assert all(known[name]["is_aggregate"] for name in allowed.AGGREGATES)
    # What the gate takes in any case is nothing else to the engine.
    for row in rows:
        if allowed.is_function(row["name"]):
            same = row["name"] in allowed.FUNCTIONS or row["name"].lower() in {
                name.lower() for name in allowed.FUNCTIONS
            }
            assert same, row
    for name in known:
        others = {other for other in allowed.FUNCTIONS if other.lower() == name.lower()}
        assert not others or name in allowed.FUNCTIONS, name


def test_combinators() -> None:
    allowed_ones = (
        "sumIf",
        "uniqExactArrayIf",
        "quantileTDigestWeightedIf",
        "sumStateIf",
        "anyLast",
        "sumMap",
        "countIfOrNull",
    )
    assert all(map(allowed.is_function, allowed_ones))
    refused = (
        "",
        "State",
        "fileIf",
        "sumNull",
        "sumif",
        "absIf",
        "sumIfIfIfIfIf",
        "SUMIfX",
        "aggThrowIf",
        "tostring",
        "sum ",
    )
    assert not any(map(allowed.is_function, refused))


def test_names_of_functions_are_plain() -> None:
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in allowed.FUNCTIONS)


def test_what_is_checked_says_what_it_needs() -> None:
    verdict = Gate().check(
        "SELECT e.path, {site:String} FROM events AS e, sessions ORDER BY 1 LIMIT 3", ["site", "more"]
    )
    assert isinstance(verdict, Checked)
    assert verdict.views == ("events", "sessions")
    assert verdict.parameters == {"site": "String"}
    assert (verdict.ordered, verdict.limited) == (True, True)
    plain = Gate().check("SELECT (SELECT 1 ORDER BY 1 LIMIT 1)")
    assert isinstance(plain, Checked)
    assert (plain.views, plain.ordered, plain.limited) == ((), False, False)


def test_a_parameter_too_many_is_refused() -> None:
    assert isinstance(Gate().check("SELECT 1", [f"p{number}" for number in range(101)]), Refused)
