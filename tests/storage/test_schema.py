"""Migrations: what they render to, and that they can be cut off, repeated, and refuse what they do not know."""

import asyncio

import pytest

from penstock.errors import Conflict, Unavailable
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.lease import Lease
from penstock.storage.schema import fenced, migrate, migrations, statements
from tests.storage.clickhouse_http import ClickHouseHttp
from tests.storage.conftest import OpenEngine

TEXT = """
-- Things; not a statement.
CREATE TABLE @things
(
    tenant LowCardinality(String), -- whose
    name   String
)
ENGINE = @engine
ORDER BY (tenant, name)
SETTINGS old_parts_lifetime = 30 @durable;

CREATE TABLE @marks
(
    name String
)
ENGINE = @engine
ORDER BY name;
"""
DURABLE = "position(create_table_query, 'fsync_after_insert = 1') > 0"
VALID_S = 60.0  # so that no lease ends by itself, however slow the machine
VISITS = "SELECT count() AS rows, sum(events) AS events FROM gold_visits"
VERSIONS = "SELECT version FROM schema_versions ORDER BY version"


def flat(sql: str) -> str:
    return " ".join(sql.split())


def test_for_one_server() -> None:
    things, marks = map(flat, statements(TEXT, cluster="", durable=True))
    assert things == (
        "CREATE TABLE things ( tenant LowCardinality(String), name String ) ENGINE = MergeTree ORDER BY (tenant, name)"
        " SETTINGS old_parts_lifetime = 30 , fsync_after_insert = 1, fsync_part_directory = 1"
    )
    assert marks == "CREATE TABLE marks ( name String ) ENGINE = MergeTree ORDER BY name"


def test_for_a_cluster() -> None:
    local, things, _, marks = map(flat, statements(TEXT, cluster="main", durable=False))
    assert local == (
        "CREATE TABLE things_local ON CLUSTER 'main' ( tenant LowCardinality(String), name String ) ENGINE ="
        " ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/things', '{replica}') ORDER BY (tenant, name)"
        " SETTINGS old_parts_lifetime = 30"
    )
    assert things == (
        "CREATE TABLE things ON CLUSTER 'main' AS things_local ENGINE ="
        " Distributed('main', currentDatabase(), 'things_local', cityHash64(tenant))"
    )
    assert marks.endswith("Distributed('main', currentDatabase(), 'marks_local', 0)")


def test_every_migration_can_be_rendered_for_a_cluster() -> None:
    for _, _, text in migrations():
        rendered = statements(text, cluster="main", durable=False)
        others = sum(text.count(f"\n{verb} @") for verb in ("INSERT INTO", "TRUNCATE TABLE", "ALTER TABLE"))
        assert len(rendered) == 2 * text.count("CREATE TABLE @") + others
        assert not any("@" in each for each in rendered)


def test_what_changes_a_table_changes_every_server_s() -> None:
    text = (
        "TRUNCATE TABLE @things;\nINSERT INTO @things\nSELECT * FROM @marks;\nALTER TABLE @things ADD COLUMN n Int64;"
    )
    assert statements(text, cluster="main", durable=False) == [
        "TRUNCATE TABLE things_local ON CLUSTER 'main'",
        "INSERT INTO things\nSELECT * FROM marks",
        "ALTER TABLE things_local ON CLUSTER 'main' ADD COLUMN n Int64",
    ]


def test_a_cluster_takes_only_what_can_be_rendered_for_it() -> None:
    with pytest.raises(ValueError, match="cannot do this"):
        statements("DROP TABLE @things;", cluster="main", durable=False)


async def test_visits_are_made_of_a_database_from_before(
    engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings
) -> None:
    async with commit_log.transaction() as transaction:
        await engine.execute(
            "INSERT INTO bronze_events"
            " (tenant, commit, event_id, event_type, event_time, visitor_id, price, ingest_time)"
            " SELECT 'default', {commit:Int64}, generateUUIDv7(), ['page_view', 'purchase'][1 + number % 2],"
            " toDateTime64('2026-03-01 10:00:00', 6, 'UTC') + number * 60, concat('v', toString(number % 7)), 2,"
            " now64(6) FROM numbers(100)",
            {"commit": transaction.commit},
        )
        await transaction.append(Entry("append", rows=100))
    runner = PipelineRunner(engine, commit_log, settings)
    await runner.open()
    await runner.run()
    visits = "SELECT * REPLACE (finalizeAggregation(orders) AS orders) FROM gold_visits ORDER BY ALL"
    made = await engine.rows(visits)
    assert sum(row["events"] for row in made) == 100
    await engine.delete_rows("schema_versions", "version >= 4")
    await migrate(engine, settings)
    assert await engine.rows(visits) == made


