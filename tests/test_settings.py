"""Where settings come from."""

from pathlib import Path

import pytest
import typer
from pydantic import SecretStr, ValidationError

from penstock.cli.serve import settings_of
from penstock.settings import Settings

SECRET = "http://penstock:swordfish@clickhouse:8123/default"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["PENSTOCK_CLICKHOUSE_URL", "penstock_clickhouse_url"])
def test_a_file_holds_a_setting(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{SECRET}\n")
    (folder / "of-somebody-else").write_text("something")
    assert settings_of().clickhouse_url == SECRET


def test_files_that_kubernetes_puts_there_are_links(folder: Path) -> None:
    version = folder / "..2026_11_25"
    version.mkdir()
    (version / "PENSTOCK_OIDC_CLIENT_SECRET").write_text("swordfish")
    (folder / "..data").symlink_to(version.name)
    (folder / "PENSTOCK_OIDC_CLIENT_SECRET").symlink_to("..data/PENSTOCK_OIDC_CLIENT_SECRET")
    assert settings_of().oidc_client_secret.get_secret_value() == "swordfish"


def test_arguments_count_more_than_the_environment_and_that_more_than_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PENSTOCK_CURRENCY", "PENSTOCK_GRPC_HOST", "PENSTOCK_HTTP_HOST"):
        (folder / name).write_text("JPY" if name.endswith("CURRENCY") else "127.0.0.7")
    monkeypatch.setenv("PENSTOCK_GRPC_HOST", "127.0.0.8")
    monkeypatch.setenv("PENSTOCK_HTTP_HOST", "127.0.0.8")
    found = settings_of(http_host="127.0.0.9")
    assert (found.currency, found.grpc_host, found.http_host) == ("JPY", "127.0.0.8", "127.0.0.9")


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(tmp_path / name))
    with pytest.raises(typer.Exit):
        settings_of()
    assert "PENSTOCK_SECRETS_DIR" in capfd.readouterr().err


def test_what_is_wrong_in_a_file_is_named_and_not_quoted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "PENSTOCK_GRPC_PORT").write_text("swordfish")
    with pytest.raises(typer.Exit):
        settings_of()
    said = capfd.readouterr().err
    assert "PENSTOCK_GRPC_PORT" in said
    assert "swordfish" not in said


@pytest.mark.parametrize(("given", "kept"), [("key\n", "key"), ("  key ", "key"), ("", "")])
def test_a_key_from_a_file_has_no_line_s_end(given: str, kept: str) -> None:
    assert Settings(ask_api_key=SecretStr(given)).ask_api_key.get_secret_value() == kept


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "a\x00b"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(ask_api_key=SecretStr(key))
    assert "printable ASCII" in str(refused.value)
    assert key not in str(refused.value)
