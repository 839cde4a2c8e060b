"""Refresh tokens: each is good for one trade, and whoever brings an old one ends the session."""

import asyncio
from collections.abc import Callable

import pytest
import structlog

from penstock.accounts.accounts import Accounts
from penstock.accounts.bounds import ACCESS_S, REFRESH_S
from penstock.errors import Unauthenticated
from penstock.rpc.principal import ROLES, Principal
from penstock.storage.engine import ClickHouseEngine
from tests.accounts.conftest import PASSWORD, Clock


@pytest.fixture
async def refresh_token(accounts: Accounts, admin: Principal) -> str:
    await accounts.create_user(admin, "ann", PASSWORD, [ROLES["viewer"]])
    return (await accounts.sign_in("ann", PASSWORD)).refresh


async def refused(accounts: Accounts, token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        await accounts.refresh(token)
    assert not token or token not in raised.value.message
    return raised.value.reason


async def test_each_trade_gives_the_next(
    accounts: Accounts, refresh_token: str, database: ClickHouseEngine, clock: Clock
) -> None:
    token, sessions = refresh_token, set()
    for _ in range(3):
        clock.ahead += REFRESH_S - 60
        tokens = await accounts.refresh(token)
        assert tokens.refresh != token
        assert accounts.principal_of(tokens.access).name == "ann"
        sessions.add(tokens.principal.session)
        token = tokens.refresh
    assert len(sessions) == 1
    stored = str(await database.rows("SELECT * FROM sign_in_sessions"))
    assert token.rpartition("_")[2] not in stored
    clock.ahead += REFRESH_S + 1
    assert await refused(accounts, token) == "REFRESH_TOKEN_EXPIRED"


async def test_an_old_one_ends_the_session_for_both(accounts: Accounts, refresh_token: str) -> None:
    stolen = await accounts.refresh(refresh_token)
    other = await accounts.sign_in("ann", PASSWORD)
    assert accounts.known(stolen.access) or accounts.principal_of(stolen.access)
    with structlog.testing.capture_logs() as logged:
        assert await refused(accounts, refresh_token) == "REFRESH_TOKEN_REUSED"
    (line,) = logged
    assert (line["log_level"], line["tenant"], line["user"]) == ("warning", "acme", "ann")
    assert refresh_token.rpartition("_")[2] not in str(line)
    assert accounts.known(stolen.access) is None
    with pytest.raises(Unauthenticated) as raised:
        accounts.principal_of(stolen.access)
    assert raised.value.reason == "TOKEN_REVOKED"
    assert await refused(accounts, stolen.refresh) == "SESSION_ENDED"
    assert await refused(accounts, refresh_token) == "SESSION_ENDED"
    assert accounts.principal_of(other.access)
    assert await accounts.refresh(other.refresh)


async def test_without_its_secret_nobody_ends_a_session(accounts: Accounts, refresh_token: str) -> None:
    tokens = await accounts.refresh(refresh_token)
    kind, session, _, secret = refresh_token.split("_")
    for wrong in (
        f"{kind}_{session}_1_{'a' * 43}",
        f"{kind}_{session}_2_{secret}",
        f"{kind}_{session}_3_{secret}",
        f"{kind}_{session}_0_{secret}",
        f"{kind}_{'b' * 20}_1_{secret}",
        f"{kind}_{session}_1_{secret}\n",
        f"{kind}_{session}_999999999_{secret}",
        f"{kind}_{session}_9999999999_{secret}",
        "",
        "rt_",
        tokens.access,
        "x" * 100_000,
    ):
        assert await refused(accounts, wrong) == "REFRESH_TOKEN_INVALID"
    assert await accounts.refresh(tokens.refresh)


async def test_two_at_once_on_one_server(accounts: Accounts, refresh_token: str) -> None:
    outcomes = await asyncio.gather(*(accounts.refresh(refresh_token) for _ in range(2)), return_exceptions=True)
    (refusal,) = [each for each in outcomes if isinstance(each, Unauthenticated)]
    assert refusal.reason == "REFRESH_TOKEN_REUSED"
    (tokens,) = [each for each in outcomes if not isinstance(each, BaseException)]
    assert await refused(accounts, tokens.refresh) == "SESSION_ENDED"


async def test_two_at_once_on_two_servers(
    server: Callable[[], Accounts], accounts: Accounts, refresh_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = server()
    await other.open()
    inserting, gate = 0, asyncio.Event()
    insert = ClickHouseEngine.insert_arrow

    async def together(engine: ClickHouseEngine, *args: object, **more: object) -> None:
        """Both have read what is there before either writes."""
        nonlocal inserting
        inserting += 1
        if inserting == 2:
            gate.set()
        await gate.wait()
        await insert(engine, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ClickHouseEngine, "insert_arrow", together)
    outcomes = await asyncio.gather(
        accounts.refresh(refresh_token), other.refresh(refresh_token), return_exceptions=True
    )
    reasons = [each.reason for each in outcomes if isinstance(each, Unauthenticated)]
    assert "REFRESH_TOKEN_REUSED" in reasons
    await accounts._store.refresh()
    await other._store.refresh()
    for tokens in outcomes:
        if not isinstance(tokens, BaseException):
            for each in (accounts, other):
                assert await refused(each, tokens.refresh) == "SESSION_ENDED"
                with pytest.raises(Unauthenticated):
                    each.principal_of(tokens.access)


async def test_signing_out_ends_it_here_and_there_and_after_a_restart(
    server: Callable[[], Accounts], accounts: Accounts, refresh_token: str, clock: Clock
) -> None:
    other = server()
    await other.open()
    tokens = await accounts.refresh(refresh_token)
    for each in (accounts, other):
        assert each.principal_of(tokens.access).session == tokens.principal.session
    await accounts.sign_out(tokens.principal.session)
    await accounts.sign_out(tokens.principal.session)
    await accounts.sign_out("nobody's")
    assert accounts.known(tokens.access) is None
    assert other.known(tokens.access) is not None
    await other._store.refresh()
    assert other.known(tokens.access) is None
    assert await refused(other, tokens.refresh) == "SESSION_ENDED"
    restarted = server()
    await restarted.open()
    with pytest.raises(Unauthenticated):
        restarted.principal_of(tokens.access)
    clock.ahead += ACCESS_S + 120  # nothing of it is remembered when nothing of it can hold
    await accounts._store.refresh()
    assert not accounts._store.sessions.is_revoked(tokens.principal.session)
    assert await refused(accounts, tokens.refresh) == "SESSION_ENDED"
