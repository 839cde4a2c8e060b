"""Opens handles to ClickHouse, and says plainly at the start what is wrong with where they lead."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from penstock import limits
from penstock.errors import Conflict, Unavailable
from penstock.settings import Settings
from penstock.storage.failures import REFUSED, outcome_is_known

CONNECT_S = 5.0

_ALL = {
    "max_memory_usage": limits.QUERY_MEMORY_BYTES_MAX,
    # An expression is compiled when it came for the fourth time, and its constants are part of it: windows and versions
    # are constants, so short reads would pay 11 ms now and then for code that soon nobody needs.
    "compile_expressions": 0,
}
# What a user profile of the server may say otherwise, and a commit rests on:
_SERVER = {
    "async_insert": 0,  # an insert is answered when it is stored
    "insert_deduplicate": 0,  # what was removed as void may be written again, and must not be taken for a repetition
}
_CLUSTER = {
    "distributed_foreground_insert": 1,  # likewise, through Distributed tables
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,  # a reader on another replica sees every commit that was acknowledged
}


def embedded(settings: Settings) -> Callable[[], Client]:
    """Opens handles to the engine in this process, over the data folder."""
    path = settings.data_dir / "clickhouse"
    path.mkdir(parents=True, exist_ok=True)
    return lambda: clickhouse_connect.get_client(interface="chdb", path=str(path), settings=dict(_ALL))


def server(settings: Settings) -> Callable[[], Client]:
    """Opens handles to the server behind the URL; each has its one connection."""
    wanted: dict[str, object] = {**_ALL, **_SERVER, **(_CLUSTER if settings.cluster else {})}
    return lambda: clickhouse_connect.get_client(
        dsn=settings.clickhouse_url,
        settings=dict(wanted),
        autogenerate_session_id=False,  # statements of one handle may then follow each other on any replica
        dedicated_pool=True,
        connect_timeout=CONNECT_S,
        send_receive_timeout=limits.UNARY_DEADLINE_S,
    )


def database_of(settings: Settings) -> str:
    """The database that the URL names."""
    return urlsplit(settings.clickhouse_url).path.strip("/") or "default"


def start_up_error(settings: Settings, error: ClickHouseError) -> Exception:
    """What to tell who started the server, when the first handle could not be opened.

    Conflict for what must be mended, Unavailable for a server that does not answer.
    """
    if settings.embedded:
        return Conflict(
            f"the database in {settings.data_dir} cannot be opened; most likely another server has it open: {error}",
            reason="DATA_DIR_IN_USE",
        )
    url = urlsplit(settings.clickhouse_url)
    where = f"{url.hostname}:{url.port}" if url.port else f"{url.hostname}"
    if isinstance(error, DatabaseError) and error.code in REFUSED:
        return Conflict(
            f"ClickHouse at {where} does not let user {url.username or 'default'!r} into database"
            f" {database_of(settings)!r}: check PENSTOCK_CLICKHOUSE_URL, and that the database exists ({error.name})",
            reason="STORAGE_REFUSED",
        )
    if isinstance(error, DatabaseError) and outcome_is_known(error):
        return Conflict(f"ClickHouse at {where} cannot be used: {error}", reason="STORAGE_REFUSED")
    return Unavailable(f"ClickHouse at {where} does not answer: {error}", reason="STORAGE_UNAVAILABLE", retry_after_s=1)


def scratch_folder(data_dir: Path) -> Path:
    """Where payloads are handed to the embedded engine: memory where the system offers it, else the data folder."""
    memory = Path("/dev/shm")
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return (memory if memory.is_dir() else data_dir) / f"penstock-{name}"
