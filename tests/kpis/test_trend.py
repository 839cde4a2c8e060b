"""A trend is called one only where chance does not explain it."""

import math
import random

import pytest

from penstock.kpis.trend import Course, Trend, mann_kendall


@pytest.mark.parametrize("size", [5, 12, 60, 1_500])
def test_finds_what_rises_and_what_falls(size: int) -> None:
    rising = [math.sqrt(i) for i in range(size)]
    assert mann_kendall(rising).course is Course.INCREASING
    assert mann_kendall(rising[::-1]).course is Course.DECREASING


def test_finds_a_trend_under_noise_and_ties() -> None:
    noise = random.Random(7)
    series = [round(i / 20 + noise.gauss(0, 1)) for i in range(120)]
    assert len(set(series)) < len(series)
    assert mann_kendall(series).course is Course.INCREASING


def test_noise_is_called_a_trend_as_often_as_the_level_allows() -> None:
    noise = random.Random(1)
    false_alarms = sum(
        mann_kendall([noise.random() for _ in range(30)]).course is not Course.STABLE for _ in range(500)
    )
    assert 10 <= false_alarms <= 45  # 25 expected at the 5 % level


def test_the_last_two_points_alone_are_no_trend() -> None:
    assert mann_kendall([5, 5, 5, 5, 5, 5, 5, 1, 9]).course is Course.STABLE


def test_a_constant_series_is_stable_for_certain() -> None:
    assert mann_kendall([0.25] * 10) == Trend(Course.STABLE, 1.0)


@pytest.mark.parametrize("series", [[], [1.0], [1.0, 2.0, 3.0]])
def test_too_few_points_have_no_p_value(series: list[float]) -> None:
    assert mann_kendall(series) == Trend(Course.STABLE, None)


def test_agrees_with_the_published_formula() -> None:
    """S and its variance with ties, as in Gilbert (1987), section 16.4.4; without continuity correction."""
    series = [10, 15, 14, 20, 20, 18, 25, 25, 25, 30, 28, 33]
    pairs = [(a, b) for i, a in enumerate(series) for b in series[i + 1 :]]
    s = sum((b > a) - (b < a) for a, b in pairs)
    n = len(series)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in (2, 3))
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    two_sided = math.erfc(abs(s) / math.sqrt(variance) / math.sqrt(2))
    found = mann_kendall(series)
    assert found.course is Course.INCREASING
    assert found.p_value == pytest.approx(two_sided, rel=1e-6)
