"""Congruence: the embedded engine and a ClickHouse URL do the same for the same calls."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from penstock.errors import Overloaded, TimedOut
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine, Lane, open_engine, quoted, rows_as_columns
from penstock.storage.payload import Payload

SCHEMA = 'syntax = "proto3"; message Item { string name = 1; } message Row { string it = 1; repeated Item items = 2; }'
STRUCTURE = "it String, `items.name` Array(String)"
ROW = b"\n\x02it\x12\x03\n\x01a\x12\x03\n\x01b"
ENDLESS = "SELECT count() AS n FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number))"


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[ClickHouseEngine]:
    """Without Penstock's tables, which these tests do not need."""
    opened = open_engine(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def table(engine: ClickHouseEngine) -> str:
    await engine.execute(
        "CREATE TABLE things (name String, count Int64, price Nullable(Decimal(18, 6)), tags Array(String),"
        " time DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY name"
    )
    return "things"


async def test_rows_come_by_name_with_parameters_bound(engine: ClickHouseEngine) -> None:
    given = {"text": "it's \\ {x:String} %s\n\t€", "number": -5, "list": ["a'", ""], "time": datetime(2024, 5, 1)}
    found = await engine.rows(
        "SELECT {text:String} AS text, {number:Int64} AS number, {list:Array(String)} AS list,"
        " {time:DateTime('UTC')} AS time, toDecimal64('1.25', 6) AS price",
        given,
    )
    assert found == [{**given, "price": Decimal("1.25")}]


async def test_no_rows_is_an_empty_list(engine: ClickHouseEngine) -> None:
    assert await engine.rows("SELECT 1 AS x WHERE 0") == []


async def test_statements_may_bring_settings_of_their_own(engine: ClickHouseEngine) -> None:
    assert await engine.rows("SELECT getSetting('max_threads') AS n SETTINGS max_threads = 3", timeout_s=2) == [
        {"n": 3}
    ]


async def test_arrow_columns_go_by_name(engine: ClickHouseEngine, table: str) -> None:
    when = datetime(2024, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)
    rows = pa.table(
        {
            "time": pa.array([when, when], pa.timestamp("us", "UTC")),
            "tags": [["x", "y"], []],
            "name": ["a", "b"],
            "price": pa.array([Decimal("2.550000"), None], pa.decimal128(18, 6)),
        }
    )
    await engine.insert_arrow(table, rows)
    stored = when.replace(tzinfo=None)
    assert await engine.rows("SELECT name, count, price, tags, time FROM things ORDER BY name") == [
        {"name": "a", "count": 0, "price": Decimal("2.55"), "tags": ["x", "y"], "time": stored},
        {"name": "b", "count": 0, "price": None, "tags": [], "time": stored},
    ]


async def test_messages_are_parsed_by_the_engine(engine: ClickHouseEngine, table: str) -> None:
    payload = Payload([(ROW,), (ROW[:4], ROW[4:])], STRUCTURE, SCHEMA, "Row")
    insert = (
        "INSERT INTO things (name, tags) SELECT it, `items.name` FROM {source} SETTINGS {settings}, max_threads = 1"
    )
    await engine.insert_payload(insert, payload)
    assert await engine.rows("SELECT name, tags FROM things") == [{"name": "it", "tags": ["a", "b"]}] * 2

    query = "SELECT it, item FROM {source} ARRAY JOIN `items.name` AS item WHERE item = 'b' SETTINGS {settings}"
    assert await engine.query_payload(query, payload) == [{"it": "it", "item": "b"}] * 2


async def test_columns_are_parsed_by_the_engine(engine: ClickHouseEngine, table: str) -> None:
    rows = pa.table({"it": ["a", "b"], "n": pa.array([1, 2], pa.int64())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    payload = Payload([(sink.getvalue().to_pybytes(),)], "it String, n Int64", format="ArrowStream")
    await engine.insert_payload(
        "INSERT INTO things (name, count) SELECT it, n FROM {source} SETTINGS {settings}", payload
    )
    assert await engine.rows("SELECT name, count FROM things ORDER BY name") == [
        {"name": "a", "count": 1},
        {"name": "b", "count": 2},
    ]
    assert await engine.query_payload("SELECT sum(n) AS n FROM {source} SETTINGS {settings}", payload) == [{"n": 3}]


async def test_deleted_rows_are_gone_at_once(engine: ClickHouseEngine, table: str) -> None:
    await engine.execute("INSERT INTO things (name, count) SELECT toString(number), number FROM numbers(10)")
    await engine.delete_rows(table, "count > 3")
    assert await engine.rows("SELECT max(count) AS n FROM things") == [{"n": 3}]


async def test_a_statement_ends_when_its_time_is_up(engine: ClickHouseEngine) -> None:
    with pytest.raises(TimedOut) as caught:
        await engine.rows(ENDLESS, timeout_s=0.2)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_the_bound_of_one_statement_is_not_the_next_ones(engine: ClickHouseEngine) -> None:
    bound = "SELECT getSetting('max_execution_time') AS seconds"
    assert await engine.rows(bound, lane=Lane.COMMIT, timeout_s=0.2) == [{"seconds": 0.25}]
    assert await engine.rows(bound, lane=Lane.COMMIT) == [{"seconds": 30}]


async def test_too_much_memory_is_overload(engine: ClickHouseEngine) -> None:
    with pytest.raises(Overloaded):
        await engine.rows(
            "SELECT length(groupArray(number)) FROM numbers(10000000) SETTINGS max_memory_usage = 1000000"
        )


@pytest.mark.parametrize("sql", ["SELECT nope", "SELECT", "SELECT * FROM nowhere"])
async def test_a_wrong_statement_is_a_fault_of_the_program(engine: ClickHouseEngine, sql: str) -> None:
    with pytest.raises(DatabaseError):
        await engine.rows(sql)
    assert await engine.rows("SELECT 1 AS x") == [{"x": 1}]


async def test_lanes_do_not_wait_for_each_other(engine: ClickHouseEngine) -> None:
    slow = asyncio.create_task(engine.rows("SELECT sleep(1) AS x", lane=Lane.COMMIT))
    await asyncio.sleep(0.05)
    assert await engine.rows("SELECT 1 AS x") == [{"x": 1}]
    assert not slow.done()
    await slow


async def test_settling_waits_for_a_write_whose_caller_went_away(engine: ClickHouseEngine, table: str) -> None:
    slow = "INSERT INTO things (name) SELECT toString(sleepEachRow(0.1)) FROM numbers(6) SETTINGS max_block_size = 1"
    task = asyncio.create_task(engine.execute(slow))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.settle()
    settled = await engine.rows("SELECT count() AS n FROM things")
    await asyncio.sleep(0.7)
    assert await engine.rows("SELECT count() AS n FROM things") == settled


def test_rows_as_columns() -> None:
    assert rows_as_columns([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == {"a": [1, 3], "b": [2, 4]}
    assert rows_as_columns([]) == {}


def test_quoted() -> None:
    assert quoted(["a", "b.c", "d`e"]) == "`a`, `b.c`, `d\\`e`"
