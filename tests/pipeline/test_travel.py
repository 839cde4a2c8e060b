"""Every version is found again, exactly, however the history goes on."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from penstock.errors import InvalidInput, OutOfRange
from penstock.pipeline.filters import condition
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.tables import TABLES, Table
from penstock.pipeline.travel import DataReader, Moment
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row, open_engine
from penstock.storage.schema import migrate
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit
from tests.pipeline.history import TENANTS, Copy, History


def shown(rows: Iterable[Mapping[str, Any]], table: Table) -> list[str]:
    """Rows as far as the table shows them, in one order; as text, because maps and lists have no hash."""
    return sorted(repr([row[column.name] for column in table.columns]) for row in rows)


async def read(data: DataReader, tenant: str, version: int, limit: int) -> Copy:
    """All tables as of a version, page by page."""
    found: Copy = {}
    for name, table in TABLES.items():
        rows: list[Row] = []
        token = ""
        while not rows or token:
            page = await data.page(tenant, table, Moment(version), limit=limit, page_token=token)
            assert page.version == version
            rows += page.rows
            token = page.next_token
            if not page.rows:
                break
        found[name] = rows
    return found


async def check(history: History, engine: Engine, log: CommitLog, *, every: int, limit: int) -> None:
    """Reads versions again, the last of them too."""
    data = DataReader(engine, log)
    for tenant in TENANTS:
        readable = history.readable(tenant)
        for version in {*readable[::every], readable[-1]}:
            found = await read(data, tenant, version, limit)
            for name, table in TABLES.items():
                wanted = shown(history.copies[version][tenant][name], table)
                assert shown(found[name], table) == wanted, (tenant, version, name)
        for version in history.removed(tenant)[-1:]:
            with pytest.raises(OutOfRange) as refused:
                await data.page(tenant, TABLES["gold"], Moment(version))
            assert refused.value.reason == "VERSION_REMOVED"


async def leave_void_rows(engine: Engine, log: CommitLog) -> None:
    """What a crash in the middle of a commit and of two runs leaves."""
    number, run = log.head + 1, log.gold.run
    columns = "tenant, commit, event_id, event_type, event_time, ingest_time"
    await engine.execute(
        f"INSERT INTO bronze_events ({columns}) SELECT 'default', {number}, generateUUIDv4(), 'purchase', now(), now()"
    )
    for ahead in (1, 100_000):
        for table in ("silver_events", "sessions", "gold_kpis"):
            await engine.execute(f"INSERT INTO {table} SELECT * REPLACE ({run + ahead} AS run) FROM {table} LIMIT 9")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Engine, CommitLog]]:
    """The database of `settings`, as a server opens it."""
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        log = CommitLog(engine)
        await log.open()
        await PipelineRunner(engine, log, settings).open()
        yield engine, log
    finally:
        await engine.close()


async def live(settings: Settings, seed: int, *kinds: str, versions: int, every: int) -> History:
    """A history, checked when it ends, beside the void rows of a crash, and after a restart; it begins with `kinds`."""
    async with opened(settings) as (engine, log):
        history = await History.begin(engine, log, settings, seed=seed)
        for kind in kinds:
            await history.step(kind)
        while len(history.copies) < versions:
            await history.step()
        await check(history, engine, log, every=every, limit=1_000)
        await leave_void_rows(engine, log)
        await check(history, engine, log, every=3 * every, limit=1_000)
    async with opened(settings) as (engine, log):
        await check(history, engine, log, every=2 * every, limit=9)
    return history


async def test_versions_are_found_again(settings: Settings) -> None:
    kinds = ("append", "run", "append", "cleanup", "run of one type", "append", "run", "cleanup", "daily", "purge")
    history = await live(settings, 5, *kinds, versions=10, every=4)
    assert {"append", "etl", "cleanup"} <= set(history.operations)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
async def test_every_version_is_found_again(settings: Settings, seed: int) -> None:
    history = await live(settings, seed, "append", "run", "daily", versions=55, every=1)
    assert {"append", "etl", "cleanup", "daily"} <= set(history.operations)


@pytest.fixture
def data(engine: Engine, commit_log: CommitLog) -> DataReader:
    return DataReader(engine, commit_log)


async def test_pages_keep_to_their_version(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, data: DataReader
) -> None:
    await commit(*(Sent(event_time=at(60 * nth), visitor_id=f"v{nth}") for nth in range(5)))
    await runner.run()
    for name, table in TABLES.items():
        if name == "daily":
            continue
        first = await data.page("default", table, Moment(), limit=2)
        assert (first.version, len(first.rows)) == (commit_log.head, 2)
        assert first.time == commit_log.gold.time
        await commit(*(Sent(event_time=at(30 * nth), visitor_id=f"w{nth}") for nth in range(9)))
        await runner.run()
        seen = list(first.rows)
        token = first.next_token
        while token:
            page = await data.page("default", table, Moment(), limit=2, page_token=token)
            assert (page.version, page.time) == (first.version, first.time)
            seen += page.rows
            token = page.next_token
        whole = await data.page("default", table, Moment(first.version), limit=1_000)
        assert seen == whole.rows
        order = [tuple(row[column] for column in table.order) for row in seen]
        if name != "silver":  # where ids are of one moment only, and chance
            assert order == sorted(order, reverse=table.descending)


async def test_filters_choose_rows(runner: PipelineRunner, commit: Commit, data: DataReader) -> None:
    await commit(
        Sent("purchase", at(0), user_id="u'1", price=Decimal("9.5"), order_id="a\\b"),
        Sent("purchase", at(60.5), user_id='u"2', price=Decimal("20"), site_id="blog"),
        Sent("view", at(120), user_id="u3"),
    )
    await runner.run()

    async def users(table: str, asked: str) -> list[str]:
        page = await data.page("default", TABLES[table], Moment(), asked=asked)
        return sorted(row["user_id"] for row in page.rows)

    assert await users("silver", 'event_type = "purchase"') == ['u"2', "u'1"]
    assert await users("silver", 'event_type="purchase" AND price>9.5') == ['u"2']
    assert await users("bronze", "price >= 9.5 AND price < 20.0") == ["u'1"]
    assert await users("bronze", "price = null") == ["u3"]
    assert await users("bronze", "price != null AND commit = 1") == ['u"2', "u'1"]
    assert await users("silver", r"user_id = 'u\"2'") == ['u"2']
    assert await users("silver", r'order_id = "a\\b"') == ["u'1"]
    assert await users("silver", f'event_time > "{at(60).isoformat()}"') == ['u"2', "u3"]
    assert await users("silver", 'event_time = "2026-03-01T13:01:00.5+01:00"') == ['u"2']
    assert await users("silver", 'event_id = "00000000-0000-0000-0000-000000000001"') == []
    gold = await data.page("default", TABLES["gold"], Moment(), asked='gmv > 9.5 AND minute >= "2026-03-01T12:01:00Z"')
    assert [(row["site_id"], row["gmv"]) for row in gold.rows] == [("blog", Decimal(20))]
    blog = await data.page("default", TABLES["gold"], Moment(), asked='site_id = "blog"')
    assert [row["purchase_users"] for row in blog.rows] == [1]
    bought = await data.page("default", TABLES["sessions"], Moment(), asked="converted = true AND page_views < 1")
    assert sorted(row["visitor"] for row in bought.rows) == ['u"2', "u'1"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("nope = 1", "nope"),
        ("tenant = 'other'", "tenant"),
        ("price", "character 1"),
        ('event_type = "a" OR event_type = "b"', "character 18"),
        ('event_type = "a" ANDevent_type = "b"', "character 18"),
        ('event_type = "a" AND', "character 21"),
        ('(event_type = "a")', "character 1"),
        ('event_type = "a', "character 1"),
        ("event_type = purchase", "event_type"),
        ('price = "9"', "price"),
        ("price = nan", "price"),
        ("price = 1e99", "price"),
        ("quantity = 1.5", "quantity"),
        ("quantity > null", "quantity"),
        ("commit = null", "commit"),
        ("commit = 99999999999999999999", "commit"),
        ('event_id = "1"', "event_id"),
        ('event_time = "yesterday"', "event_time"),
        ('event_time = "2026-03-01T12:00:00"', "event_time"),
        ('properties = "a"', "properties"),
        (" AND ".join(["commit = 1"] * 21), "more than 20"),
    ],
)
def test_filters_that_cannot_be_read_say_why(asked: str, names: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        condition(asked, TABLES["bronze"])
    assert refused.value.reason == "INVALID_FILTER"
    assert names in refused.value.message
    assert [violation.field for violation in refused.value.violations] == ["filter"]


async def test_moments_and_tokens_that_are_wrong(commit: Commit, data: DataReader) -> None:
    await commit(Sent(), Sent(), Sent())
    with pytest.raises(InvalidInput) as both:
        await data.page("default", TABLES["bronze"], Moment(1, at(0)))
    assert both.value.reason == "INVALID_VERSION"
    page = await data.page("default", TABLES["bronze"], Moment(), limit=1)
    for table, asked, token in (
        ("silver", "", page.next_token),
        ("bronze", "offset > 0", page.next_token),
        ("bronze", "", "nonsense"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await data.page("default", TABLES[table], Moment(), asked=asked, page_token=token)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


async def test_an_empty_database_has_no_rows(data: DataReader) -> None:
    for table in TABLES.values():
        page = await data.page("default", table, Moment())
        assert (page.version, page.time, page.rows) == (0, None, [])


async def test_the_declared_columns_are_the_tables(engine: Engine) -> None:
    """So that a column that is added is shown, or left out on purpose."""
    hidden = {
        "sessions": {"landing_time", "exit_time", "utm_time", "deleted"},
        "gold": {"run"},
    }
    for table in TABLES.values():
        found = await engine.rows(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
            {"table": table.stored},
        )
        names = {row["name"] for row in found} - {"tenant"} - hidden.get(table.name, set())
        assert names == {column.name for column in table.columns}, table.name
        types = {row["name"]: row["type"] for row in found}
        for column in table.columns:
            assert column.nullable == types[column.name].startswith("Nullable"), column.name
