"""The file of signing keys: made once, closed to others, rotated, and read again when another process changed it."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.accounts.bounds import ACCESS_S
from penstock.accounts.signing import SigningKeys
from penstock.errors import Conflict
from tests.accounts.conftest import Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "signing.json"


def test_it_is_made_once_and_for_this_user_alone(path: Path) -> None:
    first = SigningKeys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    again = SigningKeys.load_or_create(path)
    assert again.signing.kid == first.signing.kid
    assert again.sealing("cookies").raw_value == first.sealing("cookies").raw_value
    assert again.sealing("cookies").raw_value != first.sealing("something else").raw_value


def test_many_that_start_at_once_make_one(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: SigningKeys.load_or_create(path).signing.kid, range(16)))
    assert len(set(made)) == 1


def test_what_is_published_is_public(path: Path) -> None:
    keys = SigningKeys.load_or_create(path)
    (published,) = keys.jwks()["keys"]
    assert set(published) == {"kty", "crv", "x", "kid", "use", "alg"}
    assert (published["kid"], published["alg"], published["use"]) == (keys.signing.kid, "Ed25519", "sig")
    secrets = json.loads(path.read_text())
    assert secrets["keys"][0]["jwk"]["d"] not in json.dumps(keys.jwks()) + repr(keys._content) + repr(keys)


def test_after_a_rotation_the_old_key_verifies_as_long_as_its_tokens_live(path: Path, clock: Clock) -> None:
    keys = SigningKeys.load_or_create(path, clock)
    old = keys.signing.kid
    new = keys.rotate()
    assert keys.signing.kid == new != old
    assert keys.verifying(old) is not None
    assert {each["kid"] for each in keys.jwks()["keys"]} == {old, new}
    clock.ahead = ACCESS_S + 31
    assert keys.verifying(old) is not None  # within the leeway
    clock.ahead = ACCESS_S + 120
    assert keys.verifying(old) is None
    assert [each["kid"] for each in keys.jwks()["keys"]] == [new]
    newest = keys.rotate()
    assert [each["jwk"]["kid"] for each in json.loads(path.read_text())["keys"]] == [new, newest]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotation_by_another_process_is_seen(path: Path) -> None:
    here, there = SigningKeys.load_or_create(path), SigningKeys.load_or_create(path)
    version, old = here.version, here.signing.kid
    new = there.rotate()
    assert here.verifying(new) is not None  # at once, because a token names it
    assert here.version == version + 1
    newest = there.rotate()
    here.refresh()
    assert here.signing.kid == new  # it has just looked
    here._looked -= 1.0
    assert here.signing.kid == newest
    assert here.verifying(old) is not None


def test_a_file_that_is_spoiled_while_a_server_runs_changes_nothing(path: Path) -> None:
    keys = SigningKeys.load_or_create(path)
    kid = keys.signing.kid
    path.write_text("{")
    keys.refresh(at_once=True)
    assert keys.signing.kid == kid
    path.unlink()
    keys.refresh(at_once=True)
    assert keys.verifying(kid) is not None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    SigningKeys.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(Conflict, match=f"chmod 600 {path}") as raised:
        SigningKeys.load_or_create(path)
    assert raised.value.reason == "SIGNING_FILE"


def test_a_folder_in_which_others_can_write_is_refused(path: Path) -> None:
    SigningKeys.load_or_create(path)
    path.parent.chmod(0o777)
    with pytest.raises(Conflict, match="chmod o-w"):
        SigningKeys.load_or_create(path)


def altered(path: Path, **changes: object) -> str:
    return json.dumps({**json.loads(path.read_text()), **changes})


@pytest.mark.parametrize(
    "flaw", ["empty", "list", "no keys", "no secret", "short secret", "two sign", "public", "deep"]
)
def test_a_file_that_is_none_is_refused_and_named_and_shows_nothing(path: Path, flaw: str) -> None:
    SigningKeys.load_or_create(path)
    found = json.loads(path.read_text())
    (entry,) = found["keys"]
    public = {**entry, "jwk": {name: value for name, value in entry["jwk"].items() if name != "d"}}
    texts = {
        "empty": "",
        "list": "[]",
        "no keys": altered(path, keys=[]),
        "no secret": json.dumps({"keys": [entry]}),
        "short secret": altered(path, secret="c2hvcnQ="),
        "two sign": altered(path, keys=[entry, entry]),
        "public": altered(path, keys=[public]),
        "deep": "[" * 100_000,
    }
    path.write_text(texts[flaw])
    with pytest.raises(Conflict, match=str(path)) as raised:
        SigningKeys.load_or_create(path)
    assert "restore it" in raised.value.message
    assert entry["jwk"]["d"] not in raised.value.message
    assert raised.value.__suppress_context__


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    SigningKeys.load_or_create(path)
    path.chmod(0o000)
    with pytest.raises(Conflict, match="cannot be read"):
        SigningKeys.load_or_create(path)
