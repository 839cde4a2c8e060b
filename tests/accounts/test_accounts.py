"""Users, keys, and what their credentials are worth, on one server and on several."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from argon2 import PasswordHasher

from penstock.accounts.accounts import Accounts, console
from penstock.accounts.bounds import (
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_PER_NAME_MAX,
    KEY_USE_WRITTEN_S,
    USERS_MAX,
    USERS_PER_TENANT_MAX,
)
from penstock.accounts.model import Identity
from penstock.accounts.passwords import Passwords
from penstock.accounts.signing import SigningKeys
from penstock.accounts.store import AccountStore
from penstock.errors import (
    AlreadyStored,
    InvalidInput,
    NotFound,
    Overloaded,
    PenstockError,
    PermissionDenied,
    Unauthenticated,
)
from penstock.rpc.principal import ROLES, Kind, Principal, principal
from penstock.settings import Settings
from penstock.storage.engine import ClickHouseEngine
from tests.accounts.conftest import PASSWORD, Clock
from tests.waiting import until

VIEWER, INGESTER, ANALYST, OPERATOR, ADMIN = (
    ROLES[name] for name in ("viewer", "ingester", "analyst", "operator", "admin")
)


async def reason(call: Awaitable[object], kind: type[PenstockError]) -> str:
    with pytest.raises(kind) as raised:
        await call
    return raised.value.reason


def refused(accounts: Accounts, credential: str) -> str:
    assert accounts.known(credential) is None
    with pytest.raises(Unauthenticated) as raised:
        accounts.principal_of(credential)
    assert credential not in raised.value.message
    return raised.value.reason


async def test_signing_in(accounts: Accounts, admin: Principal, database: ClickHouseEngine) -> None:
    user = await accounts.create_user(admin, "Ann", PASSWORD, [ANALYST, INGESTER])
    assert (user.tenant, user.name, user.roles) == ("acme", "ann", {ANALYST, INGESTER})
    with structlog.testing.capture_logs() as logged:
        tokens = await accounts.sign_in("ANN", PASSWORD, address="10.0.0.1")
    assert 1_790 <= tokens.expires_in_s <= 1_800
    assert accounts.known(tokens.access) is None
    found = accounts.principal_of(tokens.access)
    assert found == tokens.principal == accounts.known(tokens.access)
    assert (found.kind, found.tenant, found.name, found.roles) == (Kind.USER, "acme", "ann", {ANALYST, INGESTER})
    shown = repr(tokens) + repr(user) + str(logged) + str(await database.rows("SELECT * FROM users"))
    for secret in (PASSWORD, tokens.access, tokens.refresh):
        assert secret not in shown
    assert user.password_hash not in repr(user)


async def test_nobody_learns_who_has_an_account(
    accounts: Accounts, admin: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    await accounts.create_user(admin, "disabled", PASSWORD, [VIEWER])
    await accounts.update_user(admin, "disabled", disabled=True)
    await accounts.create_user(admin, "nopassword", "", [VIEWER])
    costs: list[tuple[str, ...]] = []
    verify = PasswordHasher.verify

    def counted(hasher: PasswordHasher, stored: str, password: bytes) -> bool:
        costs.append(tuple(stored.split("$")[1:4]))
        return bool(verify(hasher, stored, password))

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    told = set()
    for name, password in [
        ("ann", "not the password"), ("nobody", PASSWORD), ("disabled", PASSWORD), ("nopassword", ""), ("", ""),
        ("nopassword", PASSWORD), ("' OR 1=1", PASSWORD), ("x" * 10_000, "y" * 10_000),
    ]:  # fmt: skip
        with pytest.raises(Unauthenticated) as raised:
            await accounts.sign_in(name, password)
        told.add((raised.value.reason, raised.value.message, str(raised.value.metadata)))
    assert told == {("WRONG_CREDENTIALS", "wrong user name or password", "{}")}
    assert len(costs) == 8
    assert len(set(costs)) == 1


@pytest.mark.parametrize("name", ["ann", "nobody"])
async def test_attempts_are_bounded_for_those_that_exist_and_those_that_do_not(
    accounts: Accounts, admin: Principal, clock: Clock, name: str
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    for number in range(ATTEMPTS_PER_NAME_MAX):
        wrong = accounts.sign_in(name, "not the password", address=f"10.0.0.{number}")
        assert await reason(wrong, Unauthenticated) == "WRONG_CREDENTIALS"
    with pytest.raises(Overloaded) as raised:
        await accounts.sign_in(name, PASSWORD, address="10.0.0.99")
    assert raised.value.reason == "TOO_MANY_ATTEMPTS"
    assert 290 < (raised.value.retry_after_s or 0) <= 300
    clock.ahead += 301
    if name == "ann":
        assert await accounts.sign_in(name, PASSWORD)


async def test_attempts_of_an_address_are_bounded(accounts: Accounts) -> None:
    for number in range(ATTEMPTS_PER_ADDRESS_MAX):
        await reason(accounts.sign_in(f"user{number}", "not the password", address="10.0.0.1"), Unauthenticated)
    assert await reason(accounts.sign_in("another", PASSWORD, address="10.0.0.1"), Overloaded) == "TOO_MANY_ATTEMPTS"
    assert await reason(accounts.sign_in("another", PASSWORD, address="10.0.0.2"), Unauthenticated)


async def test_only_failures_count(accounts: Accounts, admin: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    for number in range(3 * ATTEMPTS_PER_NAME_MAX):
        await accounts.sign_in("ann", PASSWORD, address=f"10.0.{number}.1")
    monkeypatch.setattr(accounts._passwords, "_waiting_max", 0)
    for _ in range(2 * ATTEMPTS_PER_ADDRESS_MAX):
        assert await reason(accounts.sign_in("ann", PASSWORD, address="10.0.0.1"), Overloaded) == "TOO_MANY_SIGN_INS"


@pytest.mark.parametrize("change", [{"disabled": True}, {"password": "another good password"}, {"roles": [INGESTER]}])
async def test_what_changes_of_a_user_ends_its_sessions_at_once(
    accounts: Accounts, admin: Principal, change: dict[str, object]
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    tokens = await accounts.sign_in("ann", PASSWORD)
    accounts.principal_of(tokens.access)
    assert accounts.known(tokens.access)
    await accounts.update_user(admin, "ann", **change)  # type: ignore[arg-type]
    assert refused(accounts, tokens.access) == "TOKEN_REVOKED"
    assert await reason(accounts.refresh(tokens.refresh), Unauthenticated) == "SESSION_ENDED"
    if "disabled" in change:
        assert await reason(accounts.sign_in("ann", PASSWORD), Unauthenticated) == "WRONG_CREDENTIALS"
        await accounts.update_user(admin, "ann", disabled=False)
    assert refused(accounts, tokens.access) == "TOKEN_REVOKED"
    again = await accounts.sign_in("ann", str(change.get("password", PASSWORD)))
    assert accounts.principal_of(again.access).roles == {INGESTER if "roles" in change else VIEWER}
    assert await accounts.refresh(again.refresh)


async def test_sessions_end_that_a_clock_began_which_is_ahead(
    accounts: Accounts, database: ClickHouseEngine, keys: SigningKeys, admin: Principal
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    ahead = Clock()
    ahead.ahead = 20
    other = Accounts(AccountStore(database, ahead), keys, Passwords(time_cost=1, memory_kib=8), clock=ahead)
    await other.open()
    tokens = await other.sign_in("ann", PASSWORD)
    assert accounts.principal_of(tokens.access)
    await accounts.update_user(admin, "ann", password="another good password")
    assert refused(accounts, tokens.access) == "TOKEN_REVOKED"
    again = await accounts.sign_in("ann", "another good password")
    await other._store.refresh()
    for each in (accounts, other):
        assert each.principal_of(again.access)
    await other.close()


async def test_a_removed_user_leaves_nothing_to_who_gets_the_name(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [ADMIN])
    tokens, kept = [await accounts.sign_in("ann", PASSWORD) for _ in range(2)]
    await accounts.delete_user(admin, "ann")
    assert refused(accounts, tokens.access) == "TOKEN_INVALID"
    await accounts.create_user(console("other"), "ann", "another good password", [ADMIN])
    restarted = server()
    await restarted.open()
    for each in (accounts, restarted):
        assert refused(each, tokens.access) == "TOKEN_INVALID"
        assert await reason(each.refresh(tokens.refresh), Unauthenticated) == "SESSION_ENDED"
        new = await each.sign_in("ann", "another good password")
        assert each.principal_of(new.access).tenant == "other"
    await accounts.delete_user(console("other"), "ann")
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    assert refused(accounts, kept.access) == "TOKEN_REVOKED"
    assert await reason(accounts.refresh(kept.refresh), Unauthenticated) == "SESSION_ENDED"


async def test_names_are_unique_across_tenants_and_tenants_see_only_their_own(
    accounts: Accounts, admin: Principal
) -> None:
    other = console("other")
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    assert await reason(accounts.create_user(other, "Ann", PASSWORD, [VIEWER]), AlreadyStored) == "USER_EXISTS"
    assert [user.name for user in accounts.list_users("acme")] == ["ann"]
    assert accounts.list_users("other") == []
    for call in (accounts.update_user(other, "ann", disabled=True), accounts.delete_user(other, "ann")):
        assert await reason(call, NotFound) == "USER_NOT_FOUND"
    key, text = await accounts.create_key(admin, "mine", [VIEWER])
    assert await reason(accounts.revoke_key("other", key.id), NotFound) == "API_KEY_NOT_FOUND"
    assert accounts.list_keys("other") == []
    assert accounts.principal_of(text).tenant == "acme"


async def test_names_that_no_user_can_have(accounts: Accounts, admin: Principal) -> None:
    for name in ("", "-ann", "ann smith", "ann/..", "änn", "a" * 256, "ann\n", "@ann"):
        assert await reason(accounts.create_user(admin, name, PASSWORD, [VIEWER]), InvalidInput) == "INVALID_NAME"


def test_names_that_no_tenant_can_have() -> None:
    for name in ("", "Acme", "-acme", "a" * 64, "a.b", "a/b", "acme\n"):
        with pytest.raises(InvalidInput):
            console(name)


async def test_nobody_gives_more_than_it_has(accounts: Accounts, admin: Principal) -> None:
    operator = principal(Kind.USER, "acme", "olaf", [OPERATOR])
    ingester = principal(Kind.KEY, "acme", "k", [INGESTER])
    await accounts.create_user(admin, "root", PASSWORD, [ADMIN])
    for call in (
        accounts.create_user(operator, "eve", PASSWORD, [ADMIN]),
        accounts.create_user(ingester, "eve", PASSWORD, [VIEWER]),
        accounts.create_key(operator, "eve", [VIEWER, ADMIN]),
        accounts.create_key(ingester, "eve", [ANALYST]),
        accounts.update_user(operator, "root", disabled=True),
        accounts.update_user(operator, "root", password="another good password"),
        accounts.update_user(operator, "root", roles=[VIEWER]),
        accounts.delete_user(operator, "root"),
    ):
        assert await reason(call, PermissionDenied) == "ROLE_MISSING"
    for roles in ([], [0], [1], [99], [-1]):
        assert await reason(accounts.create_key(admin, "x", roles), InvalidInput) == "INVALID_ROLE"
    assert accounts.list_keys("acme") == []
    key, text = await accounts.create_key(operator, "mine", [ANALYST])
    assert key.created_by == "olaf"
    assert accounts.principal_of(text).roles == {ANALYST}


async def test_the_life_of_a_key(
    accounts: Accounts, admin: Principal, database: ClickHouseEngine, clock: Clock
) -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    key, text = await accounts.create_key(admin, " feed ", [INGESTER], expires)
    assert (key.name, key.expires, key.last_used, key.revoked) == ("feed", expires, None, None)
    found = accounts.principal_of(text)
    assert (found.kind, found.tenant, found.name, found.roles) == (Kind.KEY, "acme", key.id, {INGESTER})
    assert found.expires == expires.timestamp()
    assert accounts.known(text) == found
    secret = text.rpartition("_")[2]
    assert secret[:43] not in repr(key) + str(await database.rows("SELECT * FROM api_keys")) + repr(found)
    clock.ahead = 3_601
    assert refused(accounts, text) == "KEY_EXPIRED"
    for wrong in (expires, datetime(9999, 1, 1, tzinfo=UTC)):
        assert await reason(accounts.create_key(admin, "late", [VIEWER], wrong), InvalidInput) == "INVALID_FIELD"
    other, forever = await accounts.create_key(admin, "forever", [VIEWER])
    assert accounts.principal_of(forever).expires is None
    revoked = await accounts.revoke_key("acme", other.id)
    assert revoked.revoked is not None
    assert await accounts.revoke_key("acme", other.id) == revoked
    assert refused(accounts, forever) == "KEY_REVOKED"
    assert [each.id for each in accounts.list_keys("acme")] == [key.id, other.id]
    clock.ahead += 31 * 86_400
    assert accounts.list_keys("acme") == []
    assert refused(accounts, forever) == "KEY_INVALID"


async def test_a_key_with_another_secret(accounts: Accounts, admin: Principal) -> None:
    from penstock.accounts.api_keys import Parts, minted

    key, _ = await accounts.create_key(admin, "feed", [INGESTER])
    for text in (Parts(key.id, minted().secret).text, minted().text, "pk_", "pk_" + "x" * 10_000):
        assert refused(accounts, text) == "KEY_INVALID"


async def test_when_a_key_was_used_is_written_once_an_hour(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal, database: ClickHouseEngine, clock: Clock
) -> None:
    _, text = await accounts.create_key(admin, "feed", [INGESTER])
    accounts.principal_of(text)
    keys = accounts._store.keys
    written = "SELECT count() AS rows FROM api_key_uses"
    for _ in range(3):
        clock.ahead += 600
        assert accounts.known(text)
        await keys.write_uses()
    assert (await database.rows(written))[0]["rows"] == 1
    assert abs((accounts.list_keys("acme")[0].last_used or datetime.now(UTC)).timestamp() - clock()) < 5
    clock.ahead += KEY_USE_WRITTEN_S
    assert accounts.known(text)
    await keys.write_uses()
    assert (await database.rows(written))[0]["rows"] == 2
    restarted = server()
    await restarted.open()
    assert restarted.list_keys("acme")[0].last_used == accounts.list_keys("acme")[0].last_used


async def test_a_restart_keeps_all(accounts: Accounts, server: Callable[[], Accounts], admin: Principal) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER, INGESTER])
    await accounts.update_user(admin, "ann", roles=[ANALYST])
    await accounts.create_user(admin, "bob", PASSWORD, [VIEWER])
    await accounts.update_user(admin, "bob", disabled=True)
    tokens = await accounts.sign_in("ann", PASSWORD)
    _, text = await accounts.create_key(admin, "feed", [INGESTER])
    gone, gone_text = await accounts.create_key(admin, "gone", [INGESTER])
    await accounts.revoke_key("acme", gone.id)
    restarted = server()
    await restarted.open()
    assert restarted.list_users("acme") == accounts.list_users("acme")
    assert restarted.list_keys("acme") == accounts.list_keys("acme")
    assert restarted.principal_of(tokens.access) == accounts.principal_of(tokens.access)
    assert restarted.principal_of(text) == accounts.principal_of(text)
    assert refused(restarted, gone_text) == "KEY_REVOKED"
    assert (await restarted.refresh(tokens.refresh)).principal.roles == {ANALYST}


async def test_servers_see_what_others_change(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal
) -> None:
    other = server()
    await other.open()
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    key, text = await accounts.create_key(admin, "feed", [INGESTER])
    following = asyncio.create_task(other.follow())
    await until(lambda: bool(other.list_keys("acme")))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    tokens = await other.sign_in("ann", PASSWORD)
    assert other.principal_of(tokens.access)
    assert other.principal_of(text)
    await accounts.update_user(admin, "ann", disabled=True)
    await accounts.revoke_key("acme", key.id)
    assert other.known(tokens.access)
    await other._store.refresh()
    assert refused(other, tokens.access) == "TOKEN_REVOKED"
    assert refused(other, text) == "KEY_REVOKED"


async def test_two_servers_that_change_one_user_take_nothing_from_each_other(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [ADMIN])
    other = server()
    await other.open()
    await accounts.update_user(admin, "ann", disabled=True)
    await other.update_user(admin, "ann", roles=[VIEWER])  # it has not heard of it
    for each in (accounts, other):
        await each._store.refresh()
        (user,) = each.list_users("acme")
        assert (user.disabled, user.roles) == (True, {VIEWER})


async def test_a_name_that_another_server_has_just_given_is_taken(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal
) -> None:
    other = server()
    await other.open()
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    assert await reason(other.create_user(console("other"), "ann", PASSWORD, [ADMIN]), AlreadyStored) == "USER_EXISTS"
    assert [user.tenant for user in other.list_users("acme")] == ["acme"]


async def test_of_two_who_take_a_name_at_once_one_gets_it(accounts: Accounts, admin: Principal) -> None:
    outcomes = await asyncio.gather(
        *(accounts.create_user(console(tenant), "ann", PASSWORD, [VIEWER]) for tenant in ("acme", "other", "third")),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["AlreadyStored", "AlreadyStored", "User"]


async def test_a_change_is_made_even_when_who_asked_goes_away(accounts: Accounts, admin: Principal) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    asked = asyncio.create_task(accounts.update_user(admin, "ann", disabled=True))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: accounts.list_users("acme")[0].disabled)


async def test_a_hash_of_other_parameters_is_made_anew_at_sign_in(
    accounts: Accounts, admin: Principal, database: ClickHouseEngine
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    await accounts._store.users.change("ann", password_hash=old)
    first = await accounts.sign_in("ann", PASSWORD)
    assert accounts._store.users.get("ann").password_hash.startswith("$argon2id$v=19$m=8,")  # type: ignore[union-attr]
    assert accounts.principal_of(first.access)
    assert await accounts.sign_in("ann", PASSWORD)


async def test_when_signing_keys_change_what_was_known_is_verified_anew(
    accounts: Accounts, admin: Principal, keys: SigningKeys
) -> None:
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    tokens = await accounts.sign_in("ann", PASSWORD)
    accounts.principal_of(tokens.access)
    keys.rotate()
    assert accounts.known(tokens.access) is None
    assert accounts.principal_of(tokens.access)
    assert len(accounts.public_keys()["keys"]) == 2


async def test_only_so_many_credentials_are_known(
    accounts: Accounts, admin: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.accounts.credentials.CREDENTIALS_KNOWN_MAX", 2)
    texts = [(await accounts.create_key(admin, f"key {number}", [VIEWER]))[1] for number in range(3)]
    for text in texts:
        accounts.principal_of(text)
    assert [accounts.known(text) is not None for text in texts] == [False, True, True]


async def test_bounds_of_users_and_keys(accounts: Accounts, admin: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, bound in (("users", "USERS_PER_TENANT_MAX"), ("keys", "KEYS_PER_TENANT_MAX")):
        monkeypatch.setattr(f"penstock.accounts.stored_{module}.{bound}", 1)
    await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
    assert await reason(accounts.create_user(admin, "bob", PASSWORD, [VIEWER]), Overloaded) == "TOO_MANY_USERS"
    await accounts.create_key(admin, "one", [VIEWER])
    assert await reason(accounts.create_key(admin, "two", [VIEWER]), Overloaded) == "TOO_MANY_KEYS"
    await accounts.create_key(console("other"), "one", [VIEWER])


async def test_a_tenant_does_not_keep_others_from_adding_users(
    accounts: Accounts, server: Callable[[], Accounts], admin: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert USERS_PER_TENANT_MAX <= USERS_MAX // 4
    monkeypatch.setattr("penstock.accounts.stored_users.USERS_PER_TENANT_MAX", 2)
    monkeypatch.setattr("penstock.accounts.stored_users.USERS_MAX", 3)
    elsewhere, other = server(), console("other")
    await elsewhere.open()
    for name in ("ann", "bob"):
        await accounts.create_user(admin, name, "", [VIEWER])
    await accounts.update_user(admin, "bob", disabled=True)
    newcomer = Identity("cleo@acme.example", "subject", "acme", frozenset([VIEWER]))
    for each in (accounts, elsewhere):
        with pytest.raises(Overloaded, match="2 users of a tenant are the most, disabled ones among them") as raised:
            await each.create_user(admin, "cleo", "", [VIEWER])
        assert raised.value.reason == "TOO_MANY_USERS"
        assert await reason(each.sign_in_as(newcomer), Overloaded) == "TOO_MANY_USERS"
    await accounts.create_user(other, "dora", "", [VIEWER])
    with pytest.raises(Overloaded, match="3 users of all tenants are the most"):
        await accounts.create_user(other, "emil", "", [VIEWER])
    await accounts.delete_user(admin, "bob")
    assert await accounts.create_user(admin, "cleo", "", [VIEWER])


async def test_as_a_server_opens_them(database: ClickHouseEngine, settings: Settings, admin: Principal) -> None:
    async with Accounts.opened(database, settings) as accounts:
        await accounts.create_user(admin, "ann", PASSWORD, [VIEWER])
        tokens = await accounts.sign_in("ann", PASSWORD)
    async with Accounts.opened(database, settings) as accounts:
        assert accounts.principal_of(tokens.access) == tokens.principal
    assert settings.signing_keys_file.stat().st_mode & 0o777 == 0o600
