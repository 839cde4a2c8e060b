"""Backs up the data folder of the embedded engine, and restores it.

The server must be stopped. Only who has the folder open may read it: parts are immutable, but the engine merges them
and deletes what it merged whenever it likes, and another process can neither hold that up nor ask it what is current;
chDB lets one process open a folder, and it has no port. So this takes the folder's lock, opens the engine itself and
has it link the parts that count (`ALTER TABLE … FREEZE`: 0.02 s for 21 tables), as a server could between two commits.
That leaves out what merges and a crash left behind. What was tried beside it, in chDB 4.4: `BACKUP DATABASE … TO
File(…)` works once the engine is opened with `backups.allowed_path` (without zip, which is not built in), but it copies
everything once more than linking, and it copies one table after another.

What a crash left without a row of the log is in the backup as it is in the folder, and goes when a server starts.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock import limits
from penstock.durable import sync_folder
from penstock.settings import Settings
from penstock.startup import LOCK, data_folder, disk_free_bytes, lock_holder
from penstock.storage import connection, schema
from penstock.storage.backup.manifest import SIGNING_KEYS, About, BackupError, Manifest, Moved
from penstock.storage.backup.pack import check_free, pack
from penstock.storage.backup.unpack import open_archive

DATABASE = "clickhouse/metadata/default"  # a link to the folder of the tables' declarations
SNAPSHOT = "penstock_backup"

_ABOUT = """
SELECT
    version() AS clickhouse,
    (SELECT max(version) FROM schema_versions) AS schema,
    (SELECT max(commit) FROM commits) AS commit