def lease(engine: ClickHouseEngine, name: str, valid_s: float = VALID_S) -> Lease:
    """One server's, on the database of `engine`."""
    return Lease(engine, holder=name, valid_s=valid_s, settle_s=0.6)


async def make_old(engine: ClickHouseEngine) -> None:
    """Makes of a new database one from before there were visits, with silver rows to make 7 visitors' visits of."""
    await engine.execute(
        "INSERT INTO silver_events (tenant, event_id, event_type, event_time, visitor, run)"
        " SELECT 'default', generateUUIDv7(), 'page_view', toDateTime64('2026-03-01 10:00:00', 6, 'UTC'),"
        " concat('v', toString(number % 7)), 1 FROM numbers(100)"
    )
    await engine.delete_rows("schema_versions", "version >= 4")


def test_the_first_migration_can_be_run_by_two_at_once() -> None:
    """It makes the tables that the lease rests on."""
    rendered = statements(migrations()[0][2], cluster="", durable=False)
    assert all(each.startswith("CREATE TABLE ") for each in rendered)
    assert {"commits", "leases"} <= {each.split()[2] for each in rendered}


def test_every_statement_of_a_migration_is_fenced_or_may_come_twice() -> None:
    for _, _, text in migrations():
        for cluster in ("", "main"):
            for each in statements(text, cluster=cluster, durable=False):
                may_come_twice = each.startswith("CREATE TABLE ") or " IF NOT EXISTS " in each
                assert may_come_twice != ("WHERE 1 = 0" in fenced(each, "1 = 0")), each


@pytest.mark.parametrize("old", [True, False])
async def test_of_two_that_start_at_once_one_migrates(
    open_http: OpenEngine, http_settings: Settings, clickhouse: ClickHouseHttp, old: bool
) -> None:
    if old:
        await make_old(await open_http())
    engines = [open_engine(http_settings) for _ in range(2)]
    leases = [lease(engine, name) for engine, name in zip(engines, "ab", strict=True)]
    clickhouse.misbehave("hang", "INSERT INTO gold_visits", times=2, seconds=1)
    sent = len(clickhouse.statements("INSERT INTO gold_visits"))
    try:
        await asyncio.gather(*(migrate(e, http_settings, its) for e, its in zip(engines, leases, strict=True)))
        assert await engines[0].rows(VISITS) == [{"rows": 7 * old, "events": 100 * old}]
        assert len(clickhouse.statements("INSERT INTO gold_visits")) == sent + 1
        assert [row["version"] for row in await engines[0].rows(VERSIONS)] == [number for number, _, _ in migrations()]
        assert [each.held for each in leases].count(True) == 1, "who migrated goes on as the one that writes"
    finally:
        for engine in engines:
            await engine.close()


async def test_who_has_nothing_to_migrate_waits_for_nobody(open_http: OpenEngine, http_settings: Settings) -> None:
    engine, other = await open_http(), await open_http()
    assert await lease(other, "leads").renew()
    reads = lease(engine, "reads")
    await migrate(engine, http_settings, reads, wait_s=0)
    assert not reads.held
    assert await engine.rows("SELECT DISTINCT holder FROM leases") == [{"holder": "leads"}]


async def test_nobody_migrates_while_another_server_writes(open_http: OpenEngine, http_settings: Settings) -> None:
    engine, other = await open_http(), await open_http()
    await make_old(engine)
    writes = lease(other, "older")
    assert await writes.renew()
    with pytest.raises(Conflict, match=r"another server \(older\) writes: stop") as caught:
        await migrate(engine, http_settings, lease(engine, "newer"), wait_s=0.3)
    assert caught.value.reason == "SCHEMA_BEHIND"
    waiting = asyncio.create_task(migrate(engine, http_settings, lease(engine, "newer")))
    await asyncio.sleep(0.3)
    assert await engine.rows(VISITS) == [{"rows": 0, "events": 0}]
    await writes.release()
    await waiting
    assert await engine.rows(VISITS) == [{"rows": 7, "events": 100}]


