"""What a server checks before it starts, and whether its words lead to the cure."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import startup
from penstock.settings import Settings
from penstock.startup import StartupError

HOLDER = """
import sys, time
from pathlib import Path
from penstock.settings import Settings
from penstock.startup import data_folder
with data_folder(Settings(data_dir=Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_taken_port_is_named_with_the_option_that_changes_it(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"port {port} for gRPC is taken.*--grpc-port or PENSTOCK_GRPC_PORT"):
            startup.check_ports(settings.model_copy(update={"grpc_port": port}), rest=True)
        with pytest.raises(StartupError, match=f"port {port} for REST is taken.*--http-port or PENSTOCK_HTTP_PORT"):
            startup.check_ports(settings.model_copy(update={"http_port": port}), rest=True)
        # Without Envoy nobody wants that port.
        startup.check_ports(settings.model_copy(update={"http_port": port}), rest=False)


def test_who_holds_the_port_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"process {os.getpid()}\)"):
            startup.check_ports(settings.model_copy(update={"grpc_port": port}), rest=False)


def test_one_port_cannot_serve_both(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(StartupError, match="cannot both have port"):
        startup.check_ports(settings.model_copy(update={"grpc_port": free, "http_port": free}), rest=True)


def test_an_address_of_another_machine_is_refused(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"grpc_host": "192.0.2.1", "grpc_port": 50051})
    with pytest.raises(StartupError, match="no address of this machine: change --grpc-host or PENSTOCK_GRPC_HOST"):
        startup.check_ports(elsewhere, rest=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_needs_no_permission(settings: Settings, host: str) -> None:
    startup.check_public(settings.model_copy(update={"grpc_host": host}), rest=True, allowed_by_flag=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7"])
@pytest.mark.parametrize("setting", ["grpc_host", "http_host"])
def test_a_public_address_must_be_allowed_twice(settings: Settings, setting: str, host: str) -> None:
    public = settings.model_copy(update={setting: host})
    allowed = public.model_copy(update={"allow_public": True})
    with pytest.raises(StartupError, match="give --allow-public and set PENSTOCK_ALLOW_PUBLIC=true"):
        startup.check_public(public, rest=True, allowed_by_flag=False)
    with pytest.raises(StartupError, match=r"closed, set PENSTOCK_ALLOW_PUBLIC=true"):
        startup.check_public(public, rest=True, allowed_by_flag=True)
    with pytest.raises(StartupError, match=r"closed, give --allow-public\."):
        startup.check_public(allowed, rest=True, allowed_by_flag=False)
    startup.check_public(allowed, rest=True, allowed_by_flag=True)


def test_the_data_folder_is_made_and_held_by_one(settings: Settings) -> None:
    with startup.data_folder(settings) as folder:
        assert folder.is_dir()
        assert startup.lock_holder(folder) == os.getpid()
        with pytest.raises(StartupError, match=f"in use by process {os.getpid()}.*--data-dir or PENSTOCK_DATA_DIR"):
            startup.data_folder(settings).__enter__()
    assert startup.lock_holder(folder) is None
    with startup.data_folder(settings):
        pass


def test_a_killed_holder_leaves_nothing_behind(settings: Settings) -> None:
    command = [sys.executable, "-c", HOLDER, str(settings.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert startup.lock_holder(settings.data_dir) == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with startup.data_folder(settings):
        pass


def test_a_file_in_the_folders_place_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartupError, match=r"cannot write to the data folder .*--data-dir or PENSTOCK_DATA_DIR"),
        startup.data_folder(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"})),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o500)
    with pytest.raises(StartupError, match="Permission denied"), startup.data_folder(settings):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody may write to")
def test_a_read_only_file_system_is_refused(settings: Settings) -> None:
    with (
        pytest.raises(StartupError, match="cannot write to the data folder /proc/"),
        startup.data_folder(settings.model_copy(update={"data_dir": Path("/proc/penstock")})),
    ):
        pass


def test_too_full_a_disk_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    startup.check_disk(settings)
    monkeypatch.setattr("penstock.limits.DISK_FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(StartupError, match=r"MiB are free on the disk of .*--data-dir"):
        startup.check_disk(settings)
    startup.check_disk(settings.model_copy(update={"clickhouse_url": "http://clickhouse.example"}))


def test_a_wrong_clickhouse_url_is_explained_without_its_password(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    nobody_there = settings.model_copy(update={"clickhouse_url": f"http://admin:hunter2@127.0.0.1:{free}/penstock"})
    with pytest.raises(StartupError, match=r"nothing listens at that host and port.*--clickhouse-url") as raised:
        startup.check_clickhouse(nobody_there)
    assert "admin:…@" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_host_that_nobody_knows_is_explained(settings: Settings) -> None:
    unknown = settings.model_copy(update={"clickhouse_url": "http://clickhouse.invalid:8123/penstock"})
    with pytest.raises(StartupError, match="nobody knows its host"):
        startup.check_clickhouse(unknown)
    with pytest.raises(StartupError, match=r"nobody knows the host 'clickhouse\.invalid'"):
        startup.is_loopback("clickhouse.invalid")
