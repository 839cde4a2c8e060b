"""Over HTTP what users wrote runs as in the embedded engine; against the stand-in for a ClickHouse server."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pyarrow as pa
import pytest

from penstock import limits
from penstock.errors import InvalidInput, TooCostly, Unavailable
from penstock.settings import Settings
from penstock.storage.user_sql.handles import MARK_PREFIX
from penstock.storage.user_sql.lane import UserSql, open_user_sql
from penstock.storage.user_sql.limits import LIMITS
from penstock.storage.user_sql.statement import Format, Statement
from tests.storage.clickhouse_http import ClickHouseHttp


@pytest.fixture(scope="module")
def clickhouse_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseHttp]:
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture
def clickhouse(clickhouse_process: ClickHouseHttp) -> Iterator[ClickHouseHttp]:
    yield clickhouse_process
    clickhouse_process.behave()


@pytest.fixture
async def sql(clickhouse: ClickHouseHttp) -> AsyncIterator[UserSql]:
    opened = open_user_sql(Settings.model_validate({"clickhouse_url": clickhouse.new_database()}))
    yield opened
    await opened.close()


async def all_of(sql: UserSql, statement: Statement, form: Format) -> list[bytes]:
    found = []
    async with sql.stream(statement, form) as pieces:
        while (piece := await pieces.next(bytes)) is not None:
            found.append(piece)
    return found


async def test_answers(sql: UserSql) -> None:
    text = "SELECT {text:String} AS t, {ids:Array(UInt64)} AS i, toDecimal64('1.50', 2) AS d, arrayJoin([1, 2, 3]) AS n"
    answer = await sql.answer(Statement(text, {"text": "it's \\ \n{x:Int8}", "ids": [1, 2]}, rows=2))
    assert answer.rows == [["it's \\ \n{x:Int8}", [1, 2], 1.5, 1], ["it's \\ \n{x:Int8}", [1, 2], 1.5, 2]]
    assert [column.type for column in answer.columns] == ["String", "Array(UInt64)", "Decimal(18, 2)", "UInt8"]
    assert answer.usage.rows_read == 8_192


async def test_streams(sql: UserSql) -> None:
    statement = Statement("SELECT number AS n, toString(number) AS s FROM numbers(100000)")
    lines = b"".join(await all_of(sql, statement, "JSONCompactEachRow")).splitlines()
    assert (len(lines), lines[-1]) == (100_000, b'[99999, "99999"]')
    for text, rows in ((statement.text, 100_000), ("SELECT 1 AS n WHERE 0", 0)):
        pieces = await all_of(sql, Statement(text), "ArrowStream")
        assert sum(pa.ipc.open_stream(piece).read_all().num_rows for piece in pieces) == rows
        assert max(map(len, pieces)) < limits.SQL_RESULT_BYTES_MAX


async def test_bounds_go_with_every_statement_and_hold(sql: UserSql, clickhouse: ClickHouseHttp) -> None:
    await sql.answer(Statement("SELECT 17 AS seventeen"))
    [seen] = clickhouse.statements("seventeen")
    assert seen["query_id"].startswith(MARK_PREFIX)
    assert seen["settings"]["readonly"] == "1"
    assert {name: seen["settings"][name] for name in LIMITS} == {n: str(bound.value) for n, bound in LIMITS.items()}
    for text in (
        "CREATE TABLE x (a Int8) ENGINE = Memory",
        "SELECT 1 AS a SETTINGS max_threads = 9",
    ):
        with pytest.raises(InvalidInput, match=r"(?i)readonly"):
            await sql.answer(Statement(text))


async def test_errors_are_the_users(sql: UserSql) -> None:
    with pytest.raises(InvalidInput, match="nothing") as caught:
        await sql.answer(Statement("SELECT nothing FROM (SELECT 1 AS tenant)"))
    assert caught.value.reason == "INVALID_SQL"
    assert "tenant" not in caught.value.message
    with pytest.raises(TooCostly) as limited:
        await sql.answer(Statement("SELECT count() AS n FROM numbers(100000000000) WHERE NOT ignore(number)"))
    assert limited.value.metadata["limit"] == "max_rows_to_read"


async def test_cancelling_kills_the_query_by_its_id(sql: UserSql, clickhouse: ClickHouseHttp) -> None:
    clickhouse.misbehave("hang", "forever", seconds=20)
    running = asyncio.create_task(sql.answer(Statement("SELECT 1 AS forever")))
    async with asyncio.timeout(5):
        while not clickhouse.statements("forever"):  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(2):
        while sql.running:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    [killed] = clickhouse.statements("forever")
    assert killed["query_id"] in clickhouse.statements("KILL QUERY")[0]["text"]
    assert (await sql.answer(Statement("SELECT 1 AS a"))).rows == [[1]]


async def test_a_server_that_is_away(sql: UserSql, clickhouse: ClickHouseHttp) -> None:
    assert (await sql.answer(Statement("SELECT 1 AS a"))).rows == [[1]]
    clickhouse.listen(False)
    with pytest.raises(Unavailable):
        await sql.answer(Statement("SELECT 2 AS a"))
    clickhouse.listen(True)
    assert (await sql.answer(Statement("SELECT 3 AS a"))).rows == [[3]]
