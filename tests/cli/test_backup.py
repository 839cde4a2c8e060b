"""`penstock backup` and `penstock restore`: of a server's data folder, and by the command line of a person."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from typer.testing import CliRunner, Result

import penstock
from penstock.cli import app
from penstock_client import event
from tests.process import ServerProcess

HOUR = timedelta(hours=1)
STREAM = "backup"
CANARY = b"do-not-back-me-up-7f3a9c"


def ran(*arguments: str | Path, exit_code: int = 0) -> Result:
    """What the command made of it."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == exit_code, result.output + str(result.exception)
    return result


def written(client: penstock.SyncClient, count: int, begin: int = 0) -> int:
    """Stores purchases, one a user, in the stream; returns where it ends."""
    with client.events.writer(STREAM) as writer:
        assert writer.next_offset == begin, "the stream goes on where it was"
        writer.send_batch(
            event("purchase", user_id=f"u{n}", order_id=f"o{n}", product_id="p1", price=2.5, quantity=2, site_id="shop")
            for n in range(begin, begin + count)
        )
        writer.flush()
        return writer.stored_offset


def one_by_one(client: penstock.SyncClient) -> None:
    """Stores events, each in a commit of its own, until the server dies."""
    with client.events.writer(STREAM) as writer:
        for n in range(10):
            writer.send(event("page_view", user_id=f"u{n}"))
            writer.flush()


def figures(client: penstock.SyncClient, orders: int) -> dict[str, Any]:
    """The latest KPIs, as soon as they count so many orders."""
    deadline = time.monotonic() + 30
    while True:
        answer = MessageToDict(client.kpis.metrics(site_id="shop", window=HOUR), preserving_proto_field_name=True)
        latest: dict[str, Any] = answer.get("latest_kpis", {})
        if int(latest.get("orders", 0)) == orders:
            return latest
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def test_a_server_goes_on_where_the_backup_was_made(tmp_path: Path) -> None:
    data_dir, file, restored = tmp_path / "data", tmp_path / "shop.backup", tmp_path / "restored"
    lamps = tmp_path / "lamps.csv"
    lamps.write_text("product_id,name,price\nm1,Lamp,3\nm2,Desk lamp,9\n", encoding="utf-8")
    with ServerProcess(data_dir) as server, penstock.SyncClient(server.target) as client:
        assert written(client, 40) == 40
        ran("load-products", lamps, "--address", server.target)
        before = figures(client, 40)
        told = ran("backup", file, "--data-dir", data_dir, exit_code=1).stderr
        assert f"process {server.pid} has the data folder" in told
        assert "stop that server first" in told
    (data_dir / "signing-keys.json").write_bytes(CANARY)
    assert not file.exists()
    told = ran("backup", file, "--data-dir", data_dir).output
    assert "shop.backup: commit " in told
    assert "signing-keys.json" in told
    assert "whole; commit " in ran("backup", "--verify", file).output
    (data_dir / "signing-keys.json").unlink()
    # What comes after the backup is not in it.
    with ServerProcess(data_dir) as server, penstock.SyncClient(server.target) as client:
        assert written(client, 5, begin=40) == 45
    ran("restore", file, "--data-dir", restored)
    assert not list(restored.rglob("*signing*"))
    with ServerProcess(restored) as server, penstock.SyncClient(server.target) as client:
        after = figures(client, 40)
        assert {name: after[name] for name in ("orders", "gmv", "purchase_users")} == {
            name: before[name] for name in ("orders", "gmv", "purchase_users")
        }
        assert client.events.count().total == 40
        assert client.events.stream(STREAM).next_offset == 40
        assert [each.product_id for each in client.catalog.list()] == ["m1", "m2"]
        assert written(client, 10, begin=40) == 50
        figures(client, 50)
        assert client.catalog.get("m2").name == "Desk lamp"


@pytest.mark.slow
def test_what_a_killed_server_acknowledged_is_in_its_backup(tmp_path: Path) -> None:
    """Void rows and parts that were under way are in the folder then, and go when the restored server starts."""
    data_dir, file, restored = tmp_path / "data", tmp_path / "shop.backup", tmp_path / "restored"
    server = ServerProcess(data_dir).start(PENSTOCK_FAILPOINT="commit.before_log@3")
    with penstock.SyncClient(server.target, retry_total_s=2) as client, pytest.raises(penstock.Error):
        one_by_one(client)
    assert server.wait() < 0
    ran("backup", file, "--data-dir", data_dir)
    ran("restore", file, "--data-dir", restored)
    with ServerProcess(restored) as again, penstock.SyncClient(again.target) as client:
        assert client.events.count().total == 2
        assert client.events.stream(STREAM).next_offset == 2


def test_damage_is_told(tmp_path: Path) -> None:
    file = tmp_path / "[red]shop.backup"
    file.write_bytes(os.urandom(5000))
    told = ran("backup", "--verify", file, exit_code=1).stderr
    assert "[red]shop.backup cannot be used" in told
    told = ran("restore", file, "--data-dir", tmp_path / "r", exit_code=1).stderr
    assert "cannot be used" in told
    assert list(tmp_path.iterdir()) == [file]
    assert "No such file" in ran("restore", tmp_path / "none", "--data-dir", tmp_path / "r", exit_code=1).stderr


def test_an_empty_folder_has_nothing_to_back_up(tmp_path: Path) -> None:
    told = ran("backup", tmp_path / "b", "--data-dir", tmp_path / "none", exit_code=1).stderr
    assert "there is no database in" in told
    assert list(tmp_path.iterdir()) == []


URL = ("--clickhouse-url", "http://user@127.0.0.1:9/shop")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("backup",), "give a FILE"),
        (("restore",), "give a FILE"),
        (("backup", "f", "--to", "File('x')"), "--to is for a database behind a URL"),
        (("restore", "f", "--from", "File('x')"), "--from is for a database behind a URL"),
        (("backup", "--verify"), "--verify takes a FILE"),
        (("backup", "f", "--verify", "--force"), "--verify takes a FILE"),
        (("backup", "f", *URL), "is behind a URL: give --to"),
        (("restore", "f", *URL), "is behind a URL: give --from"),
        (("backup", *URL), "is behind a URL: give --to"),
    ],
)
def test_what_cannot_be_meant_is_explained(arguments: tuple[str, ...], told: str) -> None:
    shown = ran(*arguments, exit_code=2).stderr
    assert told in " ".join(shown.replace("│", " ").split())


def test_the_password_of_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CLICKHOUSE_URL", "http://user:hunter2@127.0.0.1:9/shop")
    shown = ran("backup", "--to", "File('x')", exit_code=1).stderr
    assert "does not answer" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("backup", "--to", "S3('http://b', 'id', 'hunter2')", *URL), "goes to Disk('name', 'path')"),
        (("restore", "--from", "S3('http://b', 'id', 'hunter2')", *URL), "goes to Disk('name', 'path')"),
        (("backup", "--to", "File('x')", *URL), "does not answer"),
        (("restore", "--from", "File('x')", *URL), "does not answer"),
    ],
)
def test_what_a_url_is_no_good_for_is_explained(arguments: tuple[str, ...], told: str) -> None:
    shown = ran(*arguments, exit_code=1).stderr
    assert told in shown
    assert "hunter2" not in shown
