"""Signing in through a real OpenID provider: the way there and back, and each way in which it must not go."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from penstock.accounts.accounts import Accounts
from penstock.accounts.oidc import OpenIdConnect
from penstock.accounts.signing import SigningKeys
from penstock.errors import Conflict, PenstockError, PermissionDenied, Unauthenticated, Unavailable
from penstock.rpc.principal import ROLES, Principal
from tests.accounts.conftest import Clock
from tests.accounts.provider import provider

VIEWER, ANALYST = ROLES["viewer"], ROLES["analyst"]
REDIRECT = "https://penstock.example.com/api/v1/auth/callback"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as running:
        yield running


def connect(issuer: str, keys: SigningKeys, clock: Clock, **more: Any) -> OpenIdConnect:
    given: dict[str, Any] = {
        "allowed_emails": ["Carol@elsewhere.org"],
        "allowed_domains": ["Example.com"],
        "tenant": "acme",
        "roles": [VIEWER],
        "sealing_key": keys.sealing("sign-in"),
        "clock": clock,
    }
    return OpenIdConnect(issuer, "penstock", "client secret", REDIRECT, **{**given, **more})


@pytest.fixture
async def oidc(issuer: str, keys: SigningKeys, clock: Clock) -> AsyncIterator[OpenIdConnect]:
    made = connect(issuer, keys, clock)
    yield made
    await made.close()


async def signed_in(url: str, sub: str, **claims: object) -> tuple[str, str]:
    """What a browser brings back when `sub` signs in at `url`: code and state."""
    parts = urlsplit(url)
    async with httpx.AsyncClient() as browser:
        await browser.put(f"{parts.scheme}://{parts.netloc}/users/{sub}", json=claims)
        answer = await browser.post(url, data={"sub": sub})
    back = urlsplit(answer.headers["location"])
    assert urlunsplit((*back[:3], "", "")) == REDIRECT
    query = {name: values[0] for name, values in parse_qs(back.query).items()}
    return query.get("code", ""), query["state"]


def altered(url: str, **changes: str) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query=urlencode({**query, **changes})))


async def refused(call: Any, kind: type[PenstockError]) -> str:
    with pytest.raises(kind) as raised:
        await call
    return raised.value.reason


async def test_there_and_back(oidc: OpenIdConnect, issuer: str) -> None:
    url, cookie = await oidc.begin()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{issuer}/oauth2/authorize?")
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    assert asked["redirect_uri"] == REDIRECT
    assert not any(value in cookie for value in asked.values())
    code, state = await signed_in(url, "ann", email="Ann@Example.COM", email_verified=True)
    identity = await oidc.finish(code, state, cookie, iss=issuer)
    assert (identity.email, identity.subject) == ("ann@example.com", f"{issuer} ann")
    assert (identity.tenant, identity.roles) == ("acme", {VIEWER})


async def test_at_the_first_sign_in_they_become_a_user(
    accounts: Accounts, oidc: OpenIdConnect, admin: Principal
) -> None:
    async def sign_in(sub: str) -> str:
        url, cookie = await oidc.begin()
        code, state = await signed_in(url, sub, email="bob@example.com", email_verified=True)
        return (await accounts.sign_in_as(await oidc.finish(code, state, cookie))).access

    first = accounts.principal_of(await sign_in("bob"))
    assert (first.tenant, first.name, first.roles) == ("acme", "bob@example.com", {VIEWER})
    await accounts.update_user(admin, "bob@example.com", roles=[ANALYST])
    again = accounts.principal_of(await sign_in("bob"))
    assert again.roles == {ANALYST}
    assert again.session != first.session
    (user,) = accounts.list_users("acme")
    assert (user.email, user.password_hash) == ("bob@example.com", "")
    assert await refused(accounts.sign_in("bob@example.com", ""), Unauthenticated) == "WRONG_CREDENTIALS"
    # Somebody else who has got his address.
    assert await refused(sign_in("robert"), PermissionDenied) == "SIGN_IN_REFUSED"
    await accounts.update_user(admin, "bob@example.com", disabled=True)
    assert await refused(sign_in("bob"), PermissionDenied) == "SIGN_IN_REFUSED"


async def test_an_address_that_is_a_user_of_another_tenant(accounts: Accounts, oidc: OpenIdConnect) -> None:
    from penstock.accounts.accounts import console

    await accounts.create_user(console("other"), "dora@example.com", "", [ANALYST])
    url, cookie = await oidc.begin()
    code, state = await signed_in(url, "dora", email="dora@example.com", email_verified=True)
    identity = await oidc.finish(code, state, cookie)
    assert await refused(accounts.sign_in_as(identity), PermissionDenied) == "SIGN_IN_REFUSED"


@pytest.mark.parametrize(
    ("email", "verified", "allowed"),
    [
        ("carol@elsewhere.org", True, True),
        ("CAROL@ELSEWHERE.ORG", True, True),
        ("dave@elsewhere.org", True, False),
        ("ann@example.com", False, False),
        ("ann@example.com", None, False),
        ("ann@example.com", "true", False),
        ("ann@example.com", 1, False),
        ("ann@evil-example.com", True, False),
        ("ann@example.com.evil.org", True, False),
        ("ann@mail.example.com", True, False),
        ("ann@example.com@evil.org", True, False),
        ("example.com", True, False),
        ("@example.com", True, False),
        ("ann@ex\u0430mple.com", True, False),
        ("\u212aate@example.com", True, False),
        ("", True, False),
        (None, True, False),
        (["ann@example.com"], True, False),
        ("a" * 250 + "@example.com", True, False),
    ],
)
async def test_whom_to_let_in(oidc: OpenIdConnect, email: object, verified: object, allowed: bool) -> None:
    url, cookie = await oidc.begin()
    claims = {"email": email, "email_verified": verified}
    code, state = await signed_in(url, "ann", **{name: value for name, value in claims.items() if value is not None})
    if allowed:
        assert await oidc.finish(code, state, cookie)
    else:
        assert await refused(oidc.finish(code, state, cookie), PermissionDenied) == "EMAIL_NOT_ALLOWED"


async def test_nobody_is_allowed_unless_somebody_is(issuer: str, keys: SigningKeys, clock: Clock) -> None:
    for lists in (
        {"allowed_emails": [], "allowed_domains": []},
        {"allowed_emails": [""], "allowed_domains": ["", "@"]},
    ):
        oidc = connect(issuer, keys, clock, **lists)
        url, cookie = await oidc.begin()
        code, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
        assert await refused(oidc.finish(code, state, cookie), PermissionDenied) == "EMAIL_NOT_ALLOWED"
        await oidc.close()


async def test_only_the_browser_that_went_may_come_back(
    oidc: OpenIdConnect, issuer: str, keys: SigningKeys, clock: Clock, tmp_path: Path
) -> None:
    url, cookie = await oidc.begin()
    _, foreign = await oidc.begin()
    stranger = connect(issuer, SigningKeys.load_or_create(tmp_path / "other" / "keys.json"), clock)
    _, of_another_server = await stranger.begin()
    of_another_purpose = connect(issuer, keys, clock, sealing_key=keys.sealing("something else"))
    code, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
    for wrong_state, wrong_cookie in [
        (state, ""), (state, foreign), (state, of_another_server), (state, cookie[:-2]), (state, "x" * 5_000),
        (state, cookie + "x"), ("", cookie), (state[:-1], cookie), (state + "x", cookie), ("", ""),
        (state, (await of_another_purpose.begin())[1]), (state, "a.b.c.d.e"), (state, "é"),
    ]:  # fmt: skip
        assert await refused(oidc.finish(code, wrong_state, wrong_cookie), Unauthenticated) == "SIGN_IN_STATE"
    assert await oidc.finish(code, state, cookie)
    assert await refused(oidc.finish(code, state, cookie), Unauthenticated) == "SIGN_IN_STATE"
    # Another server has not seen it; the provider has.
    twin = connect(issuer, keys, clock)
    assert await refused(twin.finish(code, state, cookie), Unauthenticated) == "SIGN_IN_REFUSED"
    for each in (stranger, of_another_purpose, twin):
        await each.close()


async def test_it_takes_ten_minutes_at_most(oidc: OpenIdConnect, clock: Clock) -> None:
    url, cookie = await oidc.begin()
    code, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
    clock.ahead = 601
    assert await refused(oidc.finish(code, state, cookie), Unauthenticated) == "SIGN_IN_STATE"


async def test_a_code_of_another_sign_in(oidc: OpenIdConnect) -> None:
    """Somebody is made to bring a stranger's code with a state of its own."""
    url, cookie = await oidc.begin()
    _, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
    strangers, _ = await oidc.begin()
    code, _ = await signed_in(strangers, "eve", email="eve@example.com", email_verified=True)
    assert await refused(oidc.finish(code, state, cookie), Unauthenticated) == "SIGN_IN_REFUSED"


