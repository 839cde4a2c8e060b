"""Which calls are kept as slow, for whom, and in what order."""

from datetime import UTC, datetime

import pytest

from penstock.observation import Observation
from penstock.operations import slow_calls
from penstock.operations.slow_calls import SLOW_S, SlowCalls

METHOD = "/penstock.kpis.v1.KpiService/GetMetrics"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(slow: SlowCalls, tenant: str, request_id: str, seconds: float = 0.5) -> None:
    slow.record(tenant, METHOD, seconds, "OK", request_id, Observation())


def ids(slow: SlowCalls, tenant: str, limit: int = 1_000) -> list[str]:
    return [call.request_id for call in slow.report(tenant, limit)]


def test_a_slow_call_is_kept_with_all_that_is_known_of_it() -> None:
    slow = SlowCalls(clock=NOW.timestamp)
    seen = Observation(cache=False, stages={"clickhouse": 1_200.0, "encode": 15.5})
    slow.record("acme", METHOD, 1.5, "STORAGE_UNAVAILABLE", "r-1", seen)
    seen.stages["late"] = 1.0
    (call,) = slow.report("acme", 10)
    assert (call.operation, call.duration_ms, call.code) == ("KpiService/GetMetrics", 1_500.0, "STORAGE_UNAVAILABLE")
    assert call.time == NOW
    assert call.began == datetime(2026, 3, 1, 11, 59, 58, 500_000, tzinfo=UTC)
    assert call.stages == (("clickhouse", 1_200.0), ("encode", 15.5)), "what runs on behind the call changes nothing"
    assert call.cache is False


def test_only_what_took_longer_than_the_bound_is_kept() -> None:
    slow = SlowCalls()
    record(slow, "acme", "at the bound", SLOW_S)
    record(slow, "acme", "above", SLOW_S + 0.001)
    assert ids(slow, "acme") == ["above"]


def test_the_newest_come_first_and_are_as_many_as_asked_for() -> None:
    slow = SlowCalls()
    for number in range(300):
        record(slow, "acme", str(number))
    assert ids(slow, "acme", 3) == ["299", "298", "297"]
    assert len(ids(slow, "acme")) == slow_calls.CALLS_MAX
    assert ids(slow, "acme")[-1] == "100"
    assert ids(slow, "acme", 0) == []


def test_a_tenant_sees_its_own_alone() -> None:
    slow = SlowCalls()
    record(slow, "acme", "a")
    record(slow, "globex", "g")
    assert ids(slow, "acme") == ["a"]
    assert ids(slow, "globex") == ["g"]
    assert ids(slow, "nobody") == []


def test_of_too_many_tenants_those_go_that_were_slow_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_calls, "TENANTS_MAX", 3)
    slow = SlowCalls()
    for tenant in ("a", "b", "c", "a", "d"):
        record(slow, tenant, tenant)
    assert [len(ids(slow, tenant)) for tenant in "abcd"] == [2, 0, 1, 1]
    assert len(slow) == 4


def test_all_tenants_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_calls, "ALL_CALLS_MAX", 500)
    slow = SlowCalls()
    for tenant in range(20):
        for number in range(250):
            record(slow, str(tenant), str(number))
    assert len(slow) == 400
    assert len(ids(slow, "19")) == slow_calls.CALLS_MAX
    assert ids(slow, "17") == []
