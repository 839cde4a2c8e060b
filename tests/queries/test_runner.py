"""Statements from text to rows, on a real engine."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from penstock import limits
from penstock.errors import InvalidInput, OutOfRange, Overloaded, PenstockError
from penstock.queries.statement import Query
from penstock.storage.user_sql.statement import BLOCK_ROWS, MIB, Statement
from tests.queries.serving import CALLER, ENDLESS, Area

VALUES: list[tuple[str, object]] = [
    ("toDateTime64('2026-01-02 03:04:05.5', 6, 'UTC')", "2026-01-02T03:04:05.500000Z"),
    ("toDateTime('2026-01-02 03:04:05', 'Asia/Tokyo')", "2026-01-01T18:04:05Z"),
    ("toDate('2026-01-02')", "2026-01-02"),
    ("toFloat64(0) / 0", None),
    ("1 / toFloat64(0)", None),
    ("toUInt64('9007199254740992')", 9007199254740992),
    ("toUInt64('9007199254740993')", "9007199254740993"),
    ("[toInt64('-9007199254740993'), 1]", ["-9007199254740993", 1]),
    ("toDecimal64('12.500000', 6)", 12.5),
    ("toDecimal128('123456789012345678.123456', 6)", "123456789012345678.123456"),
    ("toUInt256('115792089237316195423570985008687907853')", "115792089237316195423570985008687907853"),
    ("map('a', 1.5)", {"a": 1.5}),
    ("(1, 'x', NULL)", [1, "x", None]),
    ("[[1], []]", [[1], []]),
    ("CAST('a', 'LowCardinality(String)')", "a"),
    ("true", True),
    ("toUUID('00000000-0000-7000-8000-000000000001')", "00000000-0000-7000-8000-000000000001"),
    ("'it''s \\\\ \\n €'", "it's \\ \n €"),
]


async def error_of(area: Area, sql: str, **options: Any) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        await area.rows(sql, **options)
    return caught.value


async def test_rows_of_the_tenants_own_events(area: Area) -> None:
    await area.add(30)
    await area.add(5, tenant="another")
    sql = "SELECT event_type, count() AS n, sum(amount) AS gmv FROM events GROUP BY event_type ORDER BY n"
    assert await area.rows(sql) == [["purchase", 10, 25], ["page_view", 20, 0]]
    assert await area.rows("SELECT count() FROM events", tenant="another") == [[5]]
    assert await area.rows("SELECT count() FROM events", tenant="nobody") == [[0]]


async def test_what_it_took_is_told(area: Area) -> None:
    await area.add(300)
    result = await area.runner.run(Query("default", "SELECT sum(amount) AS gmv FROM events"), CALLER)
    assert result.usage.rows_read == BLOCK_ROWS
    assert result.usage.bytes_read == MIB
    assert result.usage.elapsed_ms > 0
    assert result.version == area.log.head
    assert [(column.name, column.type) for column in result.columns] == [("gmv", "Decimal(38, 6)")]
    assert result.sql == "SELECT sum(`amount`) AS `gmv` FROM events AS `events`"


async def test_what_it_took_is_the_same_beside_other_tenants_rows(area: Area) -> None:
    version = await area.add(50)
    query = Query("default", "SELECT sum(amount) AS gmv, max(path) AS p FROM events", as_of_version=version)
    alone = (await area.runner.run(query, CALLER)).usage
    await area.add(500, tenant="alpha")
    await area.add(500, tenant="zebra")
    await area.engine.execute("OPTIMIZE TABLE silver_events FINAL")
    beside = (await area.runner.run(replace(query, sql=f"{query.sql} LIMIT 9"), CALLER)).usage
    assert (alone.rows_read, alone.bytes_read) == (beside.rows_read, beside.bytes_read)


async def test_values_come_as_json_has_them(area: Area) -> None:
    columns = ", ".join(f"{expression} AS v{number}" for number, (expression, _) in enumerate(VALUES))
    [row] = await area.rows(f"SELECT {columns}")
    assert row == [shown for _, shown in VALUES]


async def test_more_rows_than_the_limit_are_cut_off_and_said_to_be(area: Area) -> None:
    await area.add(20)
    query = Query("default", "SELECT event_time FROM events ORDER BY event_time DESC", limit=3)
    result = await area.runner.run(query, CALLER)
    assert [row[0] for row in result.rows] == [f"2026-03-01T12:00:{second}.000000Z" for second in (19, 18, 17)]
    assert result.truncated
    exact = await area.runner.run(Query("default", query.sql, limit=20), CALLER)
    assert (len(exact.rows), exact.truncated) == (20, False)


async def test_the_limit_holds_for_every_kind_of_statement(area: Area) -> None:
    for sql in (
        "SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT 3",
        "SELECT arrayJoin([1, 2, 3]) AS a LIMIT 50",
        "WITH x AS (SELECT arrayJoin([1, 2, 3]) AS a) SELECT a FROM x",
        "SELECT arrayJoin([1, 2, 3]) AS a LIMIT 1 BY a",
        "SELECT arrayJoin([1, 2, 3]) AS a INTERSECT SELECT arrayJoin([1, 2, 3, 4])",
    ):
        result = await area.runner.run(Query("default", sql, limit=2), CALLER)
        assert (len(result.rows), result.truncated) == (2, True), sql


async def test_parameters_are_bound_by_their_types(area: Area) -> None:
    await area.add(10)
    sql = "SELECT count() FROM events WHERE site_id = {site:String} AND event_time >= {since:DateTime64(6)}"
    given = {"site": "north", "since": "2026-03-01T12:00:05Z"}
    assert await area.rows(sql, parameters=given) == [[3]]
    given["since"] = "2026-03-01 12:00:06"
    assert await area.rows(sql, parameters=given) == [[2]]
    hostile = "' OR 1 = 1 --\\"
    assert await area.rows("SELECT {text:String} AS t", parameters={"text": hostile}) == [[hostile]]
    lists = {"ids": [1.0, 2.0], "names": ["a'", "b"], "pair": ["x", 3.0], "big": "9007199254740993", "on": True}
    text = "{ids:Array(UInt64)}, {names:Array(String)}, {pair:Tuple(String, Int8)}, {big:UInt64}, {on:Bool}"
    assert await area.rows(f"SELECT [{text}]".replace("[", "tuple(").replace("]", ")"), parameters=lists) == [
        [[[1, 2], ["a'", "b"], ["x", 3], "9007199254740993", True]]
    ]


async def test_a_value_of_another_type_is_refused_by_name(area: Area) -> None:
    wrong: list[tuple[str, object]] = [
        ("Int8", 300.0),
        ("UInt8", -1.0),
        ("UInt64", 2.0**60),
        ("Int64", 1.5),
        ("Int64", "many"),
        ("UUID", "x"),
        ("DateTime", "2026-01-01Tnoon"),
        ("Array(Int8)", [1.0, 200.0]),
        ("String", ["a"]),
        ("String", None),
        ("String", {"a": 1.0}),
        ("Date", "tomorrow"),
    ]
    for kind, value in wrong:
        error = await error_of(area, f"SELECT {{limit_:{kind}}} AS x", parameters={"limit_": value})
        assert isinstance(error, InvalidInput)
        assert error.reason == "INVALID_PARAMETER", (kind, value, error)
        assert [violation.field for violation in error.violations] == ["parameters.limit_"]


async def test_missing_and_unused_parameters_are_named(area: Area) -> None:
    error = await error_of(area, "SELECT {a:Int8} + {b:Int8} AS x", parameters={"a": 1.0, "c": 2.0})
    assert error.reason == "INVALID_PARAMETER"
    assert [violation.field for violation in error.violations] == ["parameters.b", "parameters.c"]


async def test_a_refusal_says_where_and_why(area: Area) -> None:
    error = await error_of(area, "SELECT 1,\n  file('/etc/passwd')")
    assert isinstance(error, InvalidInput)
    assert error.reason == "SQL_REFUSED"
    assert error.metadata["line"] == "2"
    assert "line 2, column 3" in error.violations[0].description


async def test_what_the_engine_finds_wrong_is_the_users_and_shows_nothing_of_the_house(area: Area) -> None:
    await area.add(10)
    for sql in (
        "SELECT nothing FROM events",
        "SELECT e.nothing FROM events AS e JOIN sessions AS s ON e.visitor = s.visitor",
        "SELECT sum(event_type) FROM events",
        "SELECT event_type, count() FROM events",
        "SELECT intDiv(1, 0) FROM events",
        "SELECT toDate(event_type) FROM events",
        "SELECT event_id FROM events WHERE event_type",
        "SELECT toInt8(path) FROM events WHERE commit > (SELECT toInt8('x'))",
        "SELECT 1 FROM events GROUP BY sum(commit)",
        "SELECT (SELECT event_type FROM events) AS x",
        "SELECT x.y.z FROM (SELECT * FROM events) AS x",
        "SELECT * FROM events AS a JOIN events AS b USING (nothing)",
        "SELECT [1, 'a'] FROM events",
        "SELECT 1 UNION ALL SELECT 1, 2",
        "SELECT count() OVER (PARTITION BY nothing) FROM gold_kpis",
    ):
        error = await error_of(area, sql)
        assert isinstance(error, InvalidInput), sql
        assert error.reason == "INVALID_SQL", (sql, error)
        assert len(error.message) > len("sql: "), sql
        for inside in (
            "silver",
            "tenant",
            "penstock",
            "run <=",
            "commit <=",
            "__table",
            "default.",
            "DB::",
            "version 2",
        ):
            assert inside not in error.message


async def test_two_columns_of_one_name_are_refused(area: Area) -> None:
    error = await error_of(area, "SELECT visitor, 1 AS one, visitor FROM events")
    assert error.reason == "DUPLICATE_COLUMN"
    assert "'visitor'" in error.message


async def test_answers_are_kept_until_something_changes(area: Area) -> None:
    await area.add(10)

    async def cached(sql: str, **options: Any) -> bool:
        return (await area.runner.run(Query("default", sql, **options), CALLER)).cached

    sql = "SELECT count() FROM events"
    assert [await cached(sql), await cached(sql)] == [False, True]
    assert not await cached(sql, limit=5)
    assert not await cached("SELECT count() FROM events WHERE commit < {n:Int64}", parameters={"n": 1.0})
    assert not await cached("SELECT count() FROM events WHERE commit < {n:Int64}", parameters={"n": 2.0})
    assert [await cached("SELECT now() AS t FROM events"), await cached("SELECT now() AS t FROM events")] == [False] * 2
    await area.add(1)
    assert not await cached(sql)
    assert await area.rows(sql) == [[11]]


async def test_a_statement_reads_the_version_that_it_names(area: Area) -> None:
    """A random history; every version of it is found again later."""
    chance = random.Random(7)
    total, seen, times = 0, {}, {}
    for _ in range(8):
        count = chance.randint(1, 50)
        total += count
        version = await area.add(count)
        seen[version] = total
        times[version] = datetime.now(UTC)
        await asyncio.sleep(0.002)
    sql = "SELECT count() AS n, countIf(commit = {newest:Int64}) > 0 AS newest FROM events"
    for version, expected in seen.items():
        options: dict[str, Any] = {"parameters": {"newest": float(version)}}
        assert await area.rows(sql, as_of_version=version, **options) == [[expected, 1]]
        assert await area.rows(sql, as_of_time=times[version], **options) == [[expected, 1]]
    assert isinstance(await error_of(area, sql, as_of_version=999, parameters={"newest": 1.0}), OutOfRange)
    both: dict[str, Any] = {"as_of_version": 1, "as_of_time": datetime.now(UTC)}
    assert (await error_of(area, "SELECT 1 AS a", **both)).reason == "INVALID_FIELD"


async def test_a_join_sees_one_moment_of_all_views(area: Area) -> None:
    await area.add(10)
    running = [
        asyncio.create_task(area.rows("SELECT (SELECT count() FROM events) - (SELECT count() FROM events) AS d"))
        for _ in range(5)
    ]
    for _ in range(3):
        await area.add(5)
    assert [await each for each in running] == [[[0]]] * 5


async def test_validation_tells_types_without_reading(area: Area) -> None:
    await area.add(10)
    sql = """
    SELECT event_type, uniq(visitor) AS users, (SELECT max(toUInt8(site_id)) FROM events) AS never
    FROM events
    WHERE site_id = {site:String} AND event_time > {since:DateTime64(6)} AND has({ids:Array(UInt8)}, 1)
    GROUP BY event_type
    """
    found = await area.runner.validate("default", sql)
    assert found.allowed, found
    assert [(column.name, column.type) for column in found.columns][:2] == [
        ("event_type", "LowCardinality(String)"),
        ("users", "UInt64"),
    ]
    assert found.parameters == {"site": "String", "since": "DateTime64(6)", "ids": "Array(UInt8)"}
    assert found.views == ("events",)


async def test_validation_refuses_what_the_engine_would(area: Area) -> None:
    found = await area.runner.validate("default", "SELECT nothing FROM events")
    assert not found.allowed
    assert "nothing" in found.wrong
    assert [reason.code for reason in (await area.runner.validate("default", "DROP TABLE events")).reasons] == [
        "NOT_A_SELECT"
    ]


@pytest.fixture
def one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SQL_WAITING_MAX", 1)


async def test_no_more_statements_wait_than_may(one_waits: None, area: Area) -> None:
    await area.add(1_000)
    running = [asyncio.create_task(area.rows(ENDLESS)) for _ in range(limits.SQL_TENANT_HANDLES + 1)]
    await area.busy()
    error = await error_of(area, "SELECT 1 AS a")
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    assert await area.rows("SELECT 1 AS a", tenant="another") == [[1]], "one tenant does not have all handles"
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await area.idle(3.0)
    assert await area.rows("SELECT 1 AS a") == [[1]]


async def test_what_a_failed_statement_wrote_is_not_in_the_next_result(area: Area) -> None:
    """chDB keeps the output of a statement that failed halfway for the handle's next one."""
    for _ in range(2 * limits.SQL_HANDLES):
        with pytest.raises(InvalidInput):
            await area.sql.answer(Statement("SELECT number, throwIf(number > 100000) FROM numbers(200000)"))
        assert await area.rows("SELECT 1 AS a") == [[1]]
        with pytest.raises(DatabaseError):
            await area.engine.rows("SELECT number, throwIf(number > 100000) FROM numbers(200000)")
        assert await area.engine.rows("SELECT 1 AS a") == [{"a": 1}]


async def test_behind_the_gate_the_handle_itself_cannot_write(area: Area) -> None:
    """The second wall: these do not come through the gate, and would fail if they did."""
    await area.add(5)
    for sql in (
        "INSERT INTO commits (commit) VALUES (1)",
        "CREATE TABLE stolen (a Int8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE stolen (a Int8)",
        "ALTER TABLE silver_events DELETE WHERE 1",
        "TRUNCATE TABLE silver_events",
        "DROP TABLE silver_events",
        "OPTIMIZE TABLE silver_events",
        "SET readonly = 0",
        "SET max_memory_usage = 0",
        "SELECT 1 SETTINGS max_memory_usage = 0",
        "SYSTEM FLUSH LOGS",
    ):
        with pytest.raises(InvalidInput, match=r"(?i)readonly|privileges|cannot run"):
            await area.sql.answer(Statement(sql))
    assert await area.rows("SELECT count() FROM events") == [[5]]
