"""What is forecast, with what intervals, by what, and what is said when there is little to go by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.errors import InvalidInput
from penstock.kpis.forecasts import Forecast, Outlook, Point, forecast, outlook, smape
from penstock.kpis.regular_series import FloatArray, Kind, Series

HOUR = 3_600.0


def shop(days: int, *, seed: int = 1) -> FloatArray:
    """Hourly counts with a day, a quiet Sunday and noise."""
    hours = np.arange(24 * days)
    level = 200 * (1 + 0.7 * np.sin(2 * np.pi * hours / 24)) * np.where(hours // 24 % 7 == 6, 0.5, 1.0)
    return np.random.default_rng(seed).poisson(level).astype(np.float64)


def values(ahead: Forecast) -> FloatArray:
    return np.array([point.value for point in ahead.points])


def test_a_shops_week_is_forecast_better_than_by_repeating_yesterday() -> None:
    counts = shop(36)
    ahead = forecast(Series(counts[:-48], HOUR, Kind.COUNT), 48)
    assert np.mean(np.abs(values(ahead) - counts[-48:])) < 25
    assert ahead.reason == ""
    assert ahead.data_points == len(counts) - 48
    assert ahead.backtest is not None
    assert ahead.backtest.mase is not None
    assert ahead.backtest.naive_mase is not None
    assert ahead.backtest.mase < 0.8 * ahead.backtest.naive_mase
    assert ahead.backtest.season_length == 24
    assert ahead.backtest.windows == 144
    assert 0.7 <= ahead.backtest.coverage_80 <= ahead.backtest.coverage_95 <= 1
    inside = [point.lower_95 <= came <= point.upper_95 for point, came in zip(ahead.points, counts[-48:], strict=True)]
    assert np.mean(inside) > 0.8


def test_a_trend_is_followed_and_named() -> None:
    rising = Series(np.arange(120.0) + np.random.default_rng(2).normal(0, 1, 120), HOUR)
    said = outlook(forecast(rising, 24))
    assert said is not None
    assert said.direction == "increasing"
    assert said.change_a_window == pytest.approx(1.0, abs=0.3)
    assert said.lower < said.next_value < said.upper
    falling = outlook(forecast(Series(-rising.values, HOUR), 24))
    assert falling is not None
    assert falling.direction == "decreasing"
    flat = outlook(forecast(Series(np.random.default_rng(3).normal(5, 1, 120), HOUR), 24))
    assert flat is not None
    assert flat.direction == "stable"


def test_an_outlook_is_plain_arithmetic() -> None:
    points = (Point(1.0, 0.5, 1.5, 0.0, 2.0), Point(2.0, 1.6, 2.4, 1.0, 3.0))
    assert outlook(Forecast(points, "naive", None, 9, "")) == Outlook(1.0, 0.0, 2.0, 1.0, "increasing")
    assert outlook(Forecast((), "none", None, 0, "nothing")) is None


@pytest.mark.parametrize(
    ("given_", "points", "method", "said"),
    [
        ([], 0, "none", "0 windows have a value"),
        ([np.nan] * 50, 0, "none", "0 windows have a value"),
        ([3.0], 0, "none", "1 windows have a value"),
        ([3.0, np.nan, 4.0], 0, "none", "2 windows have a value"),
        ([3.0, 4.0, 5.0], 6, "naive", "too few to choose"),
        ([3.0] * 500, 6, "naive", "the same value"),
        ([0.0] * 500, 6, "naive", "the same value"),
    ],
)
def test_little_to_go_by_is_an_answer_with_a_reason(given_: list[float], points: int, method: str, said: str) -> None:
    ahead = forecast(Series(np.array(given_, np.float64), HOUR, Kind.AMOUNT), 6)
    assert (len(ahead.points), ahead.method, ahead.backtest) == (points, method, None)
    assert said in ahead.reason


def test_short_series_say_that_they_have_no_season() -> None:
    ahead = forecast(Series(np.random.default_rng(4).normal(10, 1, 40), HOUR), 12)
    assert "no season" in ahead.reason
    assert ahead.backtest is not None
    assert ahead.backtest.season_length == 1


@settings(max_examples=20)
@given(
    numbers=arrays(
        np.float64, st.integers(0, 80), elements=st.one_of(st.just(float("nan")), st.floats(0, 1e9), st.just(0.0))
    ),
    horizon=st.integers(1, 60),
    step_s=st.sampled_from([HOUR, 6 * HOUR, 86_400.0]),
)
def test_forecasts_are_finite_ordered_and_possible(numbers: FloatArray, horizon: int, step_s: float) -> None:
    trials = np.round(np.clip(np.nan_to_num(numbers), 0, 100))
    for series in (
        Series(numbers, step_s, Kind.AMOUNT),
        Series(np.round(numbers), step_s, Kind.COUNT),
        Series.rate(np.round(trials / 3), trials, step_s),
    ):
        ahead = forecast(series, horizon)
        assert len(ahead.points) in (0, horizon)
        assert bool(ahead.points) or bool(ahead.reason)
        for point in ahead.points:
            row = (point.lower_95, point.lower_80, point.value, point.upper_80, point.upper_95)
            assert np.isfinite(row).all()
            assert list(row) == sorted(row)
            assert row[0] >= 0
            assert series.kind is not Kind.RATE or row[-1] <= 1


def test_gaps_are_bridged() -> None:
    counts = shop(21)
    counts[100:110] = np.nan
    counts[-3:] = np.nan
    ahead = forecast(Series(counts, HOUR, Kind.COUNT), 24)
    assert len(ahead.points) == 24
    assert ahead.data_points == len(counts) - 13


def test_horizons_have_bounds() -> None:
    for horizon in (0, 1_001):
        with pytest.raises(InvalidInput, match="horizon"):
            forecast(Series(shop(3), HOUR), horizon)
    assert len(forecast(Series(shop(3), HOUR, Kind.COUNT), 1_000).points) == 1_000


def test_smape_of_nothing_is_nothing() -> None:
    assert smape(np.zeros(3), np.zeros(3)) is None
    assert smape(np.array([1.0, 0.0]), np.array([3.0, 0.0])) == pytest.approx(50.0)