async def test_a_server_that_died_while_it_migrated_keeps_others_out_for_its_lease(
    open_http: OpenEngine, http_settings: Settings, clickhouse: ClickHouseHttp
) -> None:
    """What it had begun is ended, and done anew."""
    engine, dead = await open_http(), await open_http()
    await make_old(engine)
    assert await lease(dead, "dead", 1.5).renew()
    clickhouse.misbehave("late", "INSERT INTO gold_visits", seconds=4)
    with pytest.raises(Unavailable):
        await migrate(dead, http_settings)
    assert await migrate(engine, http_settings, lease(engine, "next")) == migrations()[-1][0]
    await asyncio.sleep(4)
    assert await engine.rows(VISITS) == [{"rows": 7, "events": 100}]


async def test_a_server_that_is_overtaken_while_it_migrates_repeats_nothing(
    open_http: OpenEngine, http_settings: Settings, clickhouse: ClickHouseHttp
) -> None:
    slow, fast = await open_http(), await open_http()
    await make_old(slow)
    clickhouse.misbehave("hang", "INSERT INTO gold_visits", seconds=60)
    sent = len(clickhouse.statements("INSERT INTO gold_visits"))
    overtaken = asyncio.create_task(migrate(slow, http_settings, lease(slow, "slow")))
    async with asyncio.timeout(30):
        while len(clickhouse.statements("INSERT INTO gold_visits")) == sent:  # noqa: ASYNC110  (another process counts them)
            await asyncio.sleep(0.05)
    await fast.execute("ALTER TABLE leases UPDATE expires = now64(6) WHERE 1 SETTINGS mutations_sync = 2")
    await migrate(fast, http_settings, lease(fast, "fast"))
    with pytest.raises(Unavailable):
        await overtaken
    assert await fast.rows(VISITS) == [{"rows": 7, "events": 100}]


async def test_what_comes_after_the_lease_is_lost_changes_nothing(
    open_http: OpenEngine, http_settings: Settings
) -> None:
    engine = await open_http()
    await make_old(engine)
    await migrate(engine, http_settings)
    mine, other = lease(engine, "mine"), lease(engine, "other")
    assert await mine.renew()
    lost = mine.condition(mine.epoch)
    await mine.release()
    assert await other.renew()
    for condition, rows in ((lost, 7), (other.condition(other.epoch), 0)):
        await engine.execute(fenced("INSERT INTO gold_visits\nSELECT * FROM gold_visits", lost))
        await engine.execute(fenced("TRUNCATE TABLE gold_visits", condition))
        assert (await engine.rows(VISITS))[0]["rows"] == rows


async def test_once_is_enough(engine: ClickHouseEngine, settings: Settings) -> None:
    newest = migrations()[-1][0]
    assert await migrate(engine, settings) == newest
    versions = await engine.rows("SELECT version FROM schema_versions ORDER BY version")
    assert [row["version"] for row in versions] == [number for number, _, _ in migrations()]


async def test_a_migration_cut_off_in_the_middle_goes_on(settings: Settings) -> None:
    engine = open_engine(settings)
    try:
        for statement in statements(migrations()[0][2], cluster="", durable=False)[:3]:
            await engine.execute(statement)
        await migrate(engine, settings)
        assert await engine.rows("SELECT count() AS n FROM leases") == [{"n": 0}]
    finally:
        await engine.close()


async def test_a_newer_database_is_refused(engine: ClickHouseEngine, settings: Settings) -> None:
    await engine.execute("INSERT INTO schema_versions (version, name) VALUES (9999, 'from the future')")
    with pytest.raises(Conflict) as caught:
        await migrate(engine, settings)
    assert caught.value.reason == "SCHEMA_NEWER"


async def test_the_flush_setting_follows_the_server(embedded_settings: Settings) -> None:
    for fsync in (False, True, False):
        settings = embedded_settings.model_copy(update={"fsync": fsync})
        engine = open_engine(settings)
        try:
            await migrate(engine, settings)
            found = await engine.rows(
                f"SELECT name, {DURABLE} AS durable FROM system.tables WHERE database = currentDatabase()"
            )
        finally:
            await engine.close()
        durable = {row["name"] for row in found if row["durable"]}
        assert not durable & {"schema_versions", "leases", "tenant_runs"}
        assert ({"commits", "bronze_events", "silver_events"} <= durable) == fsync
        assert bool(durable) == fsync
