"""Backups of databases behind a URL, by ClickHouse's own statements."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from penstock.settings import Settings
from penstock.storage import schema
from penstock.storage.backup import server
from penstock.storage.backup.manifest import BackupError
from penstock.storage.engine import open_engine
from penstock.storage.schema import migrate
from tests.storage.clickhouse_http import ClickHouseHttp


@pytest.mark.parametrize(
    ("text", "log"),
    [
        ("Disk('backups', 'shop.zip')", "Disk('backups', 'shop-log.zip')"),
        (" Disk('b_1-x','2026/shop.tar.gz') ", "Disk('b_1-x', '2026/shop-log.tar.gz')"),
        ("File('shop')", "File('shop-log')"),
        ("File('/var/backups/shop.tar.zst')", "File('/var/backups/shop-log.tar.zst')"),
    ],
)
def test_a_destination_is_read(text: str, log: str) -> None:
    destination = server.parse_destination(text)
    assert str(destination.part("log")) == log
    assert server.parse_destination(str(destination)) == destination


@pytest.mark.parametrize(
    "text",
    [
        "S3('https://bucket/x', 'key', 'hunter2')",
        "Disk('backups')",
        "File('backups', 'x')",
        "File('x') SETTINGS password = 'hunter2'",
        "File('../x')",
        "File('x/../y')",
        "File('.x')",
        "File('x'')",
        "File('x\\'')",
        "File('')",
        "File('x'); DROP DATABASE shop",
        "hunter2",
        "",
    ],
)
def test_another_destination_is_not_and_is_not_repeated(text: str) -> None:
    with pytest.raises(BackupError, match="goes to Disk") as caught:
        server.parse_destination(text)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Callable[[str], Client]]:
    """Opens clients on databases of a real ClickHouse, the embedded one, that was told where backups may go."""
    opened: list[Client] = []
    options = {"backups.allowed_path": str(tmp_path / "backups")}

    def connect(database: str) -> Client:
        client = clickhouse_connect.get_client(interface="chdb", path=str(tmp_path / "engine"), chdb_options=options)
        client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        client.command(f"USE {database}")
        opened.append(client)
        return client

    (tmp_path / "backups").mkdir()
    yield connect
    for client in opened:
        client.close()


def _shop(connect: Callable[[str], Client]) -> Client:
    """A database with two commits, and a note of where a stream stands after the first."""
    client = connect("shop")
    texts = [schema._VERSIONS, *(text for _, _, text in schema.migrations())]
    for text in texts:
        for statement in schema.statements(text, cluster="", durable=False):
            client.command(statement)
    client.command("INSERT INTO schema_versions (version, name) VALUES (1, 'foundation')")
    _commit(client, 1, "append")
    client.command("INSERT INTO stream_checkpoints VALUES ('default', 's', 3, 1)")
    _commit(client, 2, "append")
    return client


def _commit(client: Client, commit: int, operation: str, detail: str = "") -> None:
    client.command(f"INSERT INTO bronze_events (tenant, commit) SELECT 'default', {commit} FROM numbers(3)")
    columns = "(commit, operation, detail)"
    client.command(f"INSERT INTO commits {columns} VALUES ({commit}, '{operation}', '{detail}')")


def _count(client: Client, table: str, condition: str = "1") -> int:
    return int(client.query(f"SELECT count() FROM {table} WHERE {condition}").result_rows[0][0])


def test_a_database_is_backed_up_while_it_is_written_to(clients: Callable[[str], Client], tmp_path: Path) -> None:
    shop = _shop(clients)
    destination = server.parse_destination(f"File('{tmp_path}/backups/shop.tar')")

    def told(what: str) -> None:
        if what == "the tables":  # the log is copied; what is committed now is in the tables alone
            _commit(shop, 3, "append")
            shop.command("INSERT INTO stream_checkpoints VALUES ('default', 's', 9, 3)")

    assert server.back_up_with(shop, "shop", destination, told) == 2
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == ["shop-data.tar", "shop-log.tar"]
    again = clients("shop_again")
    told_of: list[str] = []
    head = server.restore_with(again, "shop_again", destination, theirs="shop", told=told_of.append)
    assert told_of == ["the schema", "the tables", "the log"]
    assert head == 2
    assert _count(again, "bronze_events", "commit <= 2") == 6
    assert _count(again, "bronze_events", "commit > 2") == 3, "void, and gone at the next start"
    assert again.query("SELECT next_offset FROM stream_checkpoints").result_rows == [(3,)]
    assert _count(shop, "commits") == 3
    with pytest.raises(BackupError, match="shop_again has tables"):
        server.restore_with(again, "shop_again", destination, theirs="shop", told=told_of.append)
    with pytest.raises(BackupError, match="already exists"):
        server.back_up_with(shop, "shop", destination, told_of.append)


def test_a_deletion_spoils_a_backup(clients: Callable[[str], Client], tmp_path: Path) -> None:
    shop = _shop(clients)
    purge = json.dumps({"tenant": "default", "through": 1})

    def told(what: str) -> None:
        if what == "the tables":
            _commit(shop, 3, "purge", purge)

    with pytest.raises(BackupError, match=r"began meanwhile: .*a-log.* and .*a-data.* are of no use"):
        server.back_up_with(shop, "shop", server.parse_destination(f"File('{tmp_path}/backups/a')"), told)
    there = server.parse_destination(f"File('{tmp_path}/backups/b')")
    with pytest.raises(BackupError, match="is under way"):
        server.back_up_with(shop, "shop", there, told)
    _commit(shop, 4, "purged", purge)
    _commit(shop, 5, "forget")
    with pytest.raises(BackupError, match="is under way"):
        server.back_up_with(shop, "shop", there, told)
    _commit(shop, 6, "forgotten", json.dumps({"forget": 5}))
    assert server.back_up_with(shop, "shop", there, lambda _: None) == 6


def test_a_newer_database_is_not_restored(clients: Callable[[str], Client], tmp_path: Path) -> None:
    shop = _shop(clients)
    shop.command("INSERT INTO schema_versions (version, name) VALUES (9999, 'later')")
    destination = server.parse_destination(f"File('{tmp_path}/backups/shop.tar')")
    server.back_up_with(shop, "shop", destination, lambda _: None)
    again = clients("shop_again")
    with pytest.raises(BackupError, match="has schema 9999"):
        server.restore_with(again, "shop_again", destination, theirs="shop", told=lambda _: None)
    assert again.query("SHOW TABLES").result_rows == []


async def test_over_http(http_settings: Settings, clickhouse: ClickHouseHttp) -> None:
    """The stand-in's engine was told of no place for backups; that it says so shows that the statements arrive."""
    engine = open_engine(http_settings)
    await migrate(engine, http_settings)
    await engine.close()
    destination = server.parse_destination("File('shop.tar')")
    with pytest.raises(BackupError, match=r"ClickHouse could not do it: .*backups.allowed_path"):
        await asyncio.to_thread(server.back_up, http_settings, destination)
    sent = clickhouse.statements("^BACKUP TABLE")[-1]["text"]
    assert "commits TO File('shop-log.tar') SETTINGS id = 'penstock-" in sent
    with pytest.raises(BackupError, match="has tables"):
        await asyncio.to_thread(server.restore, http_settings, destination)
    with pytest.raises(BackupError, match="on a cluster"):
        server.back_up(http_settings.model_copy(update={"cluster": "c"}), destination)
