"""What is an anomaly, what is none, and what is said about it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.errors import InvalidInput
from penstock.kpis.anomalies import Alert, Anomalies, Method, Status, detect, threshold_of
from penstock.kpis.regular_series import FloatArray, Kind, Series

HOUR = 3_600.0
PAST_ONLY = (Method.ZSCORE, Method.MAD, Method.AUTO)


def noise(windows: int, *, level: float = 100.0, spread: float = 5.0, seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).normal(level, spread, windows)


def rate(windows: int, trials: int, *, p: float = 0.1, seed: int = 2) -> tuple[FloatArray, FloatArray]:
    drawn = np.random.default_rng(seed).binomial(trials, p, windows).astype(np.float64)
    return drawn, np.full(windows, float(trials))


def odd(found: Anomalies) -> list[int]:
    return [place for place, window in enumerate(found.windows) if window.status is Status.ANOMALY]


@pytest.mark.parametrize("method", PAST_ONLY)
def test_a_spike_is_found_and_explained(method: Method) -> None:
    values = noise(400)
    values[350] = 180.0
    found = detect(Series(values, HOUR), method, 0.0)
    assert max(range(400), key=lambda place: abs(found.windows[place].score)) == 350
    assert found.windows[350].status is Status.ANOMALY
    assert len(odd(found)) <= 5
    window = found.windows[350]
    assert window.score > 4
    assert window.value is not None
    assert window.upper is not None
    assert window.value > window.upper
    assert "180.00 where " in window.why
    assert "was expected from the m" in window.why
    assert f"z = {window.score:.1f}" in window.why


@pytest.mark.parametrize("method", list(Method))
def test_quiet_noise_stays_quiet(method: Method) -> None:
    found = detect(Series(noise(720), HOUR), method)
    assert len(odd(found)) <= 720 * 0.02
    assert found.method is not Method.AUTO


@pytest.mark.parametrize("method", PAST_ONLY)
@settings(max_examples=15)
@given(cut=st.integers(80, 299), seed=st.integers(0, 100))
def test_what_came_later_changes_nothing(method: Method, cut: int, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 10.0, 300)
    whole, part = detect(Series(values, HOUR), method), detect(Series(values[:cut], HOUR), method)
    before = [window.score for window in whole.windows[:cut]]
    assert [window.score for window in part.windows] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("method", [Method.ZSCORE, Method.MAD, Method.AUTO, Method.CHANGE_POINT, Method.SEASONAL])
def test_few_viewers_do_not_scream(method: Method) -> None:
    buyers, viewers = rate(300, 500)
    buyers[250], viewers[250] = 0.0, 3.0
    few = detect(Series.rate(buyers, viewers, HOUR), method).windows[250]
    assert few.status is Status.NORMAL
    buyers[250], viewers[250] = 0.0, 500.0
    many = detect(Series.rate(buyers, viewers, HOUR), method)
    if method is not Method.CHANGE_POINT:
        assert many.windows[250].status is Status.ANOMALY
        assert "0.0 % of 500 where" in many.windows[250].why


def test_a_window_is_judged_by_the_60_before_it_and_not_by_itself() -> None:
    values = noise(200)
    for method, centre in ((Method.ZSCORE, np.mean), (Method.MAD, np.median), (Method.AUTO, np.median)):
        window = detect(Series(values, HOUR), method).windows[150]
        assert window.expected == pytest.approx(float(centre(values[90:150])))


def test_chance_is_named_when_it_is_the_reason() -> None:
    buyers, viewers = rate(300, 5_000)
    buyers[250], viewers[250] = 0.0, 3.0
    window = detect(Series.rate(buyers, viewers, HOUR), Method.ZSCORE).windows[250]
    assert "0.0 % of 3 where 10" in window.why
    assert "chance alone" in window.why
    assert window.lower == 0.0


def test_small_rates_all_along_are_not_flagged_for_their_noise() -> None:
    buyers, viewers = rate(600, 8)
    for method in (Method.ZSCORE, Method.MAD, Method.AUTO):
        assert len(odd(detect(Series.rate(buyers, viewers, HOUR), method))) <= 12


def test_a_count_of_one_after_none_is_no_anomaly_and_forty_are() -> None:
    counts = np.random.default_rng(3).poisson(0.3, 300).astype(np.float64)
    counts[250], counts[280] = 1.0, 40.0
    for method in PAST_ONLY:
        found = detect(Series(counts, HOUR, Kind.COUNT), method)
        assert found.windows[250].status is Status.NORMAL, method
        assert found.windows[280].status is Status.ANOMALY, method


def test_a_mean_of_few_orders_counts_less() -> None:
    values, orders = noise(200), np.full(200, 100.0)
    values[150] = 130.0
    many = detect(Series(values, HOUR, Kind.AMOUNT, orders), Method.MAD).windows[150]
    orders[150] = 1.0
    few = detect(Series(values, HOUR, Kind.AMOUNT, orders), Method.MAD).windows[150]
    assert few.score == pytest.approx(many.score / 10)
    assert few.status is Status.NORMAL
    assert many.status is Status.ANOMALY


def test_an_alert_level_counts_with_its_denominators() -> None:
    buyers, viewers = rate(100, 1_000, p=0.02)
    viewers[90], buyers[90] = 4.0, 0.0
    found = detect(Series.rate(buyers, viewers, HOUR), Method.MAD, alert=Alert(0.05))
    assert found.windows[90].status is Status.NORMAL
    assert found.windows[80].status is Status.ANOMALY
    assert "of 1,000 is below the alert level of 5.0 %" in found.windows[80].why
    above = detect(Series(noise(50), HOUR), Method.MAD, alert=Alert(90.0, below=False))
    assert "above the alert level of 90.00" in above.windows[49].why
    assert odd(detect(Series.rate(buyers, viewers, HOUR), Method.MAD, alert=Alert(0.0))) == odd(
        detect(Series.rate(buyers, viewers, HOUR), Method.MAD)
    )


def test_auto_believes_in_a_season_that_helps() -> None:
    hours = np.arange(24 * 21)
    values = 100 + 60 * np.sin(2 * np.pi * hours / 24) + noise(len(hours), level=0.0, spread=3.0)
    values[-30] -= 80.0
    found = detect(Series(values, HOUR), Method.AUTO)
    assert found.method is Method.SEASONAL
    assert "same time of the day" in found.method_reason
    assert found.windows[-30].score < -threshold_of(0.5)
    assert found.windows[-30].expected == pytest.approx(values[-30] + 80, abs=12)
    flat = detect(Series(noise(500), HOUR), Method.AUTO)
    assert flat.method is Method.MAD
    assert "no season" in flat.method_reason


def test_auto_tells_news_from_what_goes_on() -> None:
    values = noise(500)
    values[400:420] += 60.0
    windows = detect(Series(values, HOUR), Method.AUTO).windows
    assert windows[400].news == windows[400].score > 2.75
    assert sum(window.news != 0 and abs(window.news) > 2.75 for window in windows[400:420]) < 5
    assert sum(window.status is Status.ANOMALY for window in windows[400:420]) >= 5


def test_stl_finds_what_the_season_hides() -> None:
    hours = np.arange(24 * 14)
    values = 100 + 60 * np.sin(2 * np.pi * hours / 24) + noise(len(hours), level=0.0, spread=2.0)
    values[200] = 100.0 + 60 * np.sin(2 * np.pi * 200 / 24) - 40.0
    found = detect(Series(values, HOUR), Method.SEASONAL)
    assert found.method is Method.SEASONAL
    assert 200 in odd(found)
    none = detect(Series(noise(40), HOUR), Method.SEASONAL)
    assert none.method is Method.MAD
    assert "three cycles" in none.method_reason


def test_a_change_of_level_is_dated() -> None:
    values = noise(200)
    values[120:] += 30.0
    found = detect(Series(values, HOUR), Method.CHANGE_POINT)
    assert odd(found) == [120]
    assert found.windows[120].score > 5
    assert found.windows[130].expected == pytest.approx(130, abs=2)


def test_higher_sensitivity_finds_no_less() -> None:
    values = np.random.default_rng(5).standard_t(3, 600)
    for method in Method:
        counts = [detect(Series(values, HOUR), method, level).anomalies for level in (0.0, 0.5, 1.0)]
        assert counts == sorted(counts)
        assert counts[0] < counts[2] or method is Method.CHANGE_POINT
    with pytest.raises(InvalidInput, match="sensitivity"):
        detect(Series(values, HOUR), Method.AUTO, 1.5)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "there are no windows"),
        ([np.nan] * 100, "no window has a value"),
        ([5.0], "1 windows have a value"),
        ([5.0, np.nan, 6.0], "2 windows have a value"),
    ],
)
def test_too_little_is_an_answer_with_a_reason(method: Method, values: Sequence[float], said: str) -> None:
    found = detect(Series(np.array(values, np.float64), HOUR), method)
    assert said in found.reason
    assert len(found.windows) == len(values)
    assert found.anomalies == 0
    assert all(window.why for window in found.windows)


@pytest.mark.parametrize("method", list(Method))
def test_a_constant_series_is_normal_until_it_is_not(method: Method) -> None:
    values = np.full(300, 7.0)
    assert odd(detect(Series(values, HOUR), method)) == []
    values[200] = 70.0
    if method is not Method.CHANGE_POINT:
        assert 200 in odd(detect(Series(values, HOUR), method))


@pytest.mark.parametrize("method", list(Method))
@settings(max_examples=12)
@given(
    values=arrays(
        np.float64, st.integers(0, 130), elements=st.one_of(st.just(float("nan")), st.floats(-1e12, 1e12), st.just(0.0))
    ),
    step_s=st.sampled_from([60.0, HOUR, 86_400.0]),
)
@example(values=np.array([1.0, 2.3e-309, 0.0, 0.0]), step_s=60.0)  # noise by which nothing can be divided
def test_no_number_is_ever_nan_or_infinite(method: Method, values: FloatArray, step_s: float) -> None:
    kinds = [Series(values, step_s), Series(np.abs(np.round(values)), step_s, Kind.COUNT)]
    share = np.clip(np.abs(np.nan_to_num(values)), 0, 50).round()
    kinds.append(Series.rate(np.minimum(share, 20), np.where(share < 3, 0.0, np.maximum(share, 20)), step_s))
    for series in kinds:
        found = detect(series, method, alert=Alert(0.05))
        assert len(found.windows) == len(series)
        for window, value in zip(found.windows, series.values, strict=True):
            numbers = [window.expected, window.lower, window.upper, window.score, window.news, window.value]
            assert all(number is None or np.isfinite(number) for number in numbers)
            assert (window.value is None) == bool(np.isnan(value))


def test_limit_returns_the_newest_judged_by_all() -> None:
    series = Series(noise(300), HOUR)
    assert detect(series, limit=60).windows == detect(series).windows[-60:]
