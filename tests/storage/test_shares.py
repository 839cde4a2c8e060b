"""A bound that all tenants share: none fills it, and what is given back is there again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.storage.shares import Shares

TENANTS = ("a", "b", "c")


def filled(shares: Shares, *tenants: str) -> dict[str, int]:
    """What each holds when they take by turns until none may."""
    while True in [shares.take(tenant) for tenant in tenants]:
        pass
    return {tenant: shares.held(tenant) for tenant in tenants}


def test_one_alone_holds_its_share() -> None:
    assert filled(Shares(64, 32), "a") == {"a": 32}
    assert filled(Shares(64, 48), "a") == {"a": 48}
    assert filled(Shares(64, 64), "a") == {"a": 64}
    assert filled(Shares(1, 1), "a") == {"a": 1}
    assert filled(Shares(2, 1), "a") == {"a": 1}


def test_several_hold_the_same_and_leave_room_for_one_more() -> None:
    shares = Shares(64, 32)
    assert filled(shares, "a", "b") == {"a": 21, "b": 21}
    assert shares.take("c", 22)


def test_who_comes_later_gets_as_much_as_who_was_there() -> None:
    shares = Shares(60, 30)
    filled(shares, "a")
    assert filled(shares, "b") == {"b": 15}
    for _ in range(30):  # as what is held is worked off and asked for anew
        shares.give_back("a")
        filled(shares, "b", "a")
    assert {shares.held("a"), shares.held("b")} == {20}


def test_a_request_is_never_too_large_for_an_empty_bound() -> None:
    shares = Shares(10, 5)
    assert shares.take("a", 1_000)
    assert not shares.take("a")
    assert not shares.take("b")
    shares.give_back("a", 1_000)
    assert shares.take("b", 10)


def test_more_than_was_taken_cannot_be_given_back() -> None:
    shares = Shares(10, 5)
    shares.take("a", 2)
    with pytest.raises(ValueError, match="3 given back of 2"):
        shares.give_back("a", 3)
    with pytest.raises(ValueError, match="share"):
        Shares(10, 11)


@given(
    st.integers(1, 100).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))),
    st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(0, 30), st.booleans()), max_size=60),
)
def test_whatever_is_asked(bound: tuple[int, int], asked: list[tuple[str, int, bool]]) -> None:
    total, share = bound
    shares = Shares(total, share)
    held = dict.fromkeys(TENANTS, 0)
    for tenant, n, giving in asked:
        if giving:
            n = min(n, held[tenant])
            if n:
                shares.give_back(tenant, n)
            held[tenant] -= n
            continue
        before = sum(held.values())
        took = shares.take(tenant, n)
        if not before or (not held[tenant] and before + n <= total):
            assert took, "who holds nothing gets in while there is room"
        if took:
            held[tenant] += n
            assert not before or sum(held.values()) <= total
            assert held[tenant] <= share or not n or held[tenant] == n, (
                "one alone holds at most its share, or one request"
            )
        assert {each: shares.held(each) for each in TENANTS} == held
        assert shares.taken == sum(held.values())
