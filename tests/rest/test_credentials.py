"""Every REST path through the real Envoy where credentials are required: with none, with too small a role, with all."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from penstock.access.v1 import access_pb2
from penstock.rpc.principal import ROLES, allowed_by
from tests.accounts.people import PASSWORD, People, people
from tests.process import ServerProcess
from tests.rest.path_list import rpc_of, template_of
from tests.rest.test_paths import FAILURES, STREAMS, SUCCESSES, ask, followed, short
from tests.rest.test_transcoding import error_of

UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 16, 7, 8
ANONYMOUS_LIMIT = 2_000


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[People, str]:
    folder = tmp_path_factory.mktemp("required")
    return people(folder), str(folder)


@pytest.fixture(scope="module")
def stack(known: tuple[People, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`penstock up` that requires credentials."""
    env = {"PENSTOCK_AUTH": "required", "RATE_LIMIT": str(ANONYMOUS_LIMIT)}
    with ServerProcess(Path(known[1]), "--http-port", "0", command="up", env=env) as running:
        yield running


def client_of(stack: ServerProcess, key: str | None) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    return httpx.Client(base_url=stack.url, timeout=60, trust_env=False, headers=headers)


@pytest.fixture(scope="module")
def nobody(stack: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(stack, None) as client:
        yield client


@pytest.fixture(scope="module")
def admin(stack: ServerProcess, known: tuple[People, str]) -> Iterator[httpx.Client]:
    with client_of(stack, known[0].keys["default", "admin"]) as client:
        yield client


def role_of(method: str, path: str) -> int:
    """What the contract says that a path needs."""
    rpc = rpc_of(method, path)
    assert rpc is not None, (method, path)
    return rpc.needs.role


# What is no success without something prepared: who may not is refused all the same. Method, path, JSON body.
UNPREPARED: list[tuple[str, str, object]] = [
    ("GET", "/v1/operations/none", None),
    ("POST", "/v1/operations/none:cancel", {}),
    ("POST", "/query/natural", {"question": "how many?"}),
    ("GET", "/v1/features:export", None),
    ("POST", "/auth/refresh", {"refresh_token": "rt_no"}),
    ("GET", "/api/v1/auth/login", None),
    ("GET", "/api/v1/auth/callback?code=x&state=y", None),
    ("DELETE", "/v1/apiKeys/none", None),
]
ROWS = [row[:3] for row in (*SUCCESSES, *STREAMS, *UNPREPARED)]
# Why a path that is open to everybody says no in this module.
FOR_ANOTHER_REASON = ("WRONG_CREDENTIALS", "REFRESH_TOKEN_INVALID", "OIDC_NOT_CONFIGURED")


def test_every_path_of_the_contract_is_refused_to_whom_it_must(admin: httpx.Client) -> None:
    """A new binding without a row in ROWS fails here."""
    spec = admin.get("/openapi.json").json()
    declared = {(verb.upper(), path) for path, item in spec["paths"].items() for verb in item}
    assert declared - {template_of(*row[:2]) for row in ROWS} == set()


@pytest.mark.parametrize(("method", "path", "body"), ROWS, ids=short)
def test_without_a_credential(nobody: httpx.Client, method: str, path: str, body: object) -> None:
    answer = ask(nobody, method, path, body)
    if role_of(method, path) == access_pb2.ROLE_ANONYMOUS:
        assert answer.status_code == 200 or any(reason in answer.text for reason in FOR_ANOTHER_REASON), answer.text
        return
    error_of(answer, 401, UNAUTHENTICATED, "CREDENTIAL_MISSING")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "body"), ROWS, ids=short)
def test_with_a_role_that_does_not_reach(
    stack: ServerProcess, known: tuple[People, str], method: str, path: str, body: object
) -> None:
    needed = role_of(method, path)
    short = [name for name, role in ROLES.items() if needed not in allowed_by(frozenset([role]))]
    if needed == access_pb2.ROLE_CREDENTIAL or not short:
        return
    for name in short:
        with client_of(stack, known[0].keys["default", name]) as client:
            error_of(ask(client, method, path, body), 403, PERMISSION_DENIED, "ROLE_MISSING")


@pytest.mark.parametrize(("method", "path", "body", "fields"), SUCCESSES, ids=short)
def test_success(admin: httpx.Client, method: str, path: str, body: object, fields: set[str]) -> None:
    answer = ask(admin, method, path, body)
    assert answer.status_code == 200, answer.text
    assert fields <= set(answer.json())
    assert answer.headers["x-request-id"]
    assert answer.headers["x-process-time"].endswith("ms")
    assert answer.headers["x-cache-hit"] in ("true", "false")


@pytest.mark.parametrize(("method", "path", "body", "fields"), STREAMS, ids=short)
def test_a_stream_begins(admin: httpx.Client, method: str, path: str, body: object, fields: set[str]) -> None:
    answer = ask(admin, method, path, body)
    assert answer.status_code == 200, answer.text
    assert fields <= set(answer.json())


