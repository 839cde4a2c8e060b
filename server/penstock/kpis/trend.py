"""Where a series goes: the Mann-Kendall test, which asks nothing of the series' distribution.

Its statistic is Kendall's tau between the values and their order (Mann 1945; Kendall 1975), so SciPy's does it, exact
for short series and with the correction for ties otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SIGNIFICANCE = 0.05
POINTS_MIN = 4  # of three points in a row even the clearest order is chance once in three times


class Course(StrEnum):
    """Where a series goes."""

    INCREASING = "increasing"
    DECREASING = "decreasing"
    STABLE = "stable"


@dataclass(frozen=True, slots=True)
class Trend:
    """The verdict over a series."""

    course: Course
    p_value: float | None  # two-sided; None with fewer than POINTS_MIN points


def mann_kendall(series: Sequence[float]) -> Trend:
    """The trend of `series`, oldest first, at the 5 % level."""
    if len(series) < POINTS_MIN:
        return Trend(Course.STABLE, None)
    if min(series) == max(series):
        return Trend(Course.STABLE, 1.0)  # all ties: tau is 0 by 0, and nothing speaks for a trend
    # Here, because not every server is asked for trends, and the import takes 0.6 s of CPU.
    from scipy.stats import kendalltau

    tau, p_value = kendalltau(range(len(series)), series)
    if p_value >= SIGNIFICANCE:
        return Trend(Course.STABLE, float(p_value))
    return Trend(Course.INCREASING if tau > 0 else Course.DECREASING, float(p_value))
