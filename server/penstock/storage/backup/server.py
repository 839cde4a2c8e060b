"""Backs up a database behind a URL, and restores it, by ClickHouse's own BACKUP and RESTORE, while servers run.

ClickHouse copies the tables of one statement each as it is at some moment of its own. What makes that one version is
the commit log: rows that it does not speak for are void, and go when a server starts on the restored database. So the
log goes first, in a backup of its own, and everything else after it: then every commit of the log has all its rows.
Two things are against that.

Notes of where streams stand (`stream_checkpoints`) count without a row of the log. Those beyond the log are deleted
after the restore, or a stream would go on behind rows that were void; the log itself still says what they said.

Deletions (a purge, the forgetting of a user) take rows away that the log still speaks for, and a forgetting makes
figures anew in between; copied in the middle of one, they could not be made again from what is there. So none may be
under way or begin while tables are copied: before, this refuses; afterwards it says that the backup is of no use.

The destination is a disk or a folder that the ClickHouse server was configured for, and nothing else: with others its
key would stand in the command line. Tried with the ClickHouse that chDB is, 26.9, on `File`; not on a server that has a
disk for backups, and not on a cluster, which is refused.
"""

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock.settings import Settings
from penstock.storage import connection, schema
from penstock.storage.backup.manifest import BackupError
from penstock.storage.engine import quoted
from penstock.storage.payload import literal

POLL_S = 0.2
# No row for minutes, though it runs: a proxy that sends each statement to another server, or one that began anew.
UNKNOWN_S_MAX = 60.0

_PATH = r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*"
_FORM = re.compile(rf"(?P<engine>Disk|File)\((?:'(?P<disk>[A-Za-z0-9_-]+)', *)?'(?P<path>/?{_PATH}(?:/{_PATH})*)'\)")
_SUFFIX = re.compile(r"\.(?:zip|zipx|tar|tgz|tzst|tar\.(?:gz|bz2|lzma|zst|xz))$")

_STATE = "SELECT status, error FROM system.backups WHERE id = {id:String}"
# What the newest commit is, and the deletions that began and did not end.
_LOG = """
SELECT max(commit) AS head, countIf(operation = 'forget' AND commit NOT IN (
    SELECT JSONExtractInt(detail, 'forget') FROM commits WHERE operation = 'forgotten'
)) + countIf(operation = 'purge' AND (JSONExtractString(detail, 'tenant'), JSONExtractInt(detail, 'through')) NOT IN (
    SELECT JSONExtractString(detail, 'tenant'), JSONExtractInt(detail, 'through')
    FROM commits WHERE operation = 'purged'
)) AS begun
FROM commits
"""
_DELETIONS = "SELECT count() AS n FROM commits WHERE commit > {head:Int64} AND operation IN ('purge', 'forget')"
_TABLES = "SELECT count() AS n FROM system.tables WHERE database = currentDatabase()"
_SCHEMA = "SELECT max(version) AS version FROM schema_versions"
_BEYOND = "SELECT count() AS n FROM stream_checkpoints WHERE commit > (SELECT max(commit) FROM commits)"

