"""`penstock accounts …`, before a server runs and while one does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from penstock.accounts.bounds import SIGNING_LOOK_S
from tests.process import ServerProcess

PASSWORD = "correct horse battery staple"


def accounts(*arguments: str, data_dir: Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    """What the command prints; its exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "accounts", *arguments, "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160", **(env or {})},
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return str(file)


def key_ids(rest: httpx.Client) -> set[str]:
    """Of the keys whose signatures the server takes."""
    return {each["kid"] for each in rest.get("/.well-known/jwks.json").json()["keys"]}


def test_from_the_first_user_to_the_last_key(tmp_path: Path, password_file: str) -> None:
    data = tmp_path / "data"
    made = accounts("create-user", "root", "--role", "admin", "--password-file", password_file, data_dir=data)
    assert made == "user root of tenant default: admin\n"
    key = accounts("create-key", "operations", "--role", "admin", "--quiet", data_dir=data).strip()
    other = accounts("create-key", "theirs", "--role", "admin", "-q", "--tenant", "acme", data_dir=data).strip()
    assert key.startswith("pk_")
    assert len(key.split()) == 1
    again = accounts("create-user", "ROOT", "--role", "viewer", "--password-file", password_file, data_dir=data, code=1)
    assert "there is a user of this name already" in again
    assert "root" in accounts("list-users", data_dir=data)
    assert PASSWORD not in accounts("list-users", data_dir=data)
    with ServerProcess(data, "--http-port", "0", command="up", env={"PENSTOCK_AUTH": "required"}) as server:
        env = {"PENSTOCK_ADDRESS": server.target, "PENSTOCK_API_KEY": key}
        listed = accounts("list-keys", data_dir=data, env=env)
        assert "operations" in listed
        assert "theirs" not in listed
        assert key not in listed
        assert "CREDENTIAL_MISSING" in accounts(
            "list-keys", data_dir=data, env={"PENSTOCK_ADDRESS": env["PENSTOCK_ADDRESS"]}, code=1
        )
        foreign = accounts("list-users", "--tenant", "acme", data_dir=data, env=env, code=1)
        assert "who cannot manage tenant acme" in foreign
        key_file = tmp_path / "key"
        key_file.write_text(f"{other}\n", encoding="utf-8")
        theirs = {"PENSTOCK_ADDRESS": server.target, "PENSTOCK_API_KEY_FILE": str(key_file)}
        assert "theirs" in accounts("list-keys", "--tenant", "acme", data_dir=data, env=theirs)
        with httpx.Client(base_url=server.url, trust_env=False) as rest:
            first = rest.post("/auth/token", json={"username": "root", "password": PASSWORD})
            assert first.status_code == 200, first.text
            bearer = {"authorization": f"Bearer {first.json()['access_token']}"}
            before = key_ids(rest)
            accounts("rotate-signing-key", data_dir=data)
            assert rest.get("/metrics", headers=bearer).status_code == 200, "what the old key signed holds"
            until = time.monotonic() + 10 * SIGNING_LOOK_S  # the server looks at the file now and then
            while key_ids(rest) == before and time.monotonic() < until:
                time.sleep(0.05)
            assert before < key_ids(rest)
            later = rest.post("/auth/token", json={"username": "root", "password": PASSWORD})
            assert later.status_code == 200
            accounts("update-user", "root", "--disable", data_dir=data, env=env)
            assert rest.get("/metrics", headers=bearer).status_code == 401
        key_id = key.split("_")[1]
        assert f"key {key_id} (operations) works no more" in accounts("revoke-key", key_id, data_dir=data, env=env)
        assert "KEY_REVOKED" in accounts("list-keys", data_dir=data, env=env, code=1)


def test_what_is_wrong_is_said(tmp_path: Path, password_file: str) -> None:
    data = tmp_path / "data"
    assert "is no role" in accounts("create-key", "x", "--role", "king", data_dir=data, code=2)
    assert "say what to change" in accounts("update-user", "x", data_dir=data, code=2)
    short = tmp_path / "short"
    short.write_text("short", encoding="utf-8")
    assert "12" in accounts(
        "create-user", "x", "--role", "viewer", "--password-file", str(short), data_dir=data, code=1
    )
    tenant = accounts("create-key", "x", "--role", "viewer", "--tenant", "No Spaces", data_dir=data, code=1)
    assert "tenant" in tenant
    env = {"PENSTOCK_ADDRESS": "127.0.0.1:1", "PENSTOCK_API_KEY": "two words"}
    assert "PENSTOCK_API_KEY: a credential is one word" in accounts("list-keys", data_dir=data, env=env, code=1)