async def test_an_id_token_of_another_sign_in(oidc: OpenIdConnect) -> None:
    url, cookie = await oidc.begin()
    code, state = await signed_in(altered(url, nonce="another"), "ann", email="ann@example.com", email_verified=True)
    assert await refused(oidc.finish(code, state, cookie), Unauthenticated) == "SIGN_IN_REFUSED"


@pytest.mark.parametrize("change", [{"code": ""}, {"error": "access_denied"}, {"iss": "https://other.example.com"}])
async def test_what_the_provider_refused_or_another_one_says(oidc: OpenIdConnect, change: dict[str, str]) -> None:
    url, cookie = await oidc.begin()
    code, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
    given = {"code": code, "state": state, "cookie": cookie, **change}
    assert await refused(oidc.finish(**given), Unauthenticated) == "SIGN_IN_REFUSED"


async def test_a_provider_that_is_down(keys: SigningKeys, clock: Clock) -> None:
    with provider() as issuer:
        oidc = connect(issuer, keys, clock)
        url, cookie = await oidc.begin()
        code, state = await signed_in(url, "ann", email="ann@example.com", email_verified=True)
    with pytest.raises(Unavailable) as raised:
        await oidc.finish(code, state, cookie)
    assert (raised.value.reason, raised.value.retry_after_s) == ("SIGN_IN_UNAVAILABLE", 5.0)
    unknown = connect(issuer, keys, clock)
    assert await refused(unknown.begin(), Unavailable) == "SIGN_IN_UNAVAILABLE"
    for each in (oidc, unknown):
        await each.close()


@pytest.mark.parametrize("issuer", ["http://accounts.example.com", "ftp://localhost", "", "https://", "localhost"])
def test_an_issuer_that_is_not_https(keys: SigningKeys, clock: Clock, issuer: str) -> None:
    with pytest.raises(Conflict) as raised:
        connect(issuer, keys, clock)
    assert raised.value.reason == "OIDC_ISSUER"
