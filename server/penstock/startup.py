"""What must be right before a server starts, and what to do where it is not.

Each check raises `StartupError`, whose text is for the person at the terminal: what is wrong, and which option or
variable mends it. `penstock doctor` runs the same checks.
"""

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import clickhouse_connect
import psutil
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock import limits
from penstock.settings import Settings

CONNECT_S = 5
LOCK = "lock"


class StartupError(Exception):
    """The server cannot start as it is set up. The message says what to change."""


def check_public(settings: Settings, *, rest: bool, allowed_by_flag: bool) -> None:
    """Refuses to listen beyond this machine without authentication, where everybody could read and write, unless told
    so twice."""
    if settings.auth_required:
        return
    hosts = {"grpc": settings.grpc_host, **({"http": settings.http_host} if rest else {})}
    public = {name: host for name, host in hosts.items() if not is_loopback(host)}
    if not public or (allowed_by_flag and settings.allow_public):
        return
    name, host = next(iter(public.items()))
    missing = [
        *(() if allowed_by_flag else ("give --allow-public",)),
        *(() if settings.allow_public else ("set PENSTOCK_ALLOW_PUBLIC=true",)),
    ]
    raise StartupError(
        f"--{name}-host {host} is reachable from other machines, and this server is open: whoever reaches it can read "
        "and write everything. Set PENSTOCK_AUTH=required and create a user (penstock accounts create-user), or listen "
        f"on 127.0.0.1, or, if the network itself is closed, {' and '.join(missing)}."
    )


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is this machine's own. Raises StartupError for a name nobody knows."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StartupError(
            f"nobody knows the host {host!r} ({error.strerror}): give an address of this machine"
        ) from error
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


def check_ports(settings: Settings, *, rest: bool) -> None:
    """Finds out whether the ports are free, before gRPC and Envoy say so in words of their own."""
    check_port("gRPC", settings.grpc_host, settings.grpc_port, option="--grpc-port", variable="PENSTOCK_GRPC_PORT")
    if not rest:
        return
    check_port("REST", settings.http_host, settings.http_port, option="--http-port", variable="PENSTOCK_HTTP_PORT")
    if settings.http_port and settings.http_port == settings.grpc_port:
        raise StartupError(
            f"gRPC and REST cannot both have port {settings.http_port}: choose another with --http-port or "
            "PENSTOCK_HTTP_PORT"
        )


def check_port(what: str, host: str, port: int, *, option: str, variable: str) -> None:
    """Raises StartupError when `port` of `host` cannot be listened on; port 0 always can."""
    if not port:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gRPC and Envoy do: a port whose last connections linger is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartupError(_port_trouble(what, host, port, error, option, variable)) from error


def _port_trouble(what: str, host: str, port: int, error: OSError, option: str, variable: str) -> str:
    change = f"with {option} or {variable} (0 picks a free one)"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} for {what} is taken{_by_whom(port)}: stop that, or choose another port {change}"
    if error.errno == errno.EACCES:
        return f"port {port} for {what} needs more rights than this process has: choose one above 1023 {change}"
    if error.errno == errno.EADDRNOTAVAIL:
        host_option = option.replace("port", "host")
        return f"{host} is no address of this machine: change {host_option} or {variable.replace('PORT', 'HOST')}"
    return f"cannot listen on {host}:{port} for {what}: {error.strerror}"


def _by_whom(port: int) -> str:
    """` by NAME (process PID)` where the system tells, which for other users' processes it does not."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listening and listening.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


@contextlib.contextmanager
def data_folder(settings: Settings) -> Iterator[Path]:
    """The data folder, made where it is missing and held for this process alone while the context is open.

    The hold is the kernel's (`flock`), so that nothing is left to clear away after a kill -9. The lock file stays; in
    it stands who holds it, for the message that a second server gives.
    """
    with contextlib.ExitStack() as held:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((settings.data_dir / LOCK).open("a+", encoding="utf-8"))
        except OSError as error:
            raise StartupError(
                f"cannot write to the data folder {settings.data_dir} ({error.strerror}): give another with --data-dir "
                "or PENSTOCK_DATA_DIR, or make this one writable for the user that runs the server"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"the data folder {settings.data_dir} is in use by {_holder(lock)}: stop that server, or give this one "
                "a folder of its own with --data-dir or PENSTOCK_DATA_DIR"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield settings.data_dir


def lock_holder(data_dir: Path) -> int | None:
    """The process that holds the data folder now; None when nobody does."""
    try:
        with (data_dir / LOCK).open("r", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0)
    except OSError:
        pass
    return None


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    pid = lock.read().strip()
    return f"process {pid}" if pid else "another process"


def check_disk(settings: Settings) -> None:
    """Raises StartupError when the embedded engine would soon have no room to write."""
    if not settings.embedded:
        return
    free = disk_free_bytes(settings.data_dir)
    if free < limits.DISK_FREE_BYTES_MIN:
        raise StartupError(
            f"{free / 2**20:,.0f} MiB are free on the disk of {settings.data_dir}; the server needs at least "
            f"{limits.DISK_FREE_BYTES_MIN / 2**20:,.0f} MiB: make room, or give a folder elsewhere with --data-dir"
        )


def disk_free_bytes(folder: Path) -> int:
    """What is free on the disk that holds `folder`, or would hold it."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return int(psutil.disk_usage(str(existing)).free)


def check_clickhouse(settings: Settings) -> str:
    """Asks the ClickHouse server of the settings for its version.

    Raises StartupError when the URL does not lead to one. Blocks for at most a few seconds. For the embedded engine
    there is nothing to reach.
    """
    if settings.embedded:
        return "embedded"
    shown = without_password(settings.clickhouse_url)
    try:
        client = clickhouse_connect.get_client(
            dsn=settings.clickhouse_url, connect_timeout=CONNECT_S, send_receive_timeout=CONNECT_S, query_retries=0
        )
        try:
            return str(client.server_version)
        finally:
            client.close()
    except ClickHouseError as error:
        raise StartupError(
            f"{shown} is no ClickHouse that this server can use: {_cause(str(error))}. Check --clickhouse-url or "
            "PENSTOCK_CLICKHOUSE_URL"
        ) from error


def _cause(error: str) -> str:
    causes = {
        "AUTHENTICATION_FAILED": "its user or password is wrong",
        "UNKNOWN_DATABASE": "its database does not exist; create it there first",
        "NameResolution": "nobody knows its host",
        "refused": "nothing listens at that host and port (8123 is ClickHouse's usual HTTP port)",
        "timed out": "its host does not answer",
    }
    known = next((meaning for sign, meaning in causes.items() if sign in error), None)
    return known or f"it answered {error.splitlines()[0][:300]!r}"


def without_password(url: str) -> str:
    """`url` as it may be shown."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    address = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}:…@{address}").geturl()
