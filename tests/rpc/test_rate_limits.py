"""What calls cost whom, and what a refused caller is told."""

import pytest

from penstock.access.v1 import access_pb2
from penstock.cache.redis import Redis
from penstock.cache.windows import Taken, Window, Windows
from penstock.errors import Overloaded
from penstock.rpc.principal import ANONYMOUS, OPEN, Kind, Principal, principal
from penstock.rpc.rate_limits import COSTS, UNCOUNTED, Price, RateLimits, headers, network_of

READ, HEAVY = access_pb2.COST_CLASS_READ, access_pb2.COST_CLASS_HEAVY
USER = principal(Kind.USER, "acme", "ann", [access_pb2.ROLE_VIEWER])
KEY = principal(Kind.KEY, "acme", "k1", [access_pb2.ROLE_INGESTER])
HERE, THERE = "203.0.113.9", "203.0.113.10"


def made(open_limit: int | None = None, anonymous_limit: int = 60, key_limit: int = 60_000) -> RateLimits:
    return RateLimits(
        Windows(Redis(""), clock=lambda: 1_000.0),
        anonymous_limit=anonymous_limit,
        key_limit=key_limit,
        open_limit=open_limit,
    )


def charged(limits: RateLimits, who: Principal, address: str = HERE, cost_class: int = READ, calls: int = 1) -> Taken:
    """What became of the last of some calls."""
    taken = [limits.charge_now(who, address, cost_class) for _ in range(calls)][-1]
    assert taken is not None
    return taken


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (ANONYMOUS, Price("anonymous:203.0.113.9", Window(60, 60), 1)),
        (USER, Price("user:acme/ann", Window(6_000, 60), 1)),
        (KEY, Price("key:acme/k1", Window(60_000, 60), 1)),
        (OPEN, None),
    ],
)
def test_who_pays_from_what(who: Principal, expected: Price | None) -> None:
    limits = made()
    assert limits.price(who, HERE, READ) == expected
    assert limits.window_of(who) == (expected.window if expected else None)


def test_every_class_of_the_contract_has_a_cost() -> None:
    declared = {number for number in access_pb2.CostClass.values() if number}
    assert declared == COSTS.keys()
    limits = made(open_limit=10)
    for cost_class, cost in COSTS.items():
        for who in (OPEN, ANONYMOUS, USER, KEY):
            price = limits.price(who, HERE, cost_class)
            assert (price.cost if price else 0) == cost


def test_an_open_server_limits_addresses_when_it_is_told_to() -> None:
    limits = made(open_limit=2)
    assert [charged(limits, OPEN).allowed for _ in range(3)] == [True, True, False]
    assert charged(limits, OPEN, THERE).allowed
    assert charged(limits, ANONYMOUS).remaining == 59  # another window
    assert charged(made(), OPEN, calls=100) is UNCOUNTED


def test_addresses_pay_for_themselves_and_names_wherever_they_call_from() -> None:
    limits = made()
    assert not charged(limits, ANONYMOUS, HERE, calls=61).allowed
    assert charged(limits, ANONYMOUS, THERE).remaining == 59
    assert charged(limits, KEY, HERE).remaining == 59_999
    assert charged(limits, KEY, THERE).remaining == 59_998
    elsewhere = principal(Kind.KEY, "other", "k1", [])
    assert charged(limits, elsewhere, HERE).remaining == 59_999


def test_what_is_free_is_never_refused() -> None:
    limits = made()
    assert not charged(limits, ANONYMOUS, calls=61).allowed
    free = charged(limits, ANONYMOUS, cost_class=access_pb2.COST_CLASS_FREE, calls=1_000)
    assert free.allowed
    assert headers(free) == ()
    limits.check(free, ANONYMOUS)


def test_what_is_heavy_costs_ten() -> None:
    limits = made()
    assert charged(limits, ANONYMOUS, cost_class=HEAVY, calls=5).remaining == 10
    assert charged(limits, ANONYMOUS).remaining == 9
    refused = charged(limits, ANONYMOUS, cost_class=HEAVY)
    assert (refused.allowed, refused.remaining) == (False, 9)
    assert charged(limits, ANONYMOUS, calls=9).allowed
    assert charged(made(anonymous_limit=5), ANONYMOUS, cost_class=HEAVY).allowed  # once in a window, at least


def test_headers_are_there_whatever_comes_of_a_call() -> None:
    limits = made()
    assert headers(charged(limits, ANONYMOUS)) == (
        ("ratelimit-limit", "60"),
        ("ratelimit-remaining", "59"),
        ("ratelimit-reset", "60"),
    )
    assert dict(headers(charged(limits, ANONYMOUS, calls=60)))["ratelimit-remaining"] == "0"
    assert dict(headers(Taken(True, 60, 1, 0.2)))["ratelimit-reset"] == "1"
    assert dict(headers(Taken(True, 60, 1, 59.00000000001)))["ratelimit-reset"] == "59"


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (ANONYMOUS, ["each address that calls without a credential", "60 in 60 s", "send an API key", "60,000"]),
        (USER, ["each user", "6,000 in 60 s", "send an API key", "60,000"]),
        (KEY, ["each API key", "60,000 in 60 s", "a higher limit"]),
        (OPEN, ["each address ", "100 in 60 s", "a higher limit"]),
    ],
)
def test_a_refusal_says_what_the_limit_is_and_how_to_get_more(who: Principal, told: list[str]) -> None:
    limits = made(open_limit=100)
    window = limits.window_of(who)
    assert window is not None
    limits.check(charged(limits, who), who)
    taken = Taken(False, window.limit, 0, 60.0, 12.3)
    with pytest.raises(Overloaded) as refusal:
        limits.check(taken, who)
    error = refusal.value
    assert (error.reason, error.retry_after_s) == ("RATE_LIMITED", 12.3)
    assert error.metadata == {"limit": str(window.limit), "window_s": "60"}
    for text in [*told, "try again in 13 s"]:
        assert text in error.message


def test_nobody_is_sent_for_a_key_that_may_take_no_more() -> None:
    limits = made(key_limit=60)
    with pytest.raises(Overloaded, match="a higher limit"):
        limits.check(charged(limits, ANONYMOUS, calls=61), ANONYMOUS)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:/run/penstock.sock", "unix:/run/penstock.sock"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_is_one_caller(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_with_redis_away_it_charges_all_the_same() -> None:
    limits = made()
    for place in range(61):
        taken = await limits.charge(ANONYMOUS, HERE, READ)
        assert taken.allowed == (place < 60)
    assert await limits.charge(OPEN, HERE, READ) is UNCOUNTED


@pytest.mark.parametrize("limit", [0, -1])
def test_no_limit_is_below_one(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        made(anonymous_limit=limit)
