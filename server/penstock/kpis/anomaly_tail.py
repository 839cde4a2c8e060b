"""How rare a deviation is among those before it, however they are distributed.

Web traffic has heavy tails: three standard deviations are an everyday thing in one metric and never happen in another.
So a deviation is judged by its rank among the past ones, and beyond the largest of them by an extreme-value tail
(peaks over threshold, as in Siffer et al., "Anomaly detection in streams with extreme value theory", KDD 2017). The
excess over the threshold is exponential with a mean learned from k peaks; with a vague gamma prior on its rate the
predictive tail is (1 + excess ÷ (k × mean))^-k: the fewer peaks were seen, the heavier.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from penstock.kpis.regular_series import FloatArray

PEAKS_SHARE = 0.005  # of the past that makes up the tail
PEAKS_MIN = 5
PAST_MIN = 30  # deviations, before any is judged
EVIDENCE_MAX = 300.0


def evidence(deviations: FloatArray, *, level: float) -> tuple[FloatArray, FloatArray]:
    """-log10 of each deviation's tail probability among those before it, and the deviation that would reach `level`.

    `deviations` are magnitudes; NaN is passed over. Where the past is too short, evidence is 0 and the second NaN.
    """
    found = np.zeros(len(deviations))
    reach = np.full(len(deviations), np.nan)
    past: list[float] = []
    for place, deviation in enumerate(deviations.tolist()):
        if deviation != deviation:
            continue
        if len(past) >= PAST_MIN:
            found[place], reach[place] = _judged(past, deviation, level)
        insort(past, deviation)
    return found, reach


def news(evidence_: FloatArray, half_life: int) -> FloatArray:
    """Evidence that says more than the windows before already did, 0 elsewhere.

    What was said fades with `half_life` windows. An incident is news when it begins and when it gets worse; alerts that
    follow this do not repeat themselves.
    """
    fresh = np.zeros(len(evidence_))
    fade = 0.5 ** (1 / half_life)
    said = 0.0
    for place, found in enumerate(np.minimum(evidence_, SAID_MAX).tolist()):
        if found > said:
            fresh[place] = evidence_[place]
        said = max(said * fade, found)
    return fresh


SAID_MAX = 6.0  # one in a million: beyond it no event drowns the next for longer


def _judged(past: Sequence[float], deviation: float, level: float) -> tuple[float, float]:
    count = len(past)
    peaks = max(PEAKS_MIN, int(PEAKS_SHARE * count))
    threshold = past[count - peaks - 1]
    excess = max(sum(past[count - peaks :]) / peaks - threshold, 1e-9 * abs(threshold), 1e-300)
    if level > -np.log10(peaks / count):
        reach = threshold + peaks * excess * ((10**level * peaks / count) ** (1 / peaks) - 1)
    else:
        reach = past[max(count - int(10**-level * count) - 1, 0)]
    if deviation <= threshold:
        rank = count - bisect_left(past, deviation)
        return max(0.0, -float(np.log10((rank + 1) / (count + 1)))), reach
    beyond = (deviation - threshold) / (peaks * excess)
    return min(EVIDENCE_MAX, -float(np.log10(peaks / count)) + peaks * float(np.log10(1 + beyond))), reach