def test_an_operation_can_be_followed_to_its_end(admin: httpx.Client) -> None:
    assert followed(admin)["response"]["@type"].endswith("RunPipelineResponse")


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "reason"), FAILURES, ids=short)
def test_failure(
    admin: httpx.Client, method: str, path: str, body: object, status: int, code: int, reason: str
) -> None:
    error_of(ask(admin, method, path, body), status, code, reason)


def test_a_key_may_come_as_x_api_key(stack: ServerProcess, known: tuple[People, str]) -> None:
    key = known[0].keys["default", "viewer"]
    with client_of(stack, None) as client:
        found = client.get("/api/v1/auth/me", headers={"x-api-key": key}).json()
        assert (found["kind"], found["tenant"], found["roles"]) == ("key", "default", ["viewer"])
        both = client.get("/metrics", headers={"x-api-key": key, "authorization": f"Bearer {key}x"})
        error_of(both, 401, UNAUTHENTICATED, "CREDENTIAL_AMBIGUOUS")
        basic = client.get("/metrics", headers={"authorization": "Basic YWRtaW46YWRtaW4="})
        error_of(basic, 401, UNAUTHENTICATED, "CREDENTIAL_UNKNOWN")


def test_the_tenant_comes_from_the_credential_alone(stack: ServerProcess, known: tuple[People, str]) -> None:
    with client_of(stack, known[0].keys["other", "viewer"]) as client:
        forged = {"x-tenant": "default", "x-penstock-tenant": "default", "tenant": "default"}
        assert client.get("/api/v1/auth/me", headers=forged).json()["tenant"] == "other"
        assert client.get("/api/v1/auth/me?tenant=default").status_code == 400


def test_signing_in_going_on_and_out(stack: ServerProcess, nobody: httpx.Client) -> None:
    answer = nobody.post("/auth/token", json={"username": "ROOT", "password": PASSWORD})
    tokens = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (tokens["token_type"], 1790 <= tokens["expires_in"] <= 1800) == ("Bearer", True)
    with client_of(stack, tokens["access_token"]) as client:
        me = client.get("/api/v1/auth/me").json()
        assert (me["kind"], me["name"], me["roles"]) == ("user", "root", ["admin"])
        assert me["rate_limit"] == {"limit": 6000, "window_seconds": 60}
    later = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    assert later["refresh_token"] != tokens["refresh_token"]
    with client_of(stack, later["access_token"]) as client:
        assert client.post("/api/v1/auth/logout", json={}).status_code == 200
        error_of(client.get("/api/v1/auth/me"), 401, UNAUTHENTICATED, "TOKEN_REVOKED")
    again = nobody.post("/auth/refresh", json={"refresh_token": later["refresh_token"]})
    error_of(again, 401, UNAUTHENTICATED, "SESSION_ENDED")


def test_a_refresh_token_that_comes_twice_ends_the_session(stack: ServerProcess, nobody: httpx.Client) -> None:
    tokens = nobody.post("/auth/token", json={"username": "root", "password": PASSWORD}).json()
    later = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    stolen = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    error_of(stolen, 401, UNAUTHENTICATED, "REFRESH_TOKEN_REUSED")
    with client_of(stack, later["access_token"]) as client:
        error_of(client.get("/api/v1/auth/me"), 401, UNAUTHENTICATED, "TOKEN_REVOKED")


def test_a_revoked_key_is_refused_at_its_next_call(stack: ServerProcess, admin: httpx.Client) -> None:
    made = admin.post("/v1/apiKeys", json={"name": "short-lived", "roles": ["viewer"]}).json()
    with client_of(stack, made["key"]) as client:
        assert client.get("/metrics").status_code == 200
        assert admin.delete(f"/v1/apiKeys/{made['api_key']['id']}").status_code == 200
        error_of(client.get("/metrics"), 401, UNAUTHENTICATED, "KEY_REVOKED")


def test_a_key_gives_no_role_that_its_maker_has_not(stack: ServerProcess, admin: httpx.Client) -> None:
    assert [key for key in admin.get("/v1/apiKeys").json()["api_keys"] if "secret" in str(key)] == []
    assert "pk_" not in admin.get("/v1/apiKeys").text


def test_everybody_is_told_what_is_left(admin: httpx.Client) -> None:
    first, second = admin.get("/metrics"), admin.get("/metrics")
    assert first.headers["ratelimit-limit"] == "60000"
    assert int(second.headers["ratelimit-remaining"]) < int(first.headers["ratelimit-remaining"])
    assert 0 < int(first.headers["ratelimit-reset"]) <= 66


def test_who_calls_too_often_is_told_when_to_come_again(nobody: httpx.Client) -> None:
    """The last of this module: from here on nobody gets anything."""
    for _ in range(ANONYMOUS_LIMIT + 1):
        answer = nobody.post("/auth/refresh", json={"refresh_token": "rt_no"})
        if answer.status_code == 429:
            break
    error_of(answer, 429, RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert 1 <= int(answer.headers["retry-after"]) <= 66
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == (str(ANONYMOUS_LIMIT), "0")
    assert nobody.get("/live").status_code == 200, "liveness is free"