"""
# The folder of each; a UUID the embedded engine does not tell.
_TABLES = """
SELECT name, data_paths[1] AS folder
FROM system.tables
WHERE database = currentDatabase() AND engine LIKE '%MergeTree'
"""


def back_up(settings: Settings, file: Path, *, force: bool = False, moved: Moved = lambda *_: None) -> Manifest:
    """Writes a backup of the data folder to `file`.

    Raises BackupError: while a server has the folder open, where there is no database, where `file` is there and not to
    be overwritten, and when it cannot be written. StartupError for a folder that cannot be used.
    """
    data_dir = settings.data_dir
    if not (data_dir / DATABASE).is_symlink():
        raise BackupError(f"there is no database in {data_dir}: give the data folder with --data-dir")
    if file.resolve().is_relative_to(data_dir.resolve()):
        raise BackupError(f"{file} lies in the folder that it would be a backup of: choose another place")
    check_free(file, force=force)
    holder = lock_holder(data_dir)
    if holder is not None:
        by = f"process {holder}" if holder else "another process"
        raise BackupError(
            f"{by} has the data folder {data_dir} open: stop that server first (SIGTERM or Ctrl-C), and "
            "start it again when the backup is made"
        )
    try:
        with data_folder(settings), _frozen(settings) as (about, frozen):
            found = [*frozen, *_files(data_dir, "index"), *_files(data_dir, "models")]
            keys = settings.signing_keys_file.resolve()  # which may have another name
            sources = sorted((name, path) for name, path in found if path.resolve() != keys)
            return pack(file, about, sources, force=force, moved=moved)
    except OSError as error:
        raise BackupError(f"cannot read {error.filename or data_dir}: {error.strerror or error}") from error


def restore(settings: Settings, file: Path, *, moved: Moved = lambda *_: None) -> Manifest:
    """Makes the data folder from the backup in `file`: whole, or not at all.

    It is unpacked beside the folder's place and renamed; where the folder is a mount point, inside it. Raises
    BackupError: for a folder that is not empty, for an archive that is damaged, was altered, or is newer than this
    program, and where there is no room.
    """
    data_dir = settings.data_dir.absolute()
    mounted = data_dir.is_mount()
    staged = data_dir / ".restoring" if mounted else data_dir.with_name(f".{data_dir.name}.restoring")
    _check_empty(data_dir, {LOCK, "lost+found", staged.name} if mounted else set())
    with open_archive(file) as archive:
        _check_fits(archive.manifest, file, data_dir)
        try:
            with data_folder(settings) if mounted else contextlib.nullcontext(), _staging(staged):
                archive.unpack(staged, moved)
                _link_database(staged, archive.manifest.about.database)
                for folder, _, _ in os.walk(staged):
                    sync_folder(Path(folder))
                _publish(staged, data_dir, mounted=mounted)
        except OSError as error:
            raise BackupError(f"cannot restore to {data_dir}: {error.strerror or error}") from error
    return archive.manifest


def verify(file: Path, *, moved: Moved = lambda *_: None) -> Manifest:
    """Reads the backup in `file` and checks every byte of it, writing nothing. Raises BackupError."""
    with open_archive(file) as archive:
        archive.verify(moved)
    return archive.manifest


def remove_leftovers(data_dir: Path) -> None:
    """Removes what a killed backup left in the folder, whose lock is held: links that keep deleted rows on disk."""
    shutil.rmtree(data_dir / "clickhouse" / "shadow" / SNAPSHOT, ignore_errors=True)


@contextlib.contextmanager
def _frozen(settings: Settings) -> Iterator[tuple[About, list[tuple[str, Path]]]]:
    """What the database is, and its files under their paths in a backup, which stay as they are while this is open."""
    home = settings.data_dir / "clickhouse"
    shadow = home / "shadow" / SNAPSHOT
    try:
        remove_leftovers(settings.data_dir)
        client = connection.embedded(settings)()
        try:
            about = _about(client, settings)
            tables = _rows(client, _TABLES)
            for table in tables:
                client.command(f"ALTER TABLE `{table['name']}` FREEZE WITH NAME '{SNAPSHOT}'")
        finally:
            client.close()
        declared = [home / about.database, *(Path(table["folder"]) for table in tables)]
        beside = [path for folder in declared for path in _plain(folder)]
        files = [(f"clickhouse/{path.resolve().relative_to(home.resolve()).as_posix()}", path) for path in beside]
        yield about, files + [(f"clickhouse/{name}", path) for name, path in _files(shadow, "store")]
    except ClickHouseError as error:
        raise BackupError(f"the database in {settings.data_dir} cannot be read: {error}") from error
    finally:
        remove_leftovers(settings.data_dir)


def _about(client: Client, settings: Settings) -> About:
    return About(
        penstock=metadata.version("penstock"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        database=(settings.data_dir / DATABASE).readlink().as_posix().removeprefix("../"),
        **_rows(client, _ABOUT)[0],
    )


def _rows(client: Client, sql: str) -> list[dict[str, Any]]:
    result = client.query(sql)
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def _plain(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]


def _files(home: Path, root: str) -> list[tuple[str, Path]]:
    """The files below a folder of `home`, by their paths there, but for links, sockets and keys."""
    return [
        (path.relative_to(home).as_posix(), path)
        for folder, _, _ in os.walk(home / root)
        for path in _plain(Path(folder))
        if path.name.casefold() != SIGNING_KEYS
    ]


def _check_empty(data_dir: Path, but: set[str]) -> None:
    try:
        if data_dir.exists() and {path.name for path in data_dir.iterdir()} - but:
            raise BackupError(f"{data_dir} is not empty: restore to a folder that is new, given with --data-dir")
    except OSError as error:
        raise BackupError(f"cannot restore to {data_dir}: {error.strerror}") from error


def _check_fits(manifest: Manifest, file: Path, data_dir: Path) -> None:
    known = schema.migrations()[-1][0]
    if manifest.about.schema > known:
        raise BackupError(
            f"{file} has schema {manifest.about.schema}, this program knows {known}: use Penstock "
            f"{manifest.about.penstock}, which made it, or a newer one"
        )
    free = disk_free_bytes(data_dir)
    needed = manifest.bytes + limits.DISK_FREE_BYTES_MIN
    if free < needed:
        raise BackupError(
            f"{free / 2**20:,.0f} MiB are free on the disk of {data_dir}; this backup and a server on it need "
            f"{needed / 2**20:,.0f} MiB"
        )


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """An empty folder of this process's own. What a killed restore left there is removed, and what this one leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another restore, to {folder}, is under way") from None
        try:
            _clear(folder)
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _link_database(staged: Path, database: str) -> None:
    link = staged / DATABASE
    if not (staged / "clickhouse" / database).is_dir() or link.parent.exists():
        raise BackupError("the database of this backup is not among its files")
    link.parent.mkdir()
    link.symlink_to(f"../{database}")


def _publish(staged: Path, data_dir: Path, *, mounted: bool) -> None:
    if not mounted:
        staged.rename(data_dir)  # replaces an empty folder, and fails for one that is no longer empty
        sync_folder(data_dir.parent)
        return
    # What cannot be renamed as a whole is usable once the database is there, which comes last.
    for path in sorted(staged.iterdir(), reverse=True):
        path.rename(data_dir / path.name)
        sync_folder(data_dir)
