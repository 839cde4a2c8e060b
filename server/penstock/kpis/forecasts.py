"""The next windows of a metric, with intervals, and how good such forecasts were on its past.

The forecast is a mean of statsforecast's models, each weighted by how well it did at three origins in the past. Nothing
here reads, writes or knows a clock.
"""

from dataclasses import dataclass

import numpy as np

from penstock.errors import invalid_field
from penstock.kpis.forecast_backtest import (
    ORIGINS,
    ORIGINS_MIN,
    PLAIN_MIN,
    Candidate,
    Trial,
    coverage,
    forecast_by,
    half_widths,
    tried,
    weights,
)
from penstock.kpis.regular_series import FloatArray, Series, seasons

PAST_MIN = 3  # windows with a value, for any forecast
PAST_MAX = 2_000  # windows looked at, the newest: older ones cost time and tell little
HORIZON_MAX = 1_000
LEVELS = (0.80, 0.95)


@dataclass(frozen=True, slots=True)
class Point:
    """One window ahead."""

    value: float
    lower_80: float
    upper_80: float
    lower_95: float
    upper_95: float


@dataclass(frozen=True, slots=True)
class Backtest:
    """How the same forecast would have done on windows that are past by now."""

    mase: float | None  # mean absolute error by that of the seasonal naive method in sample; None when that is 0
    naive_mase: float | None  # the same of the seasonal naive method
    smape: float | None  # 0 to 200; None when forecasts and values are all 0
    naive_smape: float | None
    coverage_80: float  # share of windows in intervals made without the errors of their own origin
    coverage_95: float
    windows: int
    season_length: int  # windows; 1 when there is none


@dataclass(frozen=True, slots=True)
class Forecast:
    """The windows ahead, nearest first; none when there is too little to go by, and `reason` says so."""

    points: tuple[Point, ...]
    method: str
    backtest: Backtest | None
    data_points: int  # windows with a value that it rests on
    reason: str  # why there is none, or only a simple one; empty otherwise


@dataclass(frozen=True, slots=True)
class Outlook:
    """A forecast in three numbers."""

    next_value: float
    lower: float  # 95 % interval of the next window
    upper: float
    change_a_window: float  # mean, from the first window ahead to the last
    direction: str  # increasing, decreasing, or stable


def forecast(series: Series, horizon: int) -> Forecast:
    """The next `horizon` windows, 1 to 1,000. Gaps are interpolated. Raises InvalidInput on any other horizon.

    Counts and amounts are not forecast below 0, rates within [0, 1], intervals included.
    """
    if not 1 <= horizon <= HORIZON_MAX:
        raise invalid_field("horizon", f"must be from 1 to {HORIZON_MAX}")
    past, known = _without_gaps(series)
    if known < PAST_MIN:
        return Forecast((), "none", None, known, f"{known} windows have a value, and a forecast needs {PAST_MIN}")
    if np.ptp(past) == 0:
        return _constant(series, past, known, horizon)
    steps, origins = _blocks(len(past), horizon)
    if origins < ORIGINS_MIN:
        return _naive(series, past, known, horizon)
    return _weighted(series, past, known, horizon, steps, origins)


def outlook(ahead: Forecast) -> Outlook | None:
    """What a forecast says in short; None without one. Stable: the first and the last window's 80 % intervals meet."""
    if not ahead.points:
        return None
    first, last = ahead.points[0], ahead.points[-1]
    change = (last.value - first.value) / max(len(ahead.points) - 1, 1)
    if last.lower_80 > first.upper_80:
        direction = "increasing"
    elif last.upper_80 < first.lower_80:
        direction = "decreasing"
    else:
        direction = "stable"
    return Outlook(first.value, first.lower_95, first.upper_95, change, direction)


def _without_gaps(series: Series) -> tuple[FloatArray, int]:
    """From the first window with a value to the last window, at most `PAST_MAX`; and how many of them have a value."""
    present = np.flatnonzero(series.present)
    if not len(present):
        return np.empty(0), 0
    values = series.values[max(int(present[0]), len(series) - PAST_MAX) :]
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.empty(0), 0
    return np.interp(np.arange(len(values)), known, values[known]), len(known)


