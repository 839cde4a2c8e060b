"""`penstock backup` and `penstock restore`: the database in a file, or where a ClickHouse server puts its backups."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from penstock.cli import display
from penstock.cli.running import INTERRUPTED, fail
from penstock.cli.serve import option, settings_of
from penstock.errors import PenstockError
from penstock.settings import Settings
from penstock.startup import StartupError
from penstock.storage.backup.manifest import LEFT_OUT, BackupError, Manifest, Moved

_NO_FILE = "the database of these settings is behind a URL: give {option} \"Disk('name', 'path')\", not a FILE"
_NO_PLACE = "{option} is for a database behind a URL, and this one is in a data folder: give a FILE"

_RESTORED = "Users and API keys are as they were then: what was revoked since is to be revoked again."


def backup(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; of the embedded engine's data folder.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DESTINATION",
            help="Of a database behind a URL, where the ClickHouse server puts it: \"Disk('name', 'path')\" or "
            "\"File('path')\", as its configuration allows.",
        ),
    ] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Checks the backup in FILE; makes none.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrites FILE.")] = False,
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    clickhouse_url: Annotated[str | None, option("clickhouse_url")] = None,
) -> None:
    """Backs up the database, and with the embedded engine also saved indexes and models.

    The server of a data folder must be stopped; servers of a database behind a URL go on. Signing keys are in no
    backup. Exit code 1 when none was made, or with --verify when it is damaged.
    """
    if verify:
        if file is None or to or force:
            raise typer.BadParameter("--verify takes a FILE, and no other option")
        with _explained():
            _verify(file)
        return
    settings = settings_of(data_dir=data_dir, clickhouse_url=clickhouse_url)
    _check_place(settings, file, to, "--to")
    with _explained():
        if file is not None:
            _to_file(settings, file, force)
        else:
            _to_server(settings, to)


def restore(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A backup that `penstock backup` made.")] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="DESTINATION", help="Of a database behind a URL, what `backup --to` was given."),
    ] = "",
    database: Annotated[
        str, typer.Option("--database", help="With --from: what the database was called then, if not as it is now.")
    ] = "",
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    clickhouse_url: Annotated[str | None, option("clickhouse_url")] = None,
) -> None:
    """Restores a backup to a data folder that is new or empty, or to a database without tables.

    A folder is there whole afterwards, or not at all. Exit code 1 when it could not be done.
    """
    settings = settings_of(data_dir=data_dir, clickhouse_url=clickhouse_url)
    _check_place(settings, file, source, "--from")
    with _explained():
        if file is not None:
            _from_file(settings, file)
        else:
            _from_server(settings, source, database)


def _check_place(settings: Settings, file: Path | None, place: str, flag: str) -> None:
    if settings.embedded and (file is None or place):
        raise typer.BadParameter(_NO_PLACE.format(option=flag) if place else "give a FILE")
    if not settings.embedded and (file is not None or not place):
        raise typer.BadParameter(_NO_FILE.format(option=flag))


def _to_file(settings: Settings, file: Path, force: bool) -> None:
    from penstock.storage.backup import folder

    with _bar(f"backing up {settings.data_dir}") as moved:
        manifest = folder.back_up(settings, file, force=force, moved=moved)
    _print(f"{file}: {told(manifest)}, in {display.size(file.stat().st_size)}\n{LEFT_OUT}")


def _from_file(settings: Settings, file: Path) -> None:
    from penstock.storage.backup import folder

    with _bar(f"restoring {file.name}") as moved:
        manifest = folder.restore(settings, file, moved=moved)
    _print(f"{settings.data_dir}: {told(manifest)}\n{_RESTORED}")


def _verify(file: Path) -> None:
    from penstock.storage.backup import folder

    with _bar(f"checking {file.name}") as moved:
        manifest = folder.verify(file, moved=moved)
    _print(f"{file}: whole; {told(manifest)}")


def _to_server(settings: Settings, to: str) -> None:
    from penstock.storage.backup import server

    head = server.back_up(settings, server.parse_destination(to), lambda what: _print(f"backing up {what} …"))
    _print(f"backed up everything up to commit {display.count(head)}")


def _from_server(settings: Settings, source: str, database: str) -> None:
    from penstock.storage.backup import server

    destination = server.parse_destination(source)
    head = server.restore(settings, destination, database=database, told=lambda what: _print(f"restoring {what} …"))
    _print(f"restored everything up to commit {display.count(head)}\n{_RESTORED}")


def told(manifest: Manifest) -> str:
    """What a backup has, in a line."""
    about = manifest.about
    return (
        f"commit {display.count(about.commit)}, schema {about.schema}, made {about.created} by Penstock "
        f"{about.penstock} with ClickHouse {about.clickhouse}; {display.count(len(manifest.members))} files, "
        f"{display.size(manifest.bytes)}"
    )


def _print(text: str) -> None:
    # Text, not markup: names of files have brackets, too.
    Console(highlight=False, soft_wrap=True).print(Text(text))


@contextmanager
def _bar(what: str) -> Iterator[Moved]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(highlight=False)) as bar:
        task = bar.add_task(what, total=None)

        def moved(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield moved


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what goes wrong into a line on standard error and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (BackupError, StartupError, PenstockError) as error:
        fail(str(error))
