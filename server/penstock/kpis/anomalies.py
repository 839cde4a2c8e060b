"""Which windows of a metric are out of the ordinary, by how much, and why.

A score is a signed number of standard deviations: that of the window, or, where a method works with tail
probabilities, of the normal distribution that has the same tail. A window is an anomaly from a threshold on that the
sensitivity sets, or when it is beyond the alert level given. Nothing here reads, writes or knows a clock.
"""

from dataclasses import dataclass
from enum import StrEnum

from penstock.errors import invalid_field
from penstock.kpis.regular_series import Series

SENSITIVITY_DEFAULT = 0.5


class Method(StrEnum):
    """How windows are judged."""

    AUTO = "auto"
    ZSCORE = "zscore"
    MAD = "mad"
    SEASONAL = "seasonal"
    CHANGE_POINT = "change_point"


class Status(StrEnum):
    """What became of a window."""

    NORMAL = "normal"
    ANOMALY = "anomaly"


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """One window. Absent numbers are None, never NaN."""

    value: float | None
    expected: float | None
    lower: float | None  # from here …
    upper: float | None  # … to here a value is normal
    score: float  # in standard deviations, signed
    news: float  # the score where it says more than the windows before it, else 0: for alerts without repetition
    status: Status
    why: str


@dataclass(frozen=True, slots=True)
class Anomalies:
    """The windows of a series, judged."""

    windows: tuple[JudgedWindow, ...]
    method: Method  # never AUTO
    method_reason: str
    reason: str  # why no window could be judged; empty otherwise
    threshold: float  # score, without its sign, from which on a window is an anomaly

    @property
    def anomalies(self) -> int:
        """How many windows are anomalies."""
        return sum(window.status is Status.ANOMALY for window in self.windows)


@dataclass(frozen=True, slots=True)
class Alert:
    """A level that is an anomaly to be beyond, whatever was expected."""

    level: float
    below: bool = True  # which side of it is bad


def threshold_of(sensitivity: float) -> float:
    """The score from which on a window is an anomaly: 4 standard deviations at 0, 2.75 at 0.5, 1.5 at 1."""
    if not 0 <= sensitivity <= 1:
        raise invalid_field("sensitivity", "must be from 0 to 1")
    return 4.0 - 2.5 * sensitivity


def detect(
    series: Series,
    method: Method = Method.AUTO,
    sensitivity: float = SENSITIVITY_DEFAULT,
    *,
    alert: Alert | None = None,
    limit: int | None = None,
) -> Anomalies:
    """Judges the windows of `series`, of which the newest `limit` are returned; all of it serves as their past.

    ZSCORE, MAD and AUTO look at nothing that came after a window; SEASONAL and CHANGE_POINT fit the whole series. AUTO
    wants 60 windows with a value, and hundreds to be sharp. Raises InvalidInput on a sensitivity outside [0, 1].
    """
    threshold = threshold_of(sensitivity)
    # Here, because only the worker judges: SciPy and statsmodels would take the server 0.7 s of CPU at its start.
    from penstock.kpis.anomaly_judgement import judge

    return judge(series, method, threshold, alert, limit)
