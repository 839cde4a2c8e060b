"""How windows are judged, by each of the methods: what `anomalies.detect` does, which see."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.kpis.anomalies import Alert, Anomalies, JudgedWindow, Method, Status
from penstock.kpis.anomaly_chance import beyond_by_chance, chance_bounds, chance_limit, mean_share, standard_deviations
from penstock.kpis.anomaly_changes import SEGMENT_MIN, segmented
from penstock.kpis.anomaly_expectation import PAST_MIN, PAST_WINDOWS, Expectation, decomposed, robust, rolling
from penstock.kpis.anomaly_tail import PAST_MIN as TAIL_PAST_MIN
from penstock.kpis.anomaly_views import RECENT, Viewed, viewed
from penstock.kpis.anomaly_words import why, why_alert
from penstock.kpis.regular_series import FloatArray, Series, season_name, seasons

AUTO_WINDOWS_MIN = 2 * TAIL_PAST_MIN  # with fewer, the tail of past deviations says little
SCORE_MAX = 100.0  # beyond it a score says no more
ALERT_P_MAX = 0.05  # beyond the alert level is only what chance puts there at most so often
_ASKED = "it was asked for"


@dataclass(frozen=True, slots=True, eq=False)
class _Judgement:
    """A number a window, as a method left it."""

    method: Method
    method_reason: str
    expectation: Expectation
    score: FloatArray  # before chance is asked
    limit: FloatArray  # the most that chance leaves of a score
    news: FloatArray
    views: Viewed | None = None


def judge(series: Series, method: Method, threshold: float, alert: Alert | None, limit: int | None) -> Anomalies:
    """The newest `limit` windows (None: all), judged; a score of `threshold` makes an anomaly."""
    known = int(series.present.sum())
    if known == 0:
        reason = "there are no windows" if len(series) == 0 else "no window has a value"
        empty = tuple(_without_value() for _ in range(_first(series, limit), len(series)))
        named = Method.MAD if method is Method.AUTO else method
        return Anomalies(
            empty, named, "there is nothing to choose by" if method is Method.AUTO else _ASKED, reason, threshold
        )
    judged = _judged(series, method, threshold, known)
    return Anomalies(
        windows=_windows(series, judged, threshold, alert, _first(series, limit)),
        method=judged.method,
        method_reason=judged.method_reason,
        reason="" if known > PAST_MIN else f"{known} windows have a value, and {PAST_MIN + 1} are needed to judge one",
        threshold=threshold,
    )


def _first(series: Series, limit: int | None) -> int:
    return 0 if limit is None else max(0, len(series) - limit)


def _judged(series: Series, method: Method, threshold: float, known: int) -> _Judgement:
    match method:
        case Method.AUTO if known < AUTO_WINDOWS_MIN:
            reason = (
                f"{known} windows have a value, and AUTO learns how rare deviations are from {AUTO_WINDOWS_MIN} or more"
            )
            return _by_distance(series, Method.MAD, reason, robust(series))
        case Method.AUTO:
            return _auto(series, threshold)
        case Method.ZSCORE:
            return _by_distance(series, method, _ASKED, rolling(series))
        case Method.MAD:
            return _by_distance(series, method, _ASKED, robust(series))
        case Method.SEASONAL:
            return _seasonal(series)
        case Method.CHANGE_POINT:
            return _changes(series)


def _by_distance(series: Series, method: Method, reason: str, expectation: Expectation) -> _Judgement:
    share = mean_share(series, PAST_WINDOWS)
    score = np.nan_to_num((series.values - expectation.expected) / expectation.spread * share)
    score = np.clip(score, -SCORE_MAX, SCORE_MAX)
    limit = chance_limit(series, expectation.expected, PAST_WINDOWS, 1)
    return _Judgement(method, reason, expectation, score, limit, score)


def _seasonal(series: Series) -> _Judgement:
    known = int(series.present.sum())
    periods = seasons(series.step_s, min(len(series), 2 * known), cycles_min=3)
    if not periods:
        reason = f"a season needs three cycles of a day, a week or a year, and {known} windows with a value hold none"
        return _by_distance(series, Method.MAD, reason, robust(series))
    name = season_name(periods[0], series.step_s)
    return _by_distance(series, Method.SEASONAL, f"{_ASKED}; the season is the {name}", decomposed(series, periods[0]))


def _changes(series: Series) -> _Judgement:
    expectation, step = segmented(series)
    reason = f"{_ASKED}; segments are of {SEGMENT_MIN} windows or more"
    return _Judgement(Method.CHANGE_POINT, reason, expectation, step, np.full(len(series), np.inf), step)


def _auto(series: Series, threshold: float) -> _Judgement:
    views = viewed(series, float(-np.log10(2 * norm.sf(threshold))))
    sign = np.where(series.values < views.expectation.expected, -1.0, 1.0)
    limit = chance_limit(series, views.expectation.expected, PAST_WINDOWS, RECENT)
    scores = sign * standard_deviations(10.0**-views.evidence)
    fresh = sign * standard_deviations(10.0**-views.news)
    if views.seasonal[-1]:
        method, reason = (
            Method.SEASONAL,
            f"expecting {views.expectation.basis}, has been at least a fifth nearer than the last windows",
        )
    else:
        method, reason = (
            Method.MAD,
            "no season of a day, a week or a year brought the expectation a fifth nearer to the values",
        )
    return _Judgement(method, reason, views.expectation, scores, limit, fresh, views)


def _windows(
    series: Series, judged: _Judgement, threshold: float, alert: Alert | None, first: int
) -> tuple[JudgedWindow, ...]:
    score = np.clip(judged.score, -judged.limit, judged.limit)
    news = np.clip(judged.news, -judged.limit, judged.limit)
    lower, upper = _bounds(series, judged, threshold)
    odd = np.abs(score) >= threshold
    chance = (np.abs(judged.score) >= threshold) & ~odd
    alerted = _beyond(series, alert)

    def judged_window(place: int) -> JudgedWindow:
        expected = _number(judged.expectation.expected[place])
        if not series.present[place]:
            return _without_value(expected)
        words = why(
            *(series, place, judged.expectation, judged.views),
            score=float(score[place]),
            odd=bool(odd[place]),
            chance=bool(chance[place]),
        )
        if alert is not None and alerted[place]:
            words = f"{why_alert(series, place, alert.level, below=alert.below)}; {words}"
        return JudgedWindow(
            value=float(series.values[place]),
            expected=expected,
            lower=_number(lower[place]),
            upper=_number(upper[place]),
            score=float(score[place]),
            news=float(news[place]),
            status=Status.ANOMALY if odd[place] or alerted[place] else Status.NORMAL,
            why=words,
        )

    return tuple(judged_window(place) for place in range(first, len(series)))


def _bounds(series: Series, judged: _Judgement, threshold: float) -> tuple[FloatArray, FloatArray]:
    """What a value must leave to be odd by itself: what its past varied by, and what chance allows."""
    expected = judged.expectation.expected
    share = np.maximum(mean_share(series, PAST_WINDOWS), 1e-9)
    width = judged.expectation.spread * (1.0 if judged.views else threshold) / share
    chance_lower, chance_upper = chance_bounds(series, expected, threshold)
    lower, upper = np.fmin(expected - width, chance_lower), np.fmax(expected + width, chance_upper)
    unknown = ~np.isfinite(expected + width)
    lower[unknown] = upper[unknown] = np.nan
    return series.bounded(lower), series.bounded(upper)


def _beyond(series: Series, alert: Alert | None) -> NDArray[np.bool_]:
    if alert is None:
        return np.zeros(len(series), np.bool_)
    worse = series.values < alert.level if alert.below else series.values > alert.level
    return np.asarray(
        worse & (beyond_by_chance(series, alert.level, below=alert.below) <= ALERT_P_MAX) & series.present
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _without_value(expected: float | None = None) -> JudgedWindow:
    return JudgedWindow(None, expected, None, None, 0.0, 0.0, Status.NORMAL, "the window has no value")
