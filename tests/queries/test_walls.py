"""What a statement answers, and how it fails, does not depend on rows of other tenants in the same blocks.

Each statement runs over the same rows of ours four times: with no other tenants and between two of them, and the same
without any rows of ours. Answers and errors must be equal to the byte.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock.queries import allowed
from penstock.queries.answers import repeatable
from penstock.queries.gate import Gate
from penstock.queries.verdict import Checked
from penstock.queries.views import TENANT, VIEWS, View
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.user_sql.embedded import EmbeddedHandle
from penstock.storage.user_sql.failures import translated
from penstock.storage.user_sql.lane import Lane
from penstock.storage.user_sql.statement import Statement, parsed_answer
from penstock.storage.version import Gold, Version
from tests.queries.neighbours import BEFORE, BEHIND, OURS, SECRET, expressions, fill

VERSION = Version(commit=100, gold=Gold(run=100))
PAIRS = (((OURS,), (BEFORE, OURS, BEHIND)), ((), (BEFORE, BEHIND)))
# Where an expression may stand.
FORMS = (
    "SELECT count() AS n FROM {view} WHERE {e}",
    "WITH x AS (SELECT * FROM {view}) SELECT count() AS n FROM x WHERE {e}",
    "SELECT count() AS n FROM (SELECT * FROM {view} UNION ALL SELECT * FROM {view}) WHERE {e}",
    "SELECT count() AS n FROM {view} AS a JOIN (SELECT * FROM {view} WHERE {e}) AS b ON a.`{key}` = b.`{key}`",
    "SELECT a.`{key}` AS k FROM {view} AS a, (SELECT {e} AS f FROM {view}) AS b WHERE b.f",
    "SELECT count() AS n FROM {view} WHERE `{key}` IN (SELECT `{key}` FROM {view} WHERE {e})",
    "SELECT `{key}` AS k, row_number() OVER (ORDER BY `{key}`) AS r FROM {view} WHERE {e}",
    "SELECT `{key}` AS k, count() AS n FROM {view} GROUP BY k HAVING max({e}) > 0",
    "SELECT {e} AS g, count() AS n FROM {view} GROUP BY g",
    "SELECT `{key}` AS k FROM {view} ORDER BY {e} LIMIT 1",
    "SELECT DISTINCT `{key}` AS k FROM {view} WHERE {e} LIMIT 5",
    "SELECT max({e}) AS m, countIf({e}) AS c FROM {view}",
    "SELECT count() AS n FROM {view} WHERE {e} AND `{key}` = `{key}`",
)
# How a function may be called, with a column for {c}.
CALLS = ("{c}", "{c}, 1", "{c}, 'a'", "1, {c}", "'a', {c}", "{c}, {c}", "{c}, 1, 1", "{c}, 'a', 'b'", "x -> x, [{c}]")
COLUMNS = ("site_id", "user_id", "quantity", "event_time", "mapValues(properties)")


@dataclass(slots=True)
class Runner:
    """Runs statements of OURS as a server does."""

    folder: Path
    handle: EmbeddedHandle | None = None

    def said(self, sql: str) -> str:
        """The rows, or the error as a user sees it."""
        if self.handle is None:
            self.handle = EmbeddedHandle(self.folder, Lane.RUN.value.bounds)
        try:
            return str(parsed_answer(self.handle.answer(Statement(sql, {TENANT: OURS}))).rows)
        except ClickHouseError as error:
            self.close()  # which a failed statement spoils
            shown = translated(error, Lane.RUN.value.bounds)
            return f"{type(shown).__name__} {shown.reason} {shown.message} {shown.metadata}"

    def close(self) -> None:
        if self.handle is not None:
            self.handle.close()
        self.handle = None


@pytest.fixture
def runner(engine: ClickHouseEngine, settings: Settings) -> Iterator[Runner]:
    made = Runner(settings.data_dir / "clickhouse")
    yield made
    made.close()


async def check(engine: ClickHouseEngine, runner: Runner, statements: dict[str, str]) -> None:
    """Asserts it for statements, each with what the gate printed of it."""
    for alone, beside in PAIRS:
        await fill(engine, *alone)
        wanted = {sql: runner.said(text) for sql, text in statements.items()}
        await fill(engine, *beside)
        for sql, text in statements.items():
            found = runner.said(text)
            assert found == wanted[sql], sql
            assert f"{SECRET}-" not in found, sql


def printed(statements: Iterator[str]) -> dict[str, str]:
    """Those that pass the gate, with what it prints."""
    gate = Gate(remembered=0)
    verdicts = {sql: gate.check(sql) for sql in statements if repeatable(sql)}
    return {sql: verdict.sql(VERSION) for sql, verdict in verdicts.items() if isinstance(verdict, Checked)}


def _of_view(view: View, forms: int, expressions_each: int) -> Iterator[str]:
    chance = random.Random(view.name)
    for column in view.columns:
        fitting = expressions(column)
        for e in chance.sample(fitting, min(expressions_each, len(fitting))):
            for form in (FORMS[0], *chance.sample(FORMS[1:], forms)):
                yield form.format(view=view.name, e=e, key=view.columns[0].name)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("forms", "each"), [(1, 2), pytest.param(4, 100, marks=pytest.mark.slow)], ids=["some", "all"])
async def test_over_every_view(engine: ClickHouseEngine, runner: Runner, forms: int, each: int) -> None:
    for view in VIEWS.values():
        statements = printed(_of_view(view, forms, each))
        assert len(statements) >= len(view.columns)
        await check(engine, runner, statements)


async def test_the_neighbours_would_be_seen(engine: ClickHouseEngine, runner: Runner) -> None:
    """Without the tenant's wall the expressions do fail because of them."""
    sql = Gate().check("SELECT count() AS n FROM events WHERE toInt64(user_id) > 0")
    assert isinstance(sql, Checked)
    text = sql.sql(VERSION).replace("PREWHERE tenant = {penstock_tenant:String} AND", "PREWHERE")
    await fill(engine, OURS)
    alone = runner.said(text)
    await fill(engine, BEFORE, OURS, BEHIND)
    assert runner.said(text) != alone
    assert "CANNOT_PARSE_TEXT" in runner.said(text)
    assert f"{SECRET}-" not in runner.said(text), "nor would the message quote them"