def _blocks(windows: int, horizon: int) -> tuple[int, int]:
    """Steps forecast in the backtest, and origins, such that half of the past stays to learn from."""
    if windows < PLAIN_MIN:
        return 0, 0
    steps = min(horizon, max(1, windows // (2 * ORIGINS)))
    return steps, min(ORIGINS, (windows - windows // 2) // steps)


def _weighted(series: Series, past: FloatArray, known: int, horizon: int, steps: int, origins: int) -> Forecast:
    # Here, because only the worker forecasts: statsforecast would take the server 1.0 s of CPU at its start.
    from penstock.kpis.forecast_models import candidates

    periods = seasons(series.step_s, len(past) - steps * origins, cycles_min=2)
    trial = tried(past, candidates(periods, series.step_s), steps, origins)
    share = weights(trial)
    chosen = [(way, float(part)) for way, part in zip(trial.candidates, share, strict=True) if part > 0]
    ahead, named = _combined(chosen, past, horizon)
    said = series.bounded(np.tensordot(share, trial.said, axes=1))
    errors = trial.came - said
    return Forecast(
        points=_points(series, ahead, *(half_widths(errors, level, horizon) for level in LEVELS)),
        method=named,
        backtest=_backtest(past, trial, said, periods),
        data_points=known,
        reason=_reservation(periods, trial, len(past)),
    )


def _combined(chosen: list[tuple[Candidate, float]], past: FloatArray, horizon: int) -> tuple[FloatArray, str]:
    parts = [(way.name, part, forecast_by(way, past, horizon)) for way, part in chosen]
    good = [(name, part, ahead) for name, part, ahead in parts if ahead is not None]
    if not good:
        return np.full(horizon, past[-1]), "naive"
    total = sum(part for _, part, _ in good)
    ahead = np.sum([part / total * row for _, part, row in good], axis=0)
    good.sort(key=lambda each: -each[1])
    if len(good) == 1:
        return ahead, good[0][0]
    return ahead, "mean of " + ", ".join(f"{name} {100 * part / total:.0f} %" for name, part, _ in good)


def _backtest(past: FloatArray, trial: Trial, said: FloatArray, periods: tuple[int, ...]) -> Backtest:
    origins, steps = trial.came.shape
    season = periods[0] if periods else 1
    naive = np.vstack([_repeated(past[: len(past) - steps * (origin + 1)], season, steps) for origin in range(origins)])
    train = past[: len(past) - steps * origins]
    scale = float(np.mean(np.abs(train[season:] - train[:-season]))) if len(train) > season else 0.0
    errors = trial.came - said
    return Backtest(
        mase=_scaled(errors, scale),
        naive_mase=_scaled(trial.came - naive, scale),
        smape=smape(trial.came, said),
        naive_smape=smape(trial.came, naive),
        coverage_80=coverage(errors, LEVELS[0]),
        coverage_95=coverage(errors, LEVELS[1]),
        windows=origins * steps,
        season_length=season,
    )


def _scaled(errors: FloatArray, scale: float) -> float | None:
    """Mean absolute error by `scale`; None by 0, or by what is next to it."""
    scaled = float(np.mean(np.abs(errors))) / scale if scale > 0 else np.inf
    return scaled if np.isfinite(scaled) else None


def smape(came: FloatArray, said: FloatArray) -> float | None:
    """Symmetric mean absolute percentage error, 0 to 200 (Makridakis 1993); windows where both are 0 count as exact."""
    both = np.abs(came) + np.abs(said)
    if not both.any():
        return None
    return float(200 * np.mean(np.divide(np.abs(came - said), both, out=np.zeros_like(both), where=both > 0)))


def _repeated(past: FloatArray, season: int, steps: int) -> FloatArray:
    return np.resize(past[-season:], steps)


def _reservation(periods: tuple[int, ...], trial: Trial, windows: int) -> str:
    said = []
    if not periods:
        said.append(
            f"{windows} windows hold no two cycles of a day, a week or a year beside the backtest, so no season is used"
        )
    if trial.dropped:
        said.append(f"could not be fitted: {', '.join(trial.dropped)}")
    return "; ".join(said)


def _constant(series: Series, past: FloatArray, known: int, horizon: int) -> Forecast:
    flat = np.full(horizon, past[-1])
    reason = f"all {known} windows have the same value, which is repeated; how far it may stray is not known"
    return Forecast(_points(series, flat, np.zeros(horizon), np.zeros(horizon)), "naive", None, known, reason)


def _naive(series: Series, past: FloatArray, known: int, horizon: int) -> Forecast:
    """The last value, and the intervals of a random walk with the steps that were seen."""
    walk = float(np.sqrt(np.mean(np.diff(past) ** 2))) * np.sqrt(np.arange(1, horizon + 1))
    reason = f"{known} windows are too few to choose a method by its errors in the past; {PLAIN_MIN} are needed"
    return Forecast(
        _points(series, np.full(horizon, past[-1]), 1.2816 * walk, 1.96 * walk), "naive", None, known, reason
    )


def _points(series: Series, ahead: FloatArray, half_80: FloatArray, half_95: FloatArray) -> tuple[Point, ...]:
    half_95 = np.maximum(half_80, half_95)
    columns = (ahead, ahead - half_80, ahead + half_80, ahead - half_95, ahead + half_95)
    rows = np.vstack([series.bounded(column) for column in columns]).T
    return tuple(Point(*(float(number) for number in row)) for row in rows)
