"""Every statement of the corpus is refused, with a reason that helps."""

from collections import Counter

import pytest

from penstock import limits
from penstock.queries.gate import Gate
from penstock.queries.verdict import Checked, Refused
from tests.queries.conftest import Hostile, hostile


@pytest.mark.parametrize("case", hostile(), ids=lambda case: case.sql[:60])
def test_refused(case: Hostile) -> None:
    verdict = Gate().check(case.sql, ["x"])
    assert isinstance(verdict, Refused)
    assert case.code in [reason.code for reason in verdict.reasons]
    lines = case.sql.split("\n")
    for reason in verdict.reasons:
        assert reason.message
        assert 1 <= reason.position.line <= len(lines)
        assert 1 <= reason.position.column <= max(1, len(lines[reason.position.line - 1]) + 1)


def test_there_are_enough() -> None:
    by_group = Counter(case.group for case in hostile())
    assert by_group.total() >= 400
    assert min(by_group.values()) >= 14


def test_reasons_say_where() -> None:
    verdict = Gate().check("SELECT a,\n  file('x'),\n  1 IN commits\nFROM nowhere")
    assert isinstance(verdict, Refused)
    found = [(reason.code, reason.position.line, reason.position.column) for reason in verdict.reasons]
    assert found == [("FUNCTION_NOT_ALLOWED", 2, 3), ("IN_TABLE", 3, 8), ("UNKNOWN_TABLE", 4, 6)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
        "SELECT " + "[" * 10_000,
        "SELECT " + "NOT " * 3_000 + "1",
        "SELECT " + "- " * 3_000 + "1",
        "SELECT " + "CASE WHEN 1 THEN " * 500 + "1" + " END" * 500,
        "SELECT " + "1 ? 1 : " * 700 + "1",
        "SELECT 1 FROM events" + " JOIN events" * 100,
        "SELECT 1 FROM events" + " CROSS JOIN events" * 100,
        "SELECT " + "f(" * 2_000 + "1" + ")" * 2_000,
        "SELECT 1" + ", 1" * 3_000,
        "SELECT '" + "a" * limits.SQL_BYTES_MAX + "'",
        "SELECT 1 FROM (" * 500 + "events" + ")" * 500,
        "WITH " + ", ".join(f"x{n} AS (SELECT 1)" for n in range(2_000)) + " SELECT 1",
        "SELECT 1 UNION ALL " * 1_500 + "SELECT 1",
    ],
    ids=lambda sql: sql[:30],
)
def test_what_is_too_much_is_told_so(sql: str) -> None:
    verdict = Gate().check(sql)
    assert isinstance(verdict, Refused)
    assert verdict.reasons[0].code in ("TOO_COMPLEX", "TOO_LONG")


def test_long_chains_pass() -> None:
    longest = " OR ".join(f"amount = {number}" for number in range(900))
    assert isinstance(Gate().check(f"SELECT count() FROM events WHERE {longest}"), Checked)
