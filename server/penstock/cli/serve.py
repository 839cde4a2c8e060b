"""`penstock up` and `penstock serve`: the stack, and the server alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
import typer
from pydantic import ValidationError

from penstock import logs
from penstock.cli.loading import keep_loaded, uncollected, without_pandas
from penstock.cli.running import fail, run
from penstock.settings import Settings
from penstock.startup import StartupError, check_public

log = structlog.get_logger()

UP = "Runs the server and Envoy before it: gRPC, and the same contract as REST and server-sent events."
SERVE = "Runs the server alone: gRPC, without REST."


def option(name: str, *flags: str) -> Any:
    """The command-line form of a setting, described as the setting is."""
    return typer.Option(
        *(flags or [f"--{name.replace('_', '-')}"]),
        help=f"{Settings.model_fields[name].description}",
        show_default=_default(name),
        envvar=None,
    )


def _default(name: str) -> str:
    return f"{Settings.model_fields[name].default}, or PENSTOCK_{name.upper()}"


def command(*, rest: bool) -> Callable[..., None]:
    """The command that runs the stack with or without Envoy. Options that are not given leave the setting as it is."""

    def start(
        data_dir: Annotated[Path | None, option("data_dir")] = None,
        clickhouse_url: Annotated[str | None, option("clickhouse_url")] = None,
        grpc_host: Annotated[str | None, option("grpc_host")] = None,
        grpc_port: Annotated[int | None, option("grpc_port")] = None,
        http_host: Annotated[str | None, option("http_host")] = None,
        http_port: Annotated[int | None, option("http_port")] = None,
        fsync: Annotated[bool | None, option("fsync", "--fsync/--no-fsync")] = None,
        auth: Annotated[str | None, option("auth")] = None,
        metrics_port: Annotated[int | None, option("metrics_port")] = None,
        currency: Annotated[str | None, option("currency")] = None,
        log_level: Annotated[str | None, option("log_level")] = None,
        log_format: Annotated[str | None, option("log_format")] = None,
        allow_public: Annotated[
            bool,
            typer.Option(
                "--allow-public",
                help="Half of the permission to listen beyond this machine; PENSTOCK_ALLOW_PUBLIC is the other.",
            ),
        ] = False,
        ready_file: Annotated[
            Path | None,
            typer.Option("--ready-file", help="Written once all of it serves: JSON with pid, grpc_port, http_port."),
        ] = None,
    ) -> None:
        settings = settings_of(
            data_dir=data_dir,
            clickhouse_url=clickhouse_url,
            grpc_host=grpc_host,
            grpc_port=grpc_port,
            http_host=http_host,
            http_port=http_port,
            fsync=fsync,
            auth=auth,
            metrics_port=metrics_port,
            currency=currency,
            log_level=log_level,
            log_format=log_format,
        )
        _start(settings, rest=rest, allow_public=allow_public, ready_file=ready_file)

    return start


def settings_of(**given: object) -> Settings:
    """The settings of the environment, with those `given` that are not None in their place.

    Ends the command when one is wrong, naming it as it was given and not quoting it: it may be a password.
    """
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if urlsplit(overrides.get("clickhouse_url", "")).password:
        fail(
            "--clickhouse-url: a password on a command line is seen by everybody on the machine; give the URL in "
            "PENSTOCK_CLICKHOUSE_URL, or in a file of that name in the folder PENSTOCK_SECRETS_DIR"
        )
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
        fail("; ".join(f"{_spelled(each['loc'], overrides)}{each['msg']}" for each in wrong))


def _spelled(place: tuple[int | str, ...], overrides: dict[str, Any]) -> str:
    """A setting as the user gave it: by option, or by environment; nothing where several do not go together."""
    if not place:
        return ""
    name = str(place[0])
    return (
        f"--{name.replace('_', '-')}: " if name in overrides else f"PENSTOCK_{name.upper().removeprefix('PENSTOCK_')}: "
    )


def _start(settings: Settings, *, rest: bool, allow_public: bool, ready_file: Path | None) -> None:
    try:
        check_public(settings, rest=rest, allowed_by_flag=allow_public)
    except StartupError as error:
        fail(str(error))
    logs.configure(settings.log_level, settings.log_format)
    with without_pandas():
        # Loads the database; the checks above should not wait for that.
        with uncollected():
            from penstock import stack
        keep_loaded()
        with stack.ready_file(ready_file) as write:

            def announce(ready: stack.Ready) -> None:
                address = f"{settings.grpc_host}:{ready.grpc_port}"
                log.info("ready", grpc=address, http_port=ready.http_port, pid=ready.pid)
                write(ready)

            run(stack.run(settings, rest=rest, announce=announce))