async def test_a_dictionary_holds_no_words_of_others(engine: ClickHouseEngine, runner: Runner) -> None:
    """A block of LowCardinality keeps the words of all of its rows, and this function computes over all of them."""
    await check(
        engine,
        runner,
        printed(
            f"SELECT {function} AS f FROM {view.name}"
            for view in VIEWS.values()
            for column in view.columns
            if "LowCardinality" in column.type
            for function in (f"toFixedString(toString(`{column.name}`), 100)", f"toFixedString(`{column.name}`, 8)")
        ),
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("share", [0.02, pytest.param(0.3, marks=pytest.mark.slow)])
async def test_every_function(engine: ClickHouseEngine, runner: Runner, share: float) -> None:
    chance = random.Random(1)
    calls = [
        f"{function}({arguments.format(c=column)})"
        for function in sorted(allowed.FUNCTIONS - allowed.AGGREGATES)
        for column in COLUMNS
        for arguments in CALLS
    ]
    some = chance.sample(calls, int(len(calls) * share))
    statements = printed(
        form.format(call=call)
        for call in some
        for form in ("SELECT count() AS n FROM events WHERE NOT ignore({call})", "SELECT {call} AS v FROM events")
    )
    await fill(engine)
    typed = {sql: text for sql, text in statements.items() if "INVALID_SQL" not in runner.said(text)}
    assert len(typed) > len(statements) / 20
    await check(engine, runner, typed)
