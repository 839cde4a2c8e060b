"""`penstock accounts …`: users, API keys and signing keys.

On a database that no server has open (or behind a URL) it works by itself, which is how the first user comes to be.
Where a server runs over the data folder it is asked, with PENSTOCK_API_KEY as any client.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table

from penstock import logs
from penstock.accounts.v1.accounts_pb2 import ApiKey, User
from penstock.cli.remote import DEFAULT_ADDRESS, Address, connected
from penstock.cli.running import CommandError, run
from penstock.cli.serve import option, settings_of
from penstock.settings import Settings
from penstock.startup import lock_holder
from penstock_client.accounts import AccountsClient, Role

if TYPE_CHECKING:
    from penstock.cli.accounts_here import Here

app = typer.Typer(help="Users, API keys and signing keys.", no_args_is_help=True)

ROLES = "viewer, ingester, analyst, operator or admin"

Folder = Annotated[Path | None, option("data_dir")]
Url = Annotated[str | None, option("clickhouse_url")]
Tenant = Annotated[
    str,
    typer.Option("--tenant", help="Whose data they reach; a new name is a new tenant. Of a running server: your own."),
]
Roles = Annotated[list[str], typer.Option("--role", help=f"What they may do: {ROLES}; may be given more than once.")]
Desk: TypeAlias = "Here | AccountsClient"
Work: TypeAlias = "Callable[[Desk], Awaitable[None]]"

_console = Console(highlight=False, soft_wrap=True)


@app.command("create-user")
def create_user(
    name: Annotated[str, typer.Argument(help="The name to sign in with.")],
    role: Roles,
    tenant: Tenant = "default",
    password_file: Annotated[Path | None, typer.Option(help="File with the password; else it is asked for.")] = None,
    data_dir: Folder = None,
    clickhouse_url: Url = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Creates a user who signs in with a password."""
    roles, password = _roles(role), _password(password_file)

    async def work(desk: Desk) -> None:
        made = await desk.create_user(name, password, roles)
        _console.print(f"user {made.name} of tenant {made.tenant}: {', '.join(made.roles)}", markup=False)

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("list-users")
def list_users(
    tenant: Tenant = "default", data_dir: Folder = None, clickhouse_url: Url = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Lists a tenant's users."""

    async def work(desk: Desk) -> None:
        _console.print(_users(await desk.users()))

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("update-user")
def update_user(
    name: Annotated[str, typer.Argument(help="Whom.")],
    role: Annotated[list[str] | None, typer.Option("--role", help=f"What they may do from now on: {ROLES}.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_file: Annotated[Path | None, typer.Option(help="File with the new password.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Whether they may sign in.")] = None,
    tenant: Tenant = "default",
    data_dir: Folder = None,
    clickhouse_url: Url = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Changes a user's roles, password, or whether they may sign in; their sessions end."""
    new = _password(password_file) if password or password_file else None
    roles = _roles(role) if role else None
    if new is None and roles is None and disabled is None:
        raise typer.BadParameter("say what to change: --role, --password, --disable or --enable")

    async def work(desk: Desk) -> None:
        _console.print(_users([await desk.update_user(name, roles=roles, password=new, disabled=disabled)]))

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("create-key")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Roles,
    expires: Annotated[datetime | None, typer.Option(help="When it stops to work; local time. Default: never.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the key alone, for scripts.")] = False,
    tenant: Tenant = "default",
    data_dir: Folder = None,
    clickhouse_url: Url = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Creates an API key, and shows it: now, and never again."""
    roles = _roles(role)

    async def work(desk: Desk) -> None:
        made = await desk.create_key(name, roles, expires=expires)
        if not quiet:
            key = made.api_key
            told = f"key {key.id} of tenant {key.tenant} ({', '.join(key.roles)}), shown this once:"
            _console.print(told, markup=False)
        typer.echo(made.key)

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("list-keys")
def list_keys(
    tenant: Tenant = "default", data_dir: Folder = None, clickhouse_url: Url = None, address: Address = DEFAULT_ADDRESS
) -> None:
    """Lists a tenant's API keys that work."""

    async def work(desk: Desk) -> None:
        _console.print(_keys(await desk.keys()))

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("revoke-key")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as list-keys shows it.")],
    tenant: Tenant = "default",
    data_dir: Folder = None,
    clickhouse_url: Url = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Makes an API key stop to work."""

    async def work(desk: Desk) -> None:
        revoked = await desk.revoke_key(key_id)
        _console.print(f"key {revoked.id} ({revoked.name}) works no more", markup=False)

    run(_at(work, tenant, data_dir, clickhouse_url, address))


@app.command("rotate-signing-key")
def rotate_signing_key(data_dir: Folder = None) -> None:
    """Signs access tokens with a new key from now on; those that are out hold until they expire.

    A server that runs sees it within a second.
    """
    from penstock.accounts.signing import SigningKeys

    settings = settings_of(data_dir=data_dir)
    keys = SigningKeys.load_or_create(settings.signing_keys_file)
    keys.rotate()
    _console.print(f"{settings.signing_keys_file}: a new key signs", markup=False)


async def _at(work: Work, tenant: str, data_dir: Path | None, clickhouse_url: str | None, address: str) -> int:
    settings = settings_of(data_dir=data_dir, clickhouse_url=clickhouse_url)
    async with _desk(settings, tenant, address) as desk:
        await work(desk)
    return 0


@asynccontextmanager
async def _desk(settings: Settings, tenant: str, address: str) -> AsyncIterator[Desk]:
    if address == DEFAULT_ADDRESS and not (settings.embedded and lock_holder(settings.data_dir)):
        from penstock.cli.accounts_here import opened_here  # loads the database

        logs.configure("warning", settings.log_format)  # what was done is said by the command itself
        async with opened_here(settings, tenant) as here:
            yield here
        return
    async with connected(address) as client:
        me = await client.accounts.me()
        if me.tenant != tenant:
            raise CommandError(
                f"the server is asked as {me.kind} {me.name or '(open)'} of tenant {me.tenant}, who cannot manage "
                f"tenant {tenant}: call with a key of that tenant, or stop the server to begin a new one"
            )
        yield client.accounts


def _roles(names: list[str]) -> list[Role]:
    known: tuple[Role, ...] = ("viewer", "ingester", "analyst", "operator", "admin")
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name} is no role; there are {', '.join(known)}", param_hint="--role")
    return [each for each in known if each in names]


def _password(file: Path | None) -> str:
    if file is None:
        asked: str = typer.prompt("Password (12 characters at least)", hide_input=True, confirmation_prompt=True)
        return asked
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--password-file") from error


def _users(users: list[User]) -> Table:
    table = Table("user", "tenant", "roles", "since", "", box=box.SIMPLE)
    for user in users:
        table.add_row(
            user.name,
            user.tenant,
            ", ".join(user.roles),
            _minute(user.create_time),
            "disabled" if user.disabled else "",
        )
    return table


def _keys(keys: list[ApiKey]) -> Table:
    table = Table("id", "for", "roles", "by", "expires", "last used", "", box=box.SIMPLE)
    for key in keys:
        times = [
            _minute(getattr(key, field)) if key.HasField(field) else "never"
            for field in ("expire_time", "last_used_time")
        ]
        revoked = "revoked" if key.HasField("revoke_time") else ""
        table.add_row(key.id, key.name, ", ".join(key.roles), key.created_by, *times, revoked)
    return table


def _minute(stamp: Timestamp) -> str:
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
