"""What stops a statement is said by name."""

from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock.errors import InvalidInput, Overloaded, PenstockError, TooCostly, Unavailable
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.user_sql.embedded import EmbeddedHandle
from penstock.storage.user_sql.failures import engine_error, translated
from penstock.storage.user_sql.limits import ANSWER_LIMITS, LIMITS, Limit
from penstock.storage.user_sql.statement import Statement

# For each limit a bound that the statement beside it breaks.
BROKEN = {
    "max_execution_time": (1, "SELECT count() FROM numbers(400000000) WHERE NOT ignore(sipHash128(toString(number)))"),
    "max_memory_usage": (10_000_000, "SELECT groupArray(number) FROM numbers(10000000)"),
    "max_rows_to_read": (10, "SELECT count() FROM numbers(1000) WHERE NOT ignore(number)"),
    "max_bytes_to_read": (10, "SELECT count() FROM numbers(1000) WHERE NOT ignore(number)"),
    "max_columns_to_read": (2, "SELECT commit, run, rows FROM commits"),
    "max_rows_to_group_by": (10, "SELECT number FROM numbers(1000) GROUP BY number"),
    "max_rows_in_distinct": (10, "SELECT DISTINCT number FROM numbers(1000)"),
    "max_rows_in_set": (10, "SELECT 1 FROM numbers(5) WHERE number IN (SELECT number * 2 FROM numbers(1000))"),
    "max_rows_in_join": (10, "SELECT 1 FROM numbers(5) AS a JOIN numbers(1000) AS b ON a.number = b.number"),
    "max_subquery_depth": (2, "SELECT * FROM (SELECT * FROM (SELECT * FROM (SELECT 1 AS a)))"),
    "max_query_size": (50, f"SELECT 1 AS {'a' * 100}"),
    "max_parser_depth": (5, "SELECT ((((((((((1))))))))))"),
    "max_ast_depth": (5, "SELECT 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1"),
    "max_ast_elements": (5, "SELECT 1, 2, 3, 4, 5, 6, 7"),
    "function_range_max_elements_in_block": (10, "SELECT range(100)"),
    "max_result_bytes": (10, "SELECT toString(number) AS s FROM numbers(10000)"),
    "max_recursive_cte_evaluation_depth": (
        5,
        "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) SELECT a FROM x",
    ),
}


@pytest.fixture
async def folder(engine: ClickHouseEngine, settings: Settings) -> Path:
    """Where an engine is open."""
    return settings.data_dir / "clickhouse"


async def test_every_limit_stops_what_breaks_it_and_says_its_name(folder: Path) -> None:
    for name, (value, sql) in BROKEN.items():
        bounds = {**LIMITS, **ANSWER_LIMITS, name: Limit(value, "things")}
        handle = EmbeddedHandle(folder, bounds)
        with pytest.raises(ClickHouseError) as caught:
            handle.answer(Statement(sql))
        handle.close()
        error = translated(caught.value, bounds)
        assert isinstance(error, TooCostly), (name, caught.value)
        assert error.reason == "QUERY_LIMIT"
        assert error.metadata == {"limit": name, "value": str(value), "unit": "things"}, (name, caught.value)
        assert f"{value:,} things" in error.message


def test_every_limit_of_the_contract_has_a_statement_that_breaks_it() -> None:
    quiet = {
        "max_threads",  # bounds, stops nothing
        "max_temporary_columns",
        "max_temporary_data_on_disk_size_for_query",
        "max_parser_backtracks",
        "max_expanded_ast_elements",
    }
    assert {*LIMITS, *ANSWER_LIMITS} == {*BROKEN, *quiet}


async def test_limits_hold_fast(folder: Path) -> None:
    handle = EmbeddedHandle(folder, LIMITS)
    others = {"readonly": 0, "allow_ddl": 1, "allow_python_table_function": 1, "log_comment": 1}
    for name, value in {**{name: bound.value + 1 for name, bound in LIMITS.items()}, **others}.items():
        for sql in (f"SET {name} = '{value}'", f"SELECT 1 AS a SETTINGS {name} = '{value}'"):
            with pytest.raises(ClickHouseError, match="Cannot modify"):
                handle.answer(Statement(sql))
    handle.close()


def test_what_errors_of_the_engine_mean() -> None:
    said: list[tuple[int, str, type[PenstockError], str]] = [
        (241, "(total) memory limit exceeded: would use 9 GiB (MEMORY_LIMIT_EXCEEDED)", Overloaded, "OVERLOADED"),
        (241, "Query memory limit exceeded: would use 9 GiB (MEMORY_LIMIT_EXCEEDED)", TooCostly, "QUERY_LIMIT"),
        (202, "Too many simultaneous queries (TOO_MANY_SIMULTANEOUS_QUERIES)", Overloaded, "OVERLOADED"),
        (394, "Query was cancelled (QUERY_WAS_CANCELLED)", Unavailable, "QUERY_STOPPED"),
        (210, "Connection refused (NETWORK_ERROR)", Unavailable, "STORAGE_UNAVAILABLE"),
        (47, "Unknown `x`. In scope SELECT x FROM silver_events (UNKNOWN_IDENTIFIER)", InvalidInput, "INVALID_SQL"),
        (49, "broken in silver_events: /src/x/y.cpp (LOGICAL_ERROR)", InvalidInput, "INVALID_SQL"),
    ]
    for code, text, kind, reason in said:
        error = translated(engine_error(f"Code: {code}. DB::Exception: {text}"), LIMITS)
        assert (type(error), error.reason) == (kind, reason), text
        assert "silver" not in error.message
