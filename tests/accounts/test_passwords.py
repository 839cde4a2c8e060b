"""Passwords: hashed, verified, bounded, and at the same price for everybody."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from penstock.accounts.passwords import Passwords, check_policy
from penstock.errors import InvalidInput, Overloaded

PASSWORD = "correct horse battery staple"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(time_cost=1, memory_kib=8)
    yield made
    made.close()


async def test_a_password_verifies_and_another_does_not(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    assert stored.startswith("$argon2id$")
    assert (await passwords.verify(stored, PASSWORD)).right
    assert not (await passwords.verify(stored, PASSWORD + " ")).right
    assert not (await passwords.verify("", PASSWORD)).right
    assert not (await passwords.verify("no hash", PASSWORD)).right


async def test_as_it_comes_by_default() -> None:
    passwords = Passwords()
    stored = await passwords.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert (await passwords.verify(stored, PASSWORD)).right
    passwords.close()


async def test_a_letter_is_the_same_however_it_is_composed(passwords: Passwords) -> None:
    assert (await passwords.verify(await passwords.hash("caf\u00e9 au lait, svp"), "cafe\u0301 au lait, svp")).right


async def test_a_hash_of_other_parameters_is_made_anew(passwords: Passwords) -> None:
    older = Passwords(time_cost=2, memory_kib=16)
    stored = await older.hash(PASSWORD)
    verdict = await passwords.verify(stored, PASSWORD)
    assert verdict.right
    assert verdict.rehashed.startswith("$argon2id$v=19$m=8,t=1")
    assert (await passwords.verify(verdict.rehashed, PASSWORD)).rehashed == ""
    assert not (await passwords.verify(stored, "another password")).rehashed
    assert verdict.rehashed not in repr(verdict)
    older.close()


async def test_nobody_costs_as_much_as_somebody(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[tuple[str, ...]] = []
    verify = PasswordHasher.verify

    def counted(hasher: PasswordHasher, stored: str, password: Any) -> bool:
        costs.append(tuple(stored.split("$")[1:4]))
        return bool(verify(hasher, stored, password))

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    stored = await passwords.hash(PASSWORD)
    for each in (stored, ""):
        await passwords.verify(each, "not the password")
    assert len(costs) == 2
    assert costs[0] == costs[1]


async def test_only_so_many_wait() -> None:
    passwords = Passwords(time_cost=1, memory_kib=8, waiting_max=2)
    outcomes = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(3)), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, Overloaded)]
    assert [(each.reason, each.retry_after_s) for each in refused] == [("TOO_MANY_SIGN_INS", 1.0)]
    await asyncio.sleep(0)
    assert await passwords.hash(PASSWORD)
    passwords.close()


async def test_who_goes_away_takes_a_place_until_the_thread_is_done() -> None:
    passwords = Passwords(time_cost=1, memory_kib=8, waiting_max=1)
    task = asyncio.create_task(passwords.hash(PASSWORD))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(1_000):
        try:
            await passwords.hash(PASSWORD)
            break
        except Overloaded:
            await asyncio.sleep(0.001)
    else:
        pytest.fail("its place was never free again")
    passwords.close()


@pytest.mark.parametrize("password", ["short", "x" * 257, "my name is Robert", "ROBERT-ROBERT-ROBERT"])
def test_what_is_no_good(password: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_policy("robert", password)
    assert raised.value.reason == "INVALID_PASSWORD"
    assert password not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "password"), [("bob", "plumbobs galore"), ("robert", "x" * 12), ("robert", "y" * 256)]
)
def test_what_will_do(name: str, password: str) -> None:
    check_policy(name, password)
