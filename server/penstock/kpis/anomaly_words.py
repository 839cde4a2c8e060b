"""The sentence that says why a window is an anomaly, or is none."""

import numpy as np

from penstock.kpis.anomaly_expectation import PAST_MIN, Expectation
from penstock.kpis.anomaly_views import LONG, RECENT, Viewed
from penstock.kpis.regular_series import Kind, Series


def why(
    series: Series, place: int, expectation: Expectation, views: Viewed | None, *, score: float, odd: bool, chance: bool
) -> str:
    """Why the window at `place` has its score; `chance` when it would be odd if it rested on more."""
    expected = float(expectation.expected[place])
    if not np.isfinite(expected):
        return f"{_value(series, place)}; fewer than {PAST_MIN} windows before it have a value, too few to judge by"
    sentence = f"{_value(series, place)} where {series.shown(expected)} was expected from {expectation.basis}"
    if chance:
        return f"{sentence}: chance alone leads so far off that often with so few (z = {score:.1f})"
    if odd and views is not None and views.leading[place] > 0:
        return f"{_of_the_last(series, place, views)} (z = {score:.1f}); {sentence}"
    return f"{sentence} (z = {score:.1f})"


def why_alert(series: Series, place: int, level: float, *, below: bool) -> str:
    """Why a window is beyond the alert level."""
    return f"{_value(series, place)} is {'below' if below else 'above'} the alert level of {series.shown(level)}"


def _value(series: Series, place: int) -> str:
    shown = series.shown(float(series.values[place]))
    if series.kind is Kind.RATE and series.denominators is not None:
        return f"{shown} of {series.denominators[place]:,.0f}"
    return shown


def _of_the_last(series: Series, place: int, views: Viewed) -> str:
    if views.leading[place] > 1:
        times = float(np.exp(np.clip(views.variation[place], -20.0, 20.0)))
        return f"the last {RECENT} windows vary {times:.2g} times as much as the {LONG} before them usually did"
    recent, usual = series.shown(float(views.recent[place])), series.shown(float(views.usual[place]))
    if views.seasonal[place]:
        return f"the last {RECENT} windows are off by {recent} on average, the {LONG} before them by {usual}"
    return f"the last {RECENT} windows average {recent}, the {LONG} before them {usual}"
