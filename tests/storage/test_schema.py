"""Migrations: what they render to, and that they can be cut off, repeated, and refuse what they do not know."""

import pytest

from penstock.errors import Conflict
from penstock.settings import Settings
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
        assert len(rendered) == 2 * text.count("CREATE TABLE @")
        assert not any("@" in each for each in rendered)


def test_a_cluster_takes_only_tables() -> None:
    with pytest.raises(ValueError, match="only create tables"):
        statements("DROP TABLE @things;", cluster="main", durable=False)


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
        assert not durable & {"schema_versions", "leases", "pipeline_runs"}
        assert ({"commits", "bronze_events", "silver_events"} <= durable) == fsync
        assert bool(durable) == fsync
