"""How far a deviation can be chance of counting: why small counts do not scream.

A conversion of 0 % says nothing when three people looked. So whatever a method thinks of a deviation, it counts no
more than what is left of it after asking: with the expected rate (or count), how likely is a result as far off, by
chance alone? Tails are exact: binomial for rates, Poisson for counts.
"""

import numpy as np
from scipy.stats import binom, norm, poisson

from penstock.kpis.regular_series import FloatArray, Kind, Series

P_MIN = 1e-300  # 37 standard deviations; smaller ones underflow


def standard_deviations(p: FloatArray) -> FloatArray:
    """Two-sided tail probabilities as the standard deviations of a normal distribution that have them."""
    clipped: FloatArray = norm.isf(np.clip(p, P_MIN, 1.0) / 2)
    return np.abs(clipped)


def chance_limit(series: Series, expected: FloatArray, window: int, sums_of: int) -> FloatArray:
    """The most standard deviations each window's deviation from `expected` can count; infinite where chance has no say.

    The expectation itself rests on the `window` windows before, and is drawn towards 1/2 (a count: upwards) by half an
    event (Jeffreys), so that no result is impossible after an expectation of exactly 0 or 1. A run of small windows may
    say what none of them can, so the last `sums_of` together are asked too, and the stronger answer counts. Means of
    few things (amounts with denominators) are limited by `mean_share` instead.
    """
    if series.kind not in (Kind.RATE, Kind.COUNT):
        return np.full(len(series), np.inf)
    trials = _trials(series)
    successes = np.nan_to_num(series.values) * trials
    basis = np.maximum(_before(trials, window), 1.0)
    rate = (series.bounded(np.nan_to_num(expected)) * basis + 0.5) / (
        basis + (1.0 if series.kind is Kind.RATE else 0.0)
    )
    alone = _tail(series.kind, successes, trials, rate)
    together = _tail(
        series.kind, _sum(successes, sums_of), _sum(trials, sums_of), _mean(rate * trials, trials, sums_of)
    )
    limit = standard_deviations(np.minimum(alone, together))
    return np.where(series.present & np.isfinite(expected), limit, 0.0)


def chance_bounds(series: Series, expected: FloatArray, z: float) -> tuple[FloatArray, FloatArray]:
    """Between which values chance alone leaves a window, at `z` standard deviations; the expectation itself elsewhere.

    Elsewhere: for amounts and plain values, where chance has no say.
    """
    p = float(norm.sf(z))
    trials = _trials(series)
    known = np.where(np.isfinite(expected), expected, 0.0)
    if series.kind is Kind.RATE:
        rate = np.clip(known, 0.0, 1.0)
        whole = np.maximum(trials, 1.0)
        return np.maximum(binom.ppf(p, whole, rate), 0.0) / whole, np.asarray(binom.isf(p, whole, rate) / whole)
    if series.kind is Kind.COUNT:
        mean = np.maximum(known, 0.0)
        return np.maximum(poisson.ppf(p, mean), 0.0), np.asarray(poisson.isf(p, mean))
    return expected, expected


def chance_of_run(series: Series, run: slice, expected: float) -> float:
    """The same for a run of windows taken together; infinite where chance has no say."""
    if series.kind not in (Kind.RATE, Kind.COUNT):
        return float("inf")
    trials = _trials(series)[run]
    successes = float(np.sum(np.nan_to_num(series.values[run]) * trials))
    total = float(np.sum(trials))
    rate = np.array([min(expected, 1.0) if series.kind is Kind.RATE else expected])
    p = _tail(series.kind, np.array([successes]), np.array([total]), rate)
    return float(standard_deviations(p)[0])


def mean_share(series: Series, window: int) -> FloatArray:
    """Factor for deviations of means that rest on fewer things than usual: the spread of a mean of n goes by 1/√n."""
    if series.kind in (Kind.RATE, Kind.COUNT) or series.denominators is None:
        return np.ones(len(series))
    trials = np.nan_to_num(series.denominators)
    usual = _before(trials, window) / np.maximum(_before((trials > 0).astype(np.float64), window), 1.0)
    return np.sqrt(np.minimum(1.0, np.divide(trials, usual, out=np.ones(len(series)), where=usual > 0)))


def beyond_by_chance(series: Series, level: float, *, below: bool) -> FloatArray:
    """How likely each window is as far below (or above) `level` as it is, were that its true value.

    0 where chance has no say: amounts and plain values are taken as they are.
    """
    values, trials = np.nan_to_num(series.values), _trials(series)
    if series.kind is Kind.RATE:
        successes, rate = np.round(values * trials), min(max(level, 0.0), 1.0)
        return np.asarray(binom.cdf(successes, trials, rate) if below else binom.sf(successes - 1, trials, rate))
    if series.kind is Kind.COUNT:
        mean = max(level, 0.0)
        return np.asarray(poisson.cdf(np.floor(values), mean) if below else poisson.sf(np.ceil(values) - 1, mean))
    return np.zeros(len(series))


def _tail(kind: Kind, successes: FloatArray, trials: FloatArray, rate: FloatArray) -> FloatArray:
    """Two-sided, as twice the smaller tail."""
    if kind is Kind.RATE:
        whole, success = np.round(trials), np.round(successes)
        lower, upper = binom.cdf(success, whole, rate), binom.sf(success - 1, whole, rate)
    else:
        mean = rate * trials
        lower, upper = poisson.cdf(np.floor(successes), mean), poisson.sf(np.ceil(successes) - 1, mean)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(lower, upper)))


def _trials(series: Series) -> FloatArray:
    """Trials of a rate; of a count each window with a value is one."""
    if series.kind is Kind.RATE and series.denominators is not None:
        return np.where(series.present, np.nan_to_num(series.denominators), 0.0)
    return series.present.astype(np.float64)


def _sum(values: FloatArray, window: int) -> FloatArray:
    """Over each window and those before it, `window` in all."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    return total[ends] - total[np.maximum(ends - window, 0)]


def _before(values: FloatArray, window: int) -> FloatArray:
    """Over the `window` windows before each."""
    return _sum(values, window + 1) - values


def _mean(weighted: FloatArray, weights: FloatArray, window: int) -> FloatArray:
    total = _sum(weights, window)
    return np.divide(_sum(weighted, window), total, out=np.zeros(len(total)), where=total > 0)
