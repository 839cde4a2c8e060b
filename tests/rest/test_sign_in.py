"""Signing in through a real OpenID provider, as a browser does it: through Envoy, with its redirect and its cookie."""

import os
import socket
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.accounts.provider import provider
from tests.process import ServerProcess
from tests.rest.test_transcoding import error_of

UNAUTHENTICATED, PERMISSION_DENIED = 16, 7
SECRET = "canary-of-the-client-secret"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with provider() as issuer:
        env = {
            "PENSTOCK_AUTH": "required",
            "PENSTOCK_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "PENSTOCK_OIDC_ISSUER": issuer,
            "PENSTOCK_OIDC_CLIENT_ID": "penstock",
            "PENSTOCK_OIDC_CLIENT_SECRET": SECRET,
            "PENSTOCK_OIDC_ALLOWED_DOMAINS": "example.com",
            "PENSTOCK_OIDC_ROLES": "analyst",
            "PENSTOCK_LOG_LEVEL": "debug",
        }
        folder = tmp_path_factory.mktemp("sign-in")
        with ServerProcess(folder, "--http-port", str(port), command="up", env=env) as running:
            yield running


@pytest.fixture
def browser(stack: ServerProcess) -> Iterator[httpx.Client]:
    """With cookies, as browsers have them."""
    with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as client:
        yield client


def at_provider(begun: httpx.Response, sub: str, **claims: object) -> dict[str, str]:
    """What the provider sends the browser back with, when `sub` signs in there."""
    assert begun.status_code == 302, begun.text
    url = begun.headers["location"]
    parts = urlsplit(url)
    with httpx.Client(trust_env=False) as other:
        other.put(f"{parts.scheme}://{parts.netloc}/users/{sub}", json=claims)
        answer = other.post(url, data={"sub": sub})
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def test_from_the_browser_and_back(stack: ServerProcess, browser: httpx.Client) -> None:
    begun = browser.get("/api/v1/auth/login")
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert begun.json()["authorization_url"] == begun.headers["location"]
    back = at_provider(begun, "ann", email="ann@example.com", email_verified=True)
    tokens = browser.get("/api/v1/auth/callback", params=back)
    assert tokens.status_code == 200, tokens.text
    assert tokens.headers["cache-control"] == "no-store"
    bearer = {"authorization": f"Bearer {tokens.json()['access_token']}"}
    me = browser.get("/api/v1/auth/me", headers=bearer).json()
    assert (me["kind"], me["name"], me["tenant"], me["roles"]) == ("user", "ann@example.com", "default", ["analyst"])
    assert browser.get("/metrics", headers=bearer).status_code == 200
    error_of(browser.get("/api/v1/auth/callback", params=back), 401, UNAUTHENTICATED, "SIGN_IN_STATE")


def test_what_is_refused(stack: ServerProcess, browser: httpx.Client) -> None:
    back = at_provider(browser.get("/api/v1/auth/login"), "eve", email="eve@evil-example.com", email_verified=True)
    error_of(browser.get("/api/v1/auth/callback", params=back), 403, PERMISSION_DENIED, "EMAIL_NOT_ALLOWED")
    back = at_provider(browser.get("/api/v1/auth/login"), "bob", email="bob@example.com", email_verified=False)
    assert browser.get("/api/v1/auth/callback", params=back).status_code in (401, 403)
    back = at_provider(browser.get("/api/v1/auth/login"), "cid", email="cid@example.com", email_verified=True)
    with httpx.Client(base_url=stack.url, trust_env=False) as another:
        error_of(another.get("/api/v1/auth/callback", params=back), 401, UNAUTHENTICATED, "SIGN_IN_STATE")
    forged = {**back, "state": "forged"}
    error_of(browser.get("/api/v1/auth/callback", params=forged), 401, UNAUTHENTICATED, "SIGN_IN_STATE")
    assert browser.get("/api/v1/auth/login", params={"return_to": "https://evil.example"}).status_code == 400


def test_no_secret_is_shown(stack: ServerProcess, browser: httpx.Client) -> None:
    """The last of this module: not in the log, with all that was logged above, nor in what anybody is told."""
    back = at_provider(browser.get("/api/v1/auth/login"), "dan", email="dan@example.com", email_verified=True)
    tokens = browser.get("/api/v1/auth/callback", params=back).json()
    browser.post("/auth/token", json={"username": "ann@example.com", "password": "canary-of-a-password"})
    bearer = {"authorization": f"Bearer {tokens['access_token']}"}
    told = "".join(browser.get(path, headers=bearer).text for path in ("/status", "/performance", "/cache/stats", "/"))
    canaries = (SECRET, "canary-of-a-password", tokens["access_token"], tokens["refresh_token"], back["code"])
    for canary in canaries:
        assert canary not in stack.log
        assert canary not in told
    keys = (stack.data_dir / "signing-keys.json").read_text(encoding="utf-8")
    assert os.stat(stack.data_dir / "signing-keys.json").st_mode & 0o077 == 0  # noqa: PTH116
    assert keys[:40] not in stack.log
