"""Failed attempts to sign in are counted by name and by address."""

import pytest

from penstock.accounts.attempts import Attempts
from penstock.accounts.bounds import ATTEMPTS_KNOWN_MAX, ATTEMPTS_S
from penstock.errors import Overloaded


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def attempts(time: Time) -> Attempts:
    return Attempts(per_name=3, per_address=5, clock=time)


def test_a_name_has_so_many(attempts: Attempts, time: Time) -> None:
    for number in range(3):
        attempts.begin("ann", f"10.0.0.{number}")
        time.now += 1
    with pytest.raises(Overloaded) as raised:
        attempts.begin("ann", "10.0.0.9")
    assert (raised.value.reason, raised.value.retry_after_s) == ("TOO_MANY_ATTEMPTS", ATTEMPTS_S - 3)
    attempts.begin("bob", "10.0.0.9")
    time.now += ATTEMPTS_S - 3
    attempts.begin("ann", "10.0.0.9")


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["2001:db8::1", "2001:db8::2:1", "2001:db8::3"]])
def test_an_address_has_so_many_and_a_network_of_ipv6_is_one(attempts: Attempts, addresses: list[str]) -> None:
    for number in range(5):
        attempts.begin(f"user{number}", addresses[number % len(addresses)])
    with pytest.raises(Overloaded):
        attempts.begin("another", addresses[0])
    attempts.begin("another", "192.0.2.1")
    attempts.begin("another", "2001:db8:0:1::1")


def test_who_succeeds_starts_afresh_but_its_address_does_not(attempts: Attempts) -> None:
    for _ in range(2):
        attempts.begin("ann", "10.0.0.1")
    for _ in range(10):
        attempts.begin("ann", "10.0.0.1").succeeded()
    for _ in range(3):
        attempts.begin("bob", "10.0.0.1")
    with pytest.raises(Overloaded):
        attempts.begin("carl", "10.0.0.1")


def test_many_at_once_do_not_slip_past(attempts: Attempts) -> None:
    under_way = [attempts.begin("ann", "") for _ in range(3)]
    with pytest.raises(Overloaded):
        attempts.begin("ann", "")
    under_way[0].did_not_happen()
    attempts.begin("ann", "")


def test_only_so_many_are_known(time: Time) -> None:
    attempts = Attempts(per_name=1, clock=time)
    for number in range(ATTEMPTS_KNOWN_MAX + 1):
        attempts.begin(f"user{number}", "")
    attempts.begin("user0", "")
    with pytest.raises(Overloaded):
        attempts.begin("user2", "")
