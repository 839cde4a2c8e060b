"""Migrations: what they render to, and that they can be cut off, repeated, and refuse what they do not know."""

import pytest

from penstock.errors import Conflict
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.schema import migrate, migrations, statements

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