Told = Callable[[str], None]  # what is being done


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a ClickHouse server puts backups: `Disk('name', 'path')` of its configuration, or `File('path')`."""

    disk: str  # empty: File
    path: str

    def part(self, name: str) -> "Destination":
        """Where one of the backups goes that make up one: `shop.zip` becomes `shop-log.zip`."""
        suffix = _SUFFIX.search(self.path)
        stem = self.path[: suffix.start()] if suffix else self.path
        return Destination(self.disk, f"{stem}-{name}{suffix[0] if suffix else ''}")

    def __str__(self) -> str:
        return f"Disk({literal(self.disk)}, {literal(self.path)})" if self.disk else f"File({literal(self.path)})"


def parse_destination(text: str) -> Destination:
    """Reads `Disk('name', 'path')` or `File('path')`. Raises BackupError for anything else, without repeating it."""
    match = _FORM.fullmatch(text.strip())
    if match is None or (match["engine"] == "Disk") != bool(match["disk"]) or ".." in match["path"].split("/"):
        raise BackupError(
            "a backup of a ClickHouse server goes to Disk('name', 'path') or File('path'), as its configuration allows "
            "(backups.allowed_disk, backups.allowed_path); keys of other storage belong into that configuration"
        )
    return Destination(match["disk"] or "", match["path"])


def back_up(settings: Settings, destination: Destination, told: Told = lambda _: None) -> int:
    """Backs up the database; returns the newest commit of which every row is in it. Raises BackupError.

    It is two backups, `destination.part("log")` and `.part("data")`, and takes both to restore.
    """
    with _connected(settings) as client:
        return back_up_with(client, connection.database_of(settings), destination, told)


def restore(settings: Settings, destination: Destination, *, database: str = "", told: Told = lambda _: None) -> int:
    """Restores to the database of the URL, which has no tables; returns the newest commit. Raises BackupError.

    `database` is what it was called where it was backed up, when that is another name. What an error leaves behind is
    to be dropped.
    """
    with _connected(settings) as client:
        ours = connection.database_of(settings)
        return restore_with(client, ours, destination, theirs=database or ours, told=told)


def back_up_with(client: Client, database: str, destination: Destination, told: Told) -> int:
    """`back_up`, of the database that the client uses."""
    log = _row(client, _LOG)
    if log["begun"]:
        raise BackupError("a purge or the forgetting of a user is under way: back up when it has ended")
    name = quoted([database])
    told("the log")
    _run(client, f"BACKUP TABLE {name}.commits TO {destination.part('log')}")
    told("the tables")
    _run(client, f"BACKUP DATABASE {name} EXCEPT TABLES {name}.commits TO {destination.part('data')}")
    if _row(client, _DELETIONS, {"head": log["head"]})["n"]:
        raise BackupError(
            f"a purge or the forgetting of a user began meanwhile: {destination.part('log')} and "
            f"{destination.part('data')} are of no use, delete them and back up again"
        )
    return int(log["head"])


def restore_with(client: Client, ours: str, destination: Destination, *, theirs: str, told: Told) -> int:
    """`restore`, to the database `ours` that the client uses, of one that was called `theirs`."""
    if _row(client, _TABLES)["n"]:
        raise BackupError(f"the database {ours} has tables: restore to one that is empty")
    here, there = quoted([ours]), quoted([theirs])
    log, data = destination.part("log"), destination.part("data")
    told("the schema")
    _run(client, f"RESTORE TABLE {there}.schema_versions AS {here}.schema_versions FROM {data}")
    version, known = int(_row(client, _SCHEMA)["version"]), schema.migrations()[-1][0]
    if version > known:
        client.command("DROP TABLE schema_versions SYNC")
        raise BackupError(f"the backup has schema {version}, this program knows {known}: use the newer Penstock")
    told("the tables")
    _run(client, f"RESTORE DATABASE {there} AS {here} EXCEPT TABLES {there}.schema_versions FROM {data}")
    told("the log")
    # Last: until it is there, a server that starts finds nothing committed.
    _run(client, f"RESTORE TABLE {there}.commits AS {here}.commits FROM {log}")
    head = int(_row(client, "SELECT max(commit) AS head FROM commits")["head"])
    if _row(client, _BEYOND)["n"]:
        client.command(f"ALTER TABLE stream_checkpoints DELETE WHERE commit > {head} SETTINGS mutations_sync = 2")
    return head


def _run(client: Client, statement: str) -> None:
    """Runs a BACKUP or RESTORE to its end. Raises BackupError with ClickHouse's reason."""
    about = f"penstock-{uuid.uuid4()}"
    # It may take hours, more than anything between waits for an answer.
    client.command(f"{statement} SETTINGS id = {literal(about)} ASYNC")
    since = time.monotonic()
    while True:
        found = client.query(_STATE, parameters={"id": about}).result_rows
        if found:
            status, error = found[0]
            if status in ("BACKUP_CREATED", "RESTORED"):
                return
            if status not in ("CREATING_BACKUP", "RESTORING"):
                reason = str(error).partition(", Stack trace")[0] or status
                raise BackupError(f"ClickHouse could not do it: {reason}")
            since = time.monotonic()
        elif time.monotonic() - since > UNKNOWN_S_MAX:
            raise BackupError(f"the ClickHouse server knows nothing of {about} any more: look whether it was restarted")
        time.sleep(POLL_S)


def _row(client: Client, sql: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    result = client.query(sql, parameters=parameters)
    return dict(zip(result.column_names, result.result_rows[0], strict=True))


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[Client]:
    if settings.cluster:
        raise BackupError("on a cluster, use ClickHouse's own BACKUP … ON CLUSTER while the servers are stopped")
    try:
        client = connection.server(settings)()
    except ClickHouseError as error:
        raise connection.start_up_error(settings, error) from error
    try:
        yield client
    except ClickHouseError as error:
        raise BackupError(f"ClickHouse could not do it: {str(error).partition(', Stack trace')[0]}") from error
    finally:
        client.close()
