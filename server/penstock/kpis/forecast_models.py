"""The forecasting models, all of statsforecast's, and which of them a series is long enough for."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from statsforecast.models import MSTL, AutoETS, DynamicOptimizedTheta, Naive, SeasonalNaive

from penstock.kpis.forecast_backtest import PLAIN_MIN, Candidate
from penstock.kpis.regular_series import FloatArray, season_name


def candidates(periods: tuple[int, ...], step_s: float) -> tuple[Candidate, ...]:
    """The naive ones first, then exponential smoothing and Theta, alone and under a decomposition by season.

    `periods` are the seasons' lengths in windows, shortest first.
    """
    plain = (
        Candidate("naive", _of(lambda: Naive()), 1),
        Candidate("ETS", _of(lambda: AutoETS(model=_SMOOTHING)), PLAIN_MIN),
        Candidate("theta", _of(lambda: DynamicOptimizedTheta(season_length=1)), PLAIN_MIN),
    )
    if not periods:
        return plain
    # Where there is a season, models without one only take time.
    return (plain[0], *(each for period in periods for each in _seasonal(periods, period, step_s)))


_SMOOTHING = (
    "AAN"  # additive errors and trend, damped or not by AICc, no season; others were no better on M4 and took longer
)


def _seasonal(periods: tuple[int, ...], longest: int, step_s: float) -> tuple[Candidate, Candidate]:
    """The season's naive forecast, and MSTL with all seasons up to it."""
    within = [period for period in periods if period <= longest]
    names = " and ".join(season_name(period, step_s) for period in within)
    return (
        Candidate(f"seasonal naive ({season_name(longest, step_s)})", _of(lambda: SeasonalNaive(longest)), longest),
        Candidate(f"MSTL ({names}) with ETS", _of(lambda: _mstl(within)), 2 * longest + 1),
    )


def _mstl(within: list[int]) -> MSTL:
    # Loess at every 16th window, interpolated between, takes a fifth of the time (90 ms for 900
    # hours, else 440) and is no worse on M4.
    jumps: Mapping[str, int] = {"seasonal_jump": 2, "trend_jump": 16, "low_pass_jump": 12}
    return MSTL(within, trend_forecaster=AutoETS(model=_SMOOTHING), stl_kwargs=dict(jumps))


def _of(made: Callable[[], object]) -> Callable[[FloatArray, int], FloatArray]:
    def ahead(past: FloatArray, horizon: int) -> FloatArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: the backtest tells whether the result is any good
            model = made()
            return np.asarray(model.forecast(y=past, h=horizon)["mean"], np.float64)  # type: ignore[attr-defined]

    return ahead
