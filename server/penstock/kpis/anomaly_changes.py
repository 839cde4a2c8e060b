"""Where the level of a series changed: an optimal segmentation by PELT (Killick et al. 2012), from ruptures.

It sees the whole series at once: a change is dated by what came after it. A window that begins a segment is
judged by the step between the two segments' levels.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from ruptures import KernelCPD

from penstock.kpis.anomaly_chance import chance_of_run
from penstock.kpis.anomaly_expectation import MAD_TO_SD, Expectation
from penstock.kpis.regular_series import FloatArray, Kind, Series

SEGMENT_MIN = 5  # windows; shorter ones are spikes, which other methods find
PENALTY = (
    3.0  # times log n times the noise's variance: one and a half times BIC's, because windows are rarely independent
)


def segmented(series: Series) -> tuple[Expectation, FloatArray]:
    """What each window was to be expected from the segment it continues, and its step in standard deviations.

    The step is 0 except where a segment begins; there the expectation is the level of the segment before. Steps are
    measured in standard errors of the mean of a segment's first windows, and count no more than chance in the whole
    segment leaves of them.
    """
    place = np.flatnonzero(series.present)
    values = series.values[place]
    noise = _noise(values)
    expected = np.full(len(series), np.nan)
    step = np.zeros(len(series))
    bounds = [0, *_breaks(values / noise), len(values)]
    before: float | None = None
    for start, end in pairwise(bounds):
        level = _level(series, place[start:end])
        expected[place[start:end]] = level
        if before is not None:
            size = abs(level - before) / noise * np.sqrt(min(end - start, SEGMENT_MIN))
            limit = chance_of_run(series, slice(place[start], place[end - 1] + 1), before)
            step[place[start]] = np.copysign(min(size, limit), level - before)
            expected[place[start]] = before
        before = level
    return Expectation(expected, np.full(len(series), noise), "the level that held before"), step


def _level(series: Series, place: NDArray[np.intp]) -> float:
    """Mean of some windows; of a rate all successes by all trials."""
    if series.kind is Kind.RATE and series.denominators is not None:
        return float(np.average(series.values[place], weights=series.denominators[place]))
    return float(np.mean(series.values[place])) if len(place) else 0.0


def _breaks(values: FloatArray) -> list[int]:
    if len(values) < 2 * SEGMENT_MIN or np.ptp(values) == 0:
        return []
    found = KernelCPD(kernel="linear", min_size=SEGMENT_MIN).fit(values).predict(pen=PENALTY * np.log(len(values)))
    return [int(end) for end in found[:-1]]


def _noise(values: FloatArray) -> float:
    """Standard deviation of one window, from differences of neighbours, so that changes of level do not count."""
    if not len(values):
        return 1e-9
    differences = np.diff(values)
    least = float(np.finfo(np.float64).eps * np.max(np.abs(values)))  # less is how numbers are kept, not noise
    for noise in (MAD_TO_SD * np.median(np.abs(differences)), np.std(differences)) if len(differences) else ():
        if noise / np.sqrt(2) > least:
            return float(noise / np.sqrt(2))
    return max(0.01 * float(np.mean(np.abs(values))), 1e-9)
