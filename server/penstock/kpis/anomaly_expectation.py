"""What each window was to be expected to be, and how far values lie about it, by each of the methods.

All look at the past of a window only, except STL, which fits the whole series at once.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.tsa.seasonal import STL

from penstock.kpis.regular_series import FloatArray, Kind, Series, season_name, seasons

PAST_WINDOWS = 60  # that rolling statistics look back on
PAST_MIN = 10  # of them with a value, before a window is judged
CYCLES = 4  # seasons back whose windows of the same phase are looked at
SEASON_GAIN_MIN = 0.2  # a season is believed in when it has cut the past error by so much
MAD_TO_SD = 1.4826  # of a normal distribution
CONSTANT_SHARE = 0.01  # after a past that never varied, deviations are counted in hundredths of its level


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """One number a window; NaN where the past says nothing yet."""

    expected: FloatArray
    spread: FloatArray  # one standard deviation
    basis: str  # what it was expected from, as in "9.8 % was expected from …"
    believed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # where it is to be taken


def rolling(series: Series) -> Expectation:
    """Mean and standard deviation of the 60 windows before; of a rate weighted by trials: small windows say little."""
    weights = series.present.astype(np.float64)
    if series.kind is Kind.RATE and series.denominators is not None:
        weights = weights * np.nan_to_num(series.denominators)
    values = np.nan_to_num(series.values)
    centre = float(np.nanmedian(series.values)) if series.present.any() else 0.0  # keeps the squares below exact
    total = _past_sum(weights)
    enough = (_past_sum(series.present.astype(np.float64)) >= PAST_MIN) & (total > 0)
    safe = np.where(enough, total, 1.0)
    mean = _past_sum(weights * (values - centre)) / safe
    variance = np.maximum(_past_sum(weights * (values - centre) ** 2) / safe - mean**2, 0.0)
    variance[variance < 1e-12 * (mean + centre) ** 2] = 0.0  # what is left there is rounding
    expected = np.where(enough, mean + centre, np.nan)
    return Expectation(
        expected, _never_zero(np.sqrt(variance), expected), f"the mean of the {PAST_WINDOWS} windows before"
    )


def robust(series: Series) -> Expectation:
    """Median of the 60 windows before, and median absolute deviation from it as a standard deviation."""
    expected = _past_median(series.values)
    padded = np.concatenate((np.full(PAST_WINDOWS, np.nan), series.values))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, PAST_WINDOWS)[: len(series)]
    spread = np.full(len(series), np.nan)
    known = np.isfinite(expected)
    if known.any():
        spread[known] = MAD_TO_SD * np.nanmedian(np.abs(blocks[known] - expected[known, None]), axis=1)
    basis = f"the median of the {PAST_WINDOWS} windows before"
    return Expectation(expected, _never_zero(spread, expected), basis)


def decomposed(series: Series, period: int) -> Expectation:
    """Trend and season by STL (Cleveland et al. 1990), robust; spread is that of the remainder.

    The season is the same in every cycle: one that may change follows the anomalies. Gaps are interpolated for the fit.
    It fits all windows at once: what came later is known to it.
    """
    filled = np.asarray(pd.Series(series.values).interpolate(limit_direction="both"), np.float64)
    expected = _stl(filled, period, robust=True)
    if not np.isfinite(expected).all():  # where most remainders are exactly 0, the robust weights are 0 by 0
        expected = _stl(filled, period, robust=False)
    expected = series.bounded(expected)
    remainder = np.abs(series.values - expected)[series.present]
    spread = MAD_TO_SD * float(np.median(remainder))
    if spread < 1e-9 * float(np.abs(filled).max()):  # rounding
        spread = 0.0
    basis = f"trend and the same time of the {season_name(period, series.step_s)}"
    return Expectation(expected, _never_zero(np.full(len(series), spread), expected), basis)


def _stl(filled: FloatArray, period: int, *, robust: bool) -> FloatArray:
    always = 10 * len(filled) + 1  # a loess window so wide that it is a mean
    jump = max(1, period // 10)
    with np.errstate(invalid="ignore", divide="ignore"):
        fitted = STL(filled, period=period, seasonal=always, seasonal_deg=0, robust=robust, trend_jump=jump).fit()
    return np.asarray(fitted.trend + fitted.seasonal, np.float64)


def adaptive(series: Series) -> list[Expectation]:
    """The median of the 60 windows before; then, for each season, that of the last four windows at the same time in it.

    `believed` says where each is to be taken; of several the last. A season is believed in where it has served better:
    where its summed absolute error so far is at least a fifth smaller, over a whole season or more. The spread is left
    to the tail of past deviations.
    """
    unknown = np.full(len(series), np.nan)
    plain = _past_median(series.values, least=5)
    basis = f"the median of the {PAST_WINDOWS} windows before"
    found = [Expectation(plain, unknown, basis, np.ones(len(series), np.bool_))]
    nearest = plain
    for period in seasons(series.step_s, len(series), cycles_min=3):
        candidate = _same_phase(series.values, period)
        believed = _served_better(series.values, candidate, nearest, period)
        if believed.any():
            basis = f"the same time of the {season_name(period, series.step_s)}, {CYCLES} times back"
            found.append(Expectation(candidate, unknown, basis, believed))
            nearest = np.where(believed, candidate, nearest)
    return found


def _served_better(values: FloatArray, candidate: FloatArray, expected: FloatArray, period: int) -> NDArray[np.bool_]:
    both = np.isfinite(values) & np.isfinite(candidate) & np.isfinite(expected)
    both[: 2 * period] = False  # at one cycle of age it repeats accidents
    candidate_error = np.cumsum(np.where(both, np.abs(values - candidate), 0.0))
    error = np.cumsum(np.where(both, np.abs(values - expected), 0.0))
    better = (candidate_error < (1 - SEASON_GAIN_MIN) * error) & (np.cumsum(both) >= period)
    return np.concatenate(([False], better[:-1])) & np.isfinite(candidate)


def _same_phase(values: FloatArray, period: int) -> FloatArray:
    back = np.full((CYCLES, len(values)), np.nan)
    for cycle in range(CYCLES):
        shift = period * (cycle + 1)
        if shift < len(values):
            back[cycle, shift:] = values[:-shift]
    known = np.isfinite(back).any(axis=0)
    median = np.full(len(values), np.nan)
    if known.any():
        median[known] = np.nanmedian(back[:, known], axis=0)
    return median


def _past_sum(values: FloatArray) -> FloatArray:
    summed = pd.Series(values).rolling(PAST_WINDOWS, min_periods=1).sum().shift(1).fillna(0.0)
    return summed.to_numpy(np.float64)


def _past_median(values: FloatArray, *, least: int = PAST_MIN) -> FloatArray:
    median = pd.Series(values).rolling(PAST_WINDOWS, min_periods=least).median().shift(1)
    return median.to_numpy(np.float64)


def _never_zero(spread: FloatArray, expected: FloatArray) -> FloatArray:
    return np.where(spread > 0, spread, np.maximum(CONSTANT_SHARE * np.abs(expected), 1e-9))
