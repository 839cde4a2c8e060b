"""The detector behind AUTO: three views of each window, and how rare each is among those before.

- the point: how far the value is from its expectation;
- the level: how far the mean of the last 6 windows is from that of the 300 before them;
- the spread: how much the last 6 windows vary, as a logarithm, against what is usual.

Each is judged by its own past (`anomaly_tail`), so nothing is assumed of the distribution, and only by its past. The
evidence is their mean: a window is odd when it is odd in several ways at once, or in one beyond measure. On the 23
series of the Numenta benchmark that loadtest/data has, their mean makes 66 to 68 points, the point alone 54 to 57; with
12 windows in the place of 6 it is 63 to 65. They were chosen on these series, so others will make somewhat less.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from penstock.kpis.anomaly_chance import mean_share
from penstock.kpis.anomaly_expectation import PAST_WINDOWS, Expectation, adaptive
from penstock.kpis.anomaly_tail import EVIDENCE_MAX, evidence, news
from penstock.kpis.regular_series import FloatArray, Series

RECENT = 6  # windows; a tenth of PAST_WINDOWS
LONG = 5 * PAST_WINDOWS


@dataclass(frozen=True, slots=True, eq=False)
class Viewed:
    """A series as AUTO sees it."""

    expectation: (
        Expectation  # its spread: how far a value may be off before the point alone reaches the level asked for
    )
    seasonal: NDArray[np.bool_]  # where a season was believed in
    evidence: FloatArray  # -log10 of a probability, the mean of the views
    news: FloatArray  # evidence where it says more than the windows before did
    leading: NDArray[np.intp]  # which view says most: 0 the point, 1 the level, 2 the spread
    recent: FloatArray  # mean of the last RECENT windows; of their errors where a season is believed in
    usual: FloatArray  # the same of the LONG windows before them
    variation: FloatArray  # logarithm of how many times the usual the last RECENT windows vary


def viewed(series: Series, level: float) -> Viewed:
    """All of a series; `level` is the evidence from which on a window counts as an anomaly.

    Each expectation is judged by its own past deviations: those of before a season was known would hide what it shows.
    """
    share = mean_share(series, PAST_WINDOWS)
    rows: FloatArray | None = None
    seasonal = np.zeros(len(series), np.bool_)
    expectations = adaptive(series)
    basis = expectations[0].basis
    for expectation in expectations:
        off = (series.values - expectation.expected) * share
        own = _views(series.values if rows is None else off, off, level)
        columns = np.vstack((expectation.expected, own))
        if rows is None:
            rows = columns
        else:
            rows = np.where(expectation.believed, columns, rows)
            seasonal |= expectation.believed
            basis = expectation.basis if expectation.believed[-1] else basis
    assert rows is not None
    expected, reach, recent, usual, variation, *views = rows
    each = np.where(series.present, np.vstack(views), 0.0)
    found = np.minimum(each.mean(axis=0), EVIDENCE_MAX)
    return Viewed(
        Expectation(expected, reach, basis),
        seasonal,
        found,
        news(found, PAST_WINDOWS),
        each.argmax(axis=0),
        recent,
        usual,
        variation,
    )


def _views(values: FloatArray, off: FloatArray, level: float) -> FloatArray:
    """Rows: reach of the point, recent and usual level, variation, and the evidence of point, level and spread.

    Level and spread are those of `values`: the series, or what a season leaves unexplained of it.
    """
    row = pd.Series(values)
    recent = row.rolling(RECENT, min_periods=RECENT)
    mean = recent.mean()
    usual = row.rolling(LONG, min_periods=PAST_WINDOWS // 2).mean().shift(RECENT)
    tiny = 1e-9 * np.maximum.accumulate(np.nan_to_num(np.abs(values))) + 1e-12
    varied = np.log(recent.std() + tiny)
    usually = varied.rolling(LONG, min_periods=PAST_WINDOWS // 2).median().shift(RECENT)
    point, reach = evidence(np.abs(off), level=level)
    shift, _ = evidence(np.asarray((mean - usual).abs(), np.float64), level=level)
    spread, _ = evidence(np.asarray((varied - usually).abs(), np.float64), level=level)
    return np.vstack((reach, mean, usual, varied - usually, point, shift, spread))
