"""Brings the database to the schema that this version works with: forward only, each step once.

Where several servers may be on the database, the one that holds the lease does it, so nobody else writes meanwhile. Its
statements are fenced like all that it writes: a server that was overtaken without noticing repeats nothing. One that
finds nothing missing waits for nobody.

With the embedded engine the lock of the data folder is enough.
"""

import asyncio
import contextlib
import re
import time
from importlib.resources import files

import structlog

from penstock import limits
from penstock.errors import Conflict, PenstockError, Unavailable
from penstock.settings import Settings
from penstock.storage.engine import Engine, Lane
from penstock.storage.lease import Lease

log = structlog.get_logger()

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
_INSERT_SELECT = re.compile(r"(?P<into>INSERT INTO [^\n]+)\n(?P<select>SELECT.*)", re.DOTALL)
_TRUNCATE = re.compile(r"TRUNCATE TABLE (?P<target>.*)")
_CHANGE = re.compile(r"(?P<verb>TRUNCATE TABLE|ALTER TABLE) @(?P<name>\w+)(?P<rest>.*)", re.DOTALL)
_CREATE = re.compile(r"CREATE TABLE @(?P<name>\w+)\n(?P<columns>\(.*?\n\))\nENGINE = @engine(?P<rest>.*)", re.DOTALL)
_APPLIED = """
INSERT INTO schema_versions (version, name)
SELECT {version:UInt32}, {name:String}
"""
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


def fenced(statement: str, condition: str) -> str:
    """The statement, without effect unless `condition` holds; as it is where running it again changes nothing."""
    if match := _INSERT_SELECT.fullmatch(statement.strip()):
        return f"{match['into']}\nSELECT * FROM\n(\n{match['select']}\n)\nWHERE {condition}"
    if match := _TRUNCATE.fullmatch(statement):
        # The fence reads a table, which ClickHouse lets a replicated deletion do only on demand.
        settings = "mutations_sync = 2, allow_nondeterministic_mutations = 1"
        return f"ALTER TABLE {match['target']} DELETE WHERE {condition} SETTINGS {settings}"
    return statement


async def migrate(
    engine: Engine, settings: Settings, lease: Lease | None = None, *, wait_s: float = limits.MIGRATION_WAIT_S
) -> int:
    """Applies what is missing; returns the version.

    With a lease, only while it is held; it still is afterwards. Where another server holds it, waits until that one has
    applied what is missing or gives it up, at most `wait_s`. Without a lease, nobody else may be on the database.

    Raises Conflict when the database is newer than this program (SCHEMA_NEWER), or behind it and another server went on
    writing (SCHEMA_BEHIND); Unavailable when another server took over in the middle.
    """
    # On the readers' lane, where who has just taken the lease does not end it.
    await _execute(engine, _VERSIONS, settings, lane=Lane.READ)
    missing = await _missing(engine)
    if missing and lease is not None:
        if missing == migrations():
            # The tables that the lease rests on. Two may make them at once: the first migration does nothing else.
            await _execute(engine, missing[0][2], settings, lane=Lane.READ)
        if await _leads(engine, lease, wait_s):
            await _migrate_alone(engine, settings, lease)
    else:
        for migration in missing:
            await _apply(engine, migration, settings)
    if settings.embedded:
        await _set_durability(engine, durable=settings.fsync)
    return migrations()[-1][0]


async def _missing(engine: Engine) -> list[tuple[int, str, str]]:
    applied = await engine.rows("SELECT max(version) AS version FROM schema_versions", lane=Lane.COMMIT)
    current = int(applied[0]["version"])
    known = migrations()
    if current > known[-1][0]:
        raise Conflict(
            f"the database has schema {current}, this program knows {known[-1][0]}: run the newer program",
            reason="SCHEMA_NEWER",
        )
    return [migration for migration in known if migration[0] > current]


async def _leads(engine: Engine, lease: Lease, wait_s: float) -> bool:
    """Waits for the lease; False when another server applied everything first."""
    until = time.monotonic() + wait_s
    told = False
    while missing := await _missing(engine):
        with contextlib.suppress(PenstockError):  # the engine has logged it; what lasts, the next look raises
            if await lease.renew():
                return True
        if time.monotonic() > until:
            raise Conflict(
                f"the database needs schema {missing[-1][0]}, and has not come to it in {wait_s:g} s, because another"
                f" server ({lease.seen}) writes: stop the servers of the older version, then start this one again",
                reason="SCHEMA_BEHIND",
            )
        if not told:
            log.warning("waiting to migrate until another server has, or stops", holder=lease.seen, wait_s_max=wait_s)
            told = True
        await asyncio.sleep(limits.FOLLOW_INTERVAL_S)
    return False


async def _migrate_alone(engine: Engine, settings: Settings, lease: Lease) -> None:
    async with lease.renewed():
        epoch = lease.epoch
        # Of a server that died in the middle, a statement may still run.
        await engine.settle(everybody=True)
        for migration in await _missing(engine):
            await _apply(engine, migration, settings, lease, epoch)
        if await _missing(engine):
            raise Unavailable(
                "another server took over before the database was migrated; start this one again",
                reason="NOT_LEADER",
                retry_after_s=lease.retry_after_s,
            )


async def _apply(
    engine: Engine,
    migration: tuple[int, str, str],
    settings: Settings,
    lease: Lease | None = None,
    epoch: int = 0,
) -> None:
    version, name, text = migration
    await _execute(engine, text, settings, lease, epoch)
    applied = _APPLIED if lease is None else fenced(_APPLIED, lease.condition(epoch))
    await engine.execute(applied, {"version": version, "name": name}, lane=Lane.COMMIT)


async def _execute(
    engine: Engine,
    text: str,
    settings: Settings,
    lease: Lease | None = None,
    epoch: int = 0,
    *,
    lane: Lane = Lane.COMMIT,
) -> None:
    for statement in statements(text, cluster=settings.cluster, durable=settings.embedded and settings.fsync):
        # A crash inside a migration leaves some of its tables behind, still empty.
        once = statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1)
        if lease is not None:
            lease.check()
            once = fenced(once, lease.condition(epoch))
        await engine.execute(once, lane=lane, timeout_s=limits.HEAVY_DEADLINE_S)


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
