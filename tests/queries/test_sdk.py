"""`client.sql` of the SDK, async and sync."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest

import penstock
from tests.queries.serving import ENDLESS, Area

BY_TYPE = "SELECT event_type, count() AS n, sum(amount) AS gmv FROM events GROUP BY event_type ORDER BY n"
TYPED = """
SELECT
    toUUID('00000000-0000-7000-8000-000000000001') AS id,
    toDateTime64('2026-01-02 03:04:05.5', 6, 'UTC') AS time,
    toDate('2026-01-02') AS day,
    toUInt64('9007199254740993') AS big,
    toDecimal64('12.5', 6) AS money,
    CAST(NULL, 'Nullable(Int64)') AS nothing,
    [toDate('2026-01-02')] AS inside
"""


@pytest.fixture
async def client(target: str) -> AsyncIterator[penstock.Client]:
    async with penstock.Client(target) as opened:
        yield opened


async def test_a_result_has_the_types_of_its_columns(client: penstock.Client) -> None:
    [row] = (await client.sql.run(TYPED)).rows
    assert row == {
        "id": UUID("00000000-0000-7000-8000-000000000001"),
        "time": datetime(2026, 1, 2, 3, 4, 5, 500_000, UTC),
        "day": date(2026, 1, 2),
        "big": 2**53 + 1,
        "money": Decimal("12.5"),
        "nothing": None,
        "inside": ["2026-01-02"],
    }
    assert list(row) == ["id", "time", "day", "big", "money", "nothing", "inside"]


async def test_a_result_says_what_it_is_of(area: Area, client: penstock.Client) -> None:
    version = await area.add(30)
    result = await client.sql.run(BY_TYPE)
    assert result.rows[0] == {"event_type": "purchase", "n": 10, "gmv": Decimal(25)}
    assert (len(result), result.truncated, result.version) == (2, False, version)
    assert result.statistics.rows_read == 8_192
    assert result.sql.startswith("SELECT `event_type`")
    assert (await client.sql.run("SELECT event_id FROM events", limit=3)).truncated
    await area.add(3)
    assert (await client.sql.run(BY_TYPE, as_of=version)).rows == result.rows
    assert (await client.sql.run(BY_TYPE, as_of=datetime.now(UTC))).rows != result.rows


async def test_a_dataframe(area: Area, client: penstock.Client) -> None:
    await area.add(30)
    frame = (await client.sql.run(BY_TYPE)).to_pandas()
    assert list(frame.columns) == ["event_type", "n", "gmv"]
    assert frame["n"].tolist() == [10, 20]
    assert (await client.sql.run("SELECT event_id FROM events WHERE amount > 9")).to_pandas().columns.tolist() == [
        "event_id"
    ]


async def test_arrow(area: Area, client: penstock.Client) -> None:
    await area.add(2_500)
    table = await client.sql.arrow("SELECT event_time, amount, site_id FROM events")
    assert table.num_rows == 2_500
    assert str(table.schema.field("amount").type) == "decimal128(38, 6)"
    rows = 0
    async for batch in client.sql.batches("SELECT event_time FROM events"):
        rows += batch.num_rows
    assert rows == 2_500
    assert (await client.sql.arrow("SELECT event_id FROM events WHERE amount > 9")).column_names == ["event_id"]


async def test_pages(area: Area, client: penstock.Client) -> None:
    await area.add(2_500)
    pages = [page async for page in client.sql.pages("SELECT event_time, quantity FROM events")]
    assert sum(len(page.rows) for page in pages) == 2_500
    assert max(len(page.rows) for page in pages) <= 1_000
    assert pages[0].rows[0] == {"event_time": datetime(2026, 3, 1, 12, tzinfo=UTC), "quantity": 1}
    assert [column.type for column in pages[0].columns] == ["DateTime64(6, 'UTC')", "Int32"]


async def test_parameters_of_every_kind(client: penstock.Client) -> None:
    kinds = {
        "s": ("String", "it's"),
        "i": ("Int64", -5),
        "b": ("UInt64", 2**53 + 1),
        "f": ("Float64", 1.5),
        "t": ("Bool", True),
        "n": ("Nullable(String)", None),
        "d": ("Date", date(2026, 1, 2)),
        "w": ("DateTime64(6, 'UTC')", datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
        "m": ("Decimal(18, 6)", Decimal("1.25")),
        "u": ("UUID", UUID(int=7)),
        "l": ("Array(String)", ["a", "b"]),
    }
    columns = ", ".join(f"{{{name}:{kind}}} AS {name}" for name, (kind, _) in kinds.items())
    [row] = (await client.sql.run(f"SELECT {columns}", {name: value for name, (_, value) in kinds.items()})).rows
    assert row == {name: value for name, (_, value) in kinds.items()}


async def test_errors_have_kinds(client: penstock.Client) -> None:
    with pytest.raises(penstock.InvalidRequest) as refused:
        await client.sql.run("DROP TABLE events")
    assert refused.value.reason == "SQL_REFUSED"
    with pytest.raises(penstock.QueryLimit) as limited:
        await client.sql.run("SELECT length(range(toUInt64(400000000))) AS n")
    assert limited.value.metadata["limit"] == "function_range_max_elements_in_block"
    with pytest.raises(penstock.InvalidRequest):
        await client.sql.arrow("SELECT nothing FROM events")
    with pytest.raises(penstock.OutOfRange):
        await client.sql.run("SELECT 1 AS a", as_of=99)
    with pytest.raises(penstock.Conflict):
        await client.sql.ask("how many?")


async def test_validate_explain_and_costs(area: Area, client: penstock.Client) -> None:
    await area.add(10)
    assert (await client.sql.validate(BY_TYPE)).allowed
    assert not (await client.sql.validate("SELECT nothing")).allowed
    assert (await client.sql.explain(BY_TYPE)).rows == 8_192
    assert [cost async for cost in client.sql.costs(min_elapsed_ms=1_500.0)] == []


async def test_a_task_that_is_cancelled_stops_the_statement(area: Area, client: penstock.Client) -> None:
    await area.add(1_000)
    for work in (client.sql.run(ENDLESS), client.sql.arrow(ENDLESS)):
        running = asyncio.create_task(work)
        await area.busy()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await area.idle(1.0)


async def test_an_iterator_that_is_left_stops_the_statement(area: Area, client: penstock.Client) -> None:
    await area.add(1_000)
    pages = client.sql.pages("SELECT a.event_id AS x, b.event_id AS y, c.amount AS z FROM events a, events b, events c")
    async for page in pages:
        assert page.rows
        break
    await pages.aclose()  # type: ignore[attr-defined]
    await area.idle(1.0)


async def test_the_sync_twin(area: Area, target: str) -> None:
    await area.add(30)

    def ask() -> None:
        with penstock.SyncClient(target) as client:
            assert client.sql.run(BY_TYPE).rows[0]["n"] == 10
            assert client.sql.arrow(BY_TYPE).num_rows == 2
            assert [len(page.rows) for page in client.sql.pages(BY_TYPE)] == [2]
            assert client.sql.validate(BY_TYPE).allowed

    await asyncio.to_thread(ask)
