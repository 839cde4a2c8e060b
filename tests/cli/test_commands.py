"""Every command's face: its help, and what it says where there is no server."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.cli.kpis import span_of

COMMANDS = (
    *("up", "serve", "demo", "load-products", "replay", "simulate", "kpis", "status", "doctor"),
    *("backup", "restore", "envoy-config"),
)


@pytest.fixture
def nobody() -> str:
    """An address that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_all_commands_are_listed() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(command in shown.output for command in COMMANDS)
    assert {command.name for command in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_option_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    parameters = next(each.callback for each in app.registered_commands if each.name == command)
    assert parameters is not None
    assert "Options" in shown.output


@pytest.mark.parametrize("arguments", [["status"], ["kpis"], ["kpis", "--watch"], ["kpis", "--json"]])
def test_without_a_server_the_cure_is_named(arguments: list[str], nobody: str) -> None:
    shown = CliRunner().invoke(app, [*arguments, "--address", nobody])
    assert shown.exit_code == 1
    assert f"no server answers at {nobody}" in shown.stderr
    assert "penstock up" in shown.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("90s", 90), ("15m", 900), ("24h", 86_400), ("1.5d", 129_600)]
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    assert span_of(text).total_seconds() == seconds


def test_other_lengths_of_time_are_refused() -> None:
    shown = CliRunner().invoke(app, ["kpis", "--window", "soon"])
    assert shown.exit_code == 2
    assert "such as" in shown.stderr


def test_a_public_address_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = ["serve", "--data-dir", str(tmp_path / "data"), "--grpc-host", "0.0.0.0"]
    shown = CliRunner().invoke(app, [*serve, "--allow-public"])
    assert shown.exit_code == 1
    assert "set PENSTOCK_ALLOW_PUBLIC=true" in shown.stderr
    monkeypatch.setenv("PENSTOCK_ALLOW_PUBLIC", "true")
    shown = CliRunner().invoke(app, serve)
    assert shown.exit_code == 1
    assert "give --allow-public" in shown.stderr
    assert not (tmp_path / "data").exists()


def test_a_wrong_setting_is_named_as_it_was_given_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--currency" in CliRunner().invoke(app, ["serve", "--currency", "pounds"]).stderr
    assert "--clickhouse-url" in CliRunner().invoke(app, ["serve", "--clickhouse-url", "postgres://db/x"]).stderr
    monkeypatch.setenv("PENSTOCK_CLICKHOUSE_URL", "postgres://admin:hunter2@db/x")
    shown = CliRunner().invoke(app, ["serve"])
    assert shown.exit_code == 1
    assert "PENSTOCK_CLICKHOUSE_URL" in shown.stderr
    assert "hunter2" not in shown.stderr
    monkeypatch.delenv("PENSTOCK_CLICKHOUSE_URL")
    monkeypatch.setenv("PENSTOCK_DRAIN_S", "soon")
    assert "PENSTOCK_DRAIN_S" in CliRunner().invoke(app, ["serve"]).stderr


@pytest.mark.parametrize("command", ["serve", "up", "doctor"])
def test_a_password_is_not_taken_from_the_command_line(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--clickhouse-url", "http://admin:hunter2@127.0.0.1:9/x"])
    assert shown.exit_code == 1
    assert "PENSTOCK_SECRETS_DIR" in shown.stderr
    assert "hunter2" not in shown.stderr


def test_the_doctor_finds_a_sound_machine_sound(tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        app, ["doctor", "--data-dir", str(tmp_path / "data"), "--grpc-port", "0", "--http-port", "0"],
        terminal_width=200,
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    for check in (
        "Python",
        "packages",
        "Envoy",
        "addresses",
        "ports",
        "data folder",
        "disk",
        "memory",
        "ClickHouse",
        "clock",
    ):
        assert check in shown.output
    assert not (tmp_path / "data").exists()


def test_the_doctor_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COLUMNS", "300")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("PENSTOCK_CLICKHOUSE_URL", f"http://admin:hunter2@127.0.0.1:{port[:-1]}1/x")
        shown = CliRunner().invoke(
            app,
            ["doctor", "--data-dir", str(tmp_path / "file" / "data"), "--grpc-port", port, "--http-port", "0"],
        )  # fmt: skip
    assert shown.exit_code == 1
    assert f"port {port} for gRPC is taken" in shown.output
    assert "cannot write to the data folder" in shown.output
    assert "is no ClickHouse that this server can use" in shown.output
    assert "hunter2" not in shown.output
