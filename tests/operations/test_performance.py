"""Figures of calls against a plain model of them, and what is made of the figures."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.operations import performance
from penstock.operations.performance import (
    SAMPLES_MAX,
    SLOT_S,
    WINDOW_S,
    Durations,
    Grade,
    OperationFigures,
    Performance,
)
from penstock.rest import contract
from penstock.settings import Settings

KPIS = "/penstock.kpis.v1.KpiService/GetMetrics"
TRENDS = "/penstock.kpis.v1.KpiService/GetTrend"
SEARCH = "/penstock.search.v1.SearchService/Search"
STATUS = "/penstock.operations.v1.OperationsService/GetStatus"
CODES = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED", "INTERNAL", "DEADLINE_EXCEEDED")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def only(recorded: Performance, tenant: str = "acme") -> OperationFigures:
    (figures,) = recorded.report(tenant).operations
    return figures


def times(figures: OperationFigures) -> Durations:
    assert figures.durations is not None
    return figures.durations


def recorded(milliseconds: list[float], method: str = KPIS, code: str = "OK", cache: bool | None = None) -> Performance:
    performance = Performance()
    for each in milliseconds:
        performance.record("acme", method, each / 1e3, code, cache)
    return performance


# --- the figures -----------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.floats(0, 40),  # seconds since the call before
            st.sampled_from(CODES),
            st.floats(0.0001, 30),
            st.sampled_from([None, True, False]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_they_are_those_of_the_calls_in_the_window(calls: list[tuple[float, str, float, bool | None]]) -> None:
    clock = Clock()
    recorded = Performance(clock)
    model = []
    for pause, code, seconds, cache in calls:
        clock.now += pause
        recorded.record("acme", KPIS, seconds, code, cache)
        model.append((clock.now // SLOT_S, code, seconds, cache))
    live = [each for each in model if each[0] > clock.now // SLOT_S - WINDOW_S / SLOT_S]
    figures = only(recorded)
    failed = [code for _, code, _, _ in live if code in ("INTERNAL", "DEADLINE_EXCEEDED")]
    assert figures.count == len(live)
    assert figures.server_errors == len(failed)
    assert figures.client_errors == len(live) - len(failed) - sum(code == "OK" for _, code, _, _ in live)
    assert figures.error_rate == len(failed) / len(live)
    looked = [cache for _, code, _, cache in live if code == "OK" and cache is not None]
    assert figures.cache_hit_rate == (sum(looked) / len(looked) if looked else None)
    timed = [seconds * 1e3 for _, code, seconds, _ in live if code not in ("INVALID_ARGUMENT", "NOT_FOUND")]
    if not timed:
        assert (figures.durations, figures.grade) == (None, Grade.UNKNOWN)
        return
    found = times(figures)
    assert found.measured == len(timed)
    assert [found.p50_ms, found.p95_ms, found.p99_ms] == pytest.approx(np.percentile(timed, [50, 95, 99]))
    assert [found.mean_ms, found.min_ms, found.max_ms] == pytest.approx([np.mean(timed), min(timed), max(timed)])


def test_times_are_of_the_newest_and_it_is_said_of_how_many() -> None:
    recorded = Performance()
    for number in range(10_000):
        recorded.record("acme", KPIS, number / 1e3, "OK", None)
    figures = only(recorded)
    assert figures.count == 10_000
    assert times(figures).measured == SAMPLES_MAX
    assert times(figures).min_ms == pytest.approx(10_000 - SAMPLES_MAX)
    assert times(figures).max_ms == pytest.approx(9_999)


def test_what_is_older_than_the_window_is_in_no_figure() -> None:
    clock = Clock()
    recorded = Performance(clock)
    for _ in range(100):
        recorded.record("acme", KPIS, 9.0, "INTERNAL", None)
    clock.now += WINDOW_S
    recorded.record("acme", KPIS, 0.01, "OK", True)
    figures = only(recorded)
    assert (figures.count, figures.server_errors, times(figures).measured) == (1, 0, 1)
    assert times(figures).max_ms == pytest.approx(10)
    clock.now += WINDOW_S
    assert recorded.report("acme").operations == ()
    assert recorded.report("acme").grade is Grade.UNKNOWN


def test_a_tenant_sees_its_own_alone() -> None:
    recorded = Performance()
    recorded.record("acme", KPIS, 0.01, "OK", None)
    recorded.record("globex", SEARCH, 0.01, "OK", None)
    assert [each.operation for each in recorded.report("acme").operations] == ["KpiService/GetMetrics"]
    assert [each.operation for each in recorded.report("globex").operations] == ["SearchService/Search"]
    assert recorded.report("nobody").operations == ()


def test_operations_are_bounded_and_those_go_that_were_called_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "OPERATIONS_MAX", 3)
    recorded = Performance()
    for tenant in ("a", "b", "c", "a", "d"):
        recorded.record(tenant, KPIS, 0.01, "OK", None)
    assert [len(recorded.report(tenant).operations) for tenant in "abcd"] == [1, 0, 1, 1]


# --- grades ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "grade"),
    [
        (49.9, "excellent"),
        (50, "good"),
        (99.9, "good"),
        (100, "acceptable"),
        (149.9, "acceptable"),
        (150, "slow"),
        (299.9, "slow"),
        (300.1, "critical"),
    ],
)
def test_a_grade_is_by_p95(milliseconds: float, grade: str) -> None:
    assert only(recorded([milliseconds] * 30)).grade.word == grade


def test_a_report_is_as_good_as_its_worst_operation_which_comes_first() -> None:
    recorded = Performance()
    for method, seconds in ((KPIS, 0.01), (TRENDS, 0.2), (SEARCH, 0.08)):
        recorded.record("acme", method, seconds, "OK", None)
    recorded.record("acme", STATUS, 0.001, "PERMISSION_DENIED", None)
    report = recorded.report("acme")
    assert [each.grade.word for each in report.operations] == ["slow", "good", "excellent", "unknown"]
    assert report.grade is Grade.SLOW


# --- advice ----------------------------------------------------------------------------------------------------------


def test_there_is_none_where_all_is_well() -> None:
    performance = recorded([120.0] * 50)
    assert only(performance).advice == ""
    assert performance.report("acme").advice == []


def test_what_fails_is_told_by_its_commonest_code() -> None:
    performance = recorded([5.0] * 90)
    for code in ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "INTERNAL"):
        performance.record("acme", KPIS, 0.02, code, None)
    advice = only(performance).advice
    assert advice.startswith("3 of 93 calls failed, 2 of them with DEADLINE_EXCEEDED: ask for less")
    assert only(recorded([5.0], code="INTERNAL")).advice.endswith("its log has each under its request id")


def test_clients_errors_are_no_reason_for_advice() -> None:
    assert only(recorded([5.0] * 50, code="INVALID_ARGUMENT")).advice == ""


def test_answers_that_are_computed_every_time_are_told_of() -> None:
    advice = only(recorded([400.0] * 50, method=SEARCH, cache=False)).advice
    assert advice.startswith("100% of the answers had to be computed (p50 400 ms")
    assert "POST /v1/cache:warm" in advice


def test_times_far_apart_lead_to_the_slow_ones() -> None:
    advice = only(recorded([5.0] * 90 + [900.0] * 10, method=TRENDS)).advice
    assert advice.startswith("some calls take many times as long as most (p50 5 ms, p95 900 ms")
    assert "/performance/slow-queries" in advice


def test_calls_that_are_all_slow_are_told_what_makes_them_fast() -> None:
    assert "wider windows" in only(recorded([400.0] * 50, method=TRENDS)).advice


def test_few_calls_are_said_to_be_few() -> None:
    assert "of 3 calls only" in only(recorded([400.0] * 3)).advice


def test_what_fails_comes_before_what_is_slow() -> None:
    performance = recorded([900.0] * 30, method=TRENDS)
    for _ in range(30):
        performance.record("acme", KPIS, 0.001, "UNAVAILABLE", None)
    assert [each.partition(":")[0] for each in performance.report("acme").advice] == [
        "KpiService/GetMetrics",
        "KpiService/GetTrend",
    ]


def test_advice_names_only_what_there_is() -> None:
    methods = {rpc.method.name for rpc in contract.rpcs()}
    services = {rpc.service.name for rpc in contract.rpcs()}
    paths = {(each.verb.upper(), each.path) for rpc in contract.rpcs() for each in rpc.bindings}
    assert set(performance._EASE) <= methods
    assert set(performance._REPEAT) <= services
    told = " ".join([*performance._EASE.values(), *performance._REPEAT.values(), *performance._MEND.values()])
    named = re.findall(r"\b(GET|POST) (/[^\s;,)]*[^\s;,):.])", f"{told} {performance._SEE_STAGES}")
    assert len(named) > 5
    assert set(named) <= paths
    settings = re.findall(r"PENSTOCK_(\w+)", told)
    assert settings
    assert {name.lower() for name in settings} <= set(Settings.model_fields)
