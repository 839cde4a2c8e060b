"""Brings the database to the schema that this version works with: forward only, each step once."""

import re
from importlib.resources import files

from penstock import limits
from penstock.errors import Conflict
from penstock.settings import Settings
from penstock.storage.engine import Engine, Lane

_VERSIONS = """
CREATE TABLE @schema_versions
(
    version UInt32,
    name    String,
    time    DateTime DEFAULT now()
)
ENGINE = @engine
ORDER BY version
"""
_INSERT = re.compile(r"INSERT INTO @\w+\n.*", re.DOTALL)
_CHANGE = re.compile(r"(?P<verb>TRUNCATE TABLE|ALTER TABLE) @(?P<name>\w+)(?P<rest>.*)", re.DOTALL)
_CREATE = re.compile(r"CREATE TABLE @(?P<name>\w+)\n(?P<columns>\(.*?\n\))\nENGINE = @engine(?P<rest>.*)", re.DOTALL)
# A cluster keeps a tenant's rows together, so that its joins and uniques stay on one shard.
_SHARDED_BY_TENANT = re.compile(r"^    tenant ", re.MULTILINE)


def migrations() -> list[tuple[int, str, str]]:
    """Version, name and text of every migration, oldest first."""
    found = []
    for path in files("penstock.storage").joinpath("migrations").iterdir():
        number, _, name = path.name.removesuffix(".sql").partition("_")
        if path.name.endswith(".sql"):
            found.append((int(number), name, path.read_text(encoding="utf-8")))
    return sorted(found)


def statements(text: str, *, cluster: str, durable: bool) -> list[str]:
    """The statements of one migration for one server, or for every server of `cluster`."""
    bare = re.sub(r"--[^\n]*", "", text)
    made: list[str] = []
    for statement in filter(None, (part.strip() for part in bare.split(";"))):
        flush = ", fsync_after_insert = 1, fsync_part_directory = 1" if durable else ""
        statement = statement.replace("@durable", flush)
        if not cluster:
            made.append(re.sub(r"@engine", "MergeTree", statement).replace("@", ""))
            continue
        if _INSERT.fullmatch(statement):
            made.append(statement.replace("@", ""))
            continue
        if change := _CHANGE.fullmatch(statement):
            made.append(f"{change['verb']} {change['name']}_local ON CLUSTER '{cluster}'{change['rest']}")
            continue
        match = _CREATE.fullmatch(statement)
        if match is None:
            raise ValueError(f"a migration cannot do this: {statement[:80]}")
        name, columns, rest = match["name"], match["columns"], match["rest"]
        replicated = f"ReplicatedMergeTree('/clickhouse/tables/{{shard}}/{{database}}/{name}', '{{replica}}')"
        made.append(f"CREATE TABLE {name}_local ON CLUSTER '{cluster}'\n{columns}\nENGINE = {replicated}{rest}")
        key = "cityHash64(tenant)" if _SHARDED_BY_TENANT.search(columns) else "0"
        distributed = f"Distributed('{cluster}', currentDatabase(), '{name}_local', {key})"
        made.append(f"CREATE TABLE {name} ON CLUSTER '{cluster}' AS {name}_local\nENGINE = {distributed}")
    return made


async def migrate(engine: Engine, settings: Settings) -> int:
    """Applies what is missing; returns the version. Raises Conflict when the database is newer than this program."""
    await _create(engine, _VERSIONS, settings)
    applied = await engine.rows("SELECT max(version) AS version FROM schema_versions", lane=Lane.COMMIT)
    current = int(applied[0]["version"])
    known = migrations()
    if current > known[-1][0]:
        raise Conflict(
            f"the database has schema {current}, this program knows {known[-1][0]}: run the newer program",
            reason="SCHEMA_NEWER",
        )
    for version, name, text in known:
        if version <= current:
            continue
        await _create(engine, text, settings)
        await engine.execute(
            "INSERT INTO schema_versions (version, name) VALUES ({version:UInt32}, {name:String})",
            {"version": version, "name": name},
            lane=Lane.COMMIT,
        )
    if settings.embedded:
        await _set_durability(engine, durable=settings.fsync)
    return known[-1][0]


async def _create(engine: Engine, text: str, settings: Settings) -> None:
    for statement in statements(text, cluster=settings.cluster, durable=settings.embedded and settings.fsync):
        # A crash inside a migration leaves some of its tables behind, still empty.
        once = statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1)
        await engine.execute(once, lane=Lane.COMMIT, timeout_s=limits.HEAVY_DEADLINE_S)


async def _set_durability(engine: Engine, *, durable: bool) -> None:
    """The flush settings live in the tables; this makes them what the server was started with."""
    wanted = "fsync_after_insert = 1"
    tables = await engine.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
        " AND (position(create_table_query, {wanted:String}) > 0) != {durable:UInt8}"
        " AND name NOT IN ('schema_versions', 'leases', 'pipeline_runs', 'tenant_runs')",
        {"wanted": wanted, "durable": int(durable)},
        lane=Lane.COMMIT,
    )
    for table in tables:
        change = (
            f"MODIFY SETTING {wanted}, fsync_part_directory = 1"
            if durable
            else ("RESET SETTING fsync_after_insert, fsync_part_directory")
        )
        await engine.execute(f"ALTER TABLE {table['name']} {change}", lane=Lane.COMMIT)
