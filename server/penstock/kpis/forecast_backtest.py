"""How well models would have forecast what is past by now: rolling origins, errors, and intervals from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.kpis.regular_series import FloatArray

ORIGINS = 3
ORIGINS_MIN = 2
FADE = 0.5  # what an origin counts, by the one after it
SHARPNESS = 4.0  # weights go by the error to the power of minus this: twice the error is a sixteenth of the weight
WEIGHT_MIN = 0.05
PLAIN_MIN = 12  # windows that a model without a season wants


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to forecast."""

    name: str
    ahead: Callable[[FloatArray, int], FloatArray]  # past without gaps, horizon → forecasts
    windows_min: int  # of past


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What every candidate said at every origin, the newest first."""

    candidates: tuple[Candidate, ...]
    said: FloatArray  # candidates × origins × steps
    came: FloatArray  # origins × steps
    dropped: tuple[str, ...]  # candidates that failed on this series


def tried(past: FloatArray, ways: Sequence[Candidate], steps: int, origins: int) -> Trial:
    """Has every candidate forecast the last `origins` blocks of `steps` windows, each from what was before it."""
    cuts = [len(past) - steps * (origin + 1) for origin in range(origins)]
    came = np.vstack([past[cut : cut + steps] for cut in cuts])
    kept: list[Candidate] = []
    said: list[FloatArray] = []
    dropped: list[str] = []
    for way in ways:
        if cuts[-1] < way.windows_min:
            continue
        rows = [forecast_by(way, past[:cut], steps) for cut in cuts]
        present = [row for row in rows if row is not None]
        if len(present) == len(rows):
            kept.append(way)
            said.append(np.vstack(present))
        else:
            dropped.append(way.name)
    return Trial(tuple(kept), np.stack(said), came, tuple(dropped))


def forecast_by(way: Candidate, past: FloatArray, steps: int) -> FloatArray | None:
    """The forecast, or None where the model cannot cope with this past."""
    try:
        ahead = way.ahead(past, steps)
    except (ArithmeticError, IndexError, ValueError, np.linalg.LinAlgError):
        return None
    # A forecast far outside all that was ever seen is a fit that went wrong.
    reach = 10 * (float(np.ptp(past)) + abs(float(past[-1])))
    return ahead if np.isfinite(ahead).all() and float(np.abs(ahead - past[-1]).max()) <= reach else None


def weights(trial: Trial) -> FloatArray:
    """What each candidate counts, by its mean absolute error; newer origins count more, shares below 5 % nothing."""
    fade = FADE ** np.arange(trial.came.shape[0])
    errors = np.abs(trial.said - trial.came).mean(axis=2) @ (fade / fade.sum())
    best = float(errors.min())
    if best == 0.0:
        exact: FloatArray = (errors == 0.0).astype(np.float64)
        exact[int(exact.argmax()) + 1 :] = 0.0  # the first, which is the simplest
        return exact
    raw = (best / errors) ** SHARPNESS
    raw[raw < WEIGHT_MIN * raw.sum()] = 0.0
    share: FloatArray = raw / raw.sum()
    return share


def half_widths(errors: FloatArray, level: float, horizon: int) -> FloatArray:
    """Half the width of the interval at `level` for each step: a conformal quantile of the errors at steps near it.

    `errors` is origins × steps. Beyond the steps that were tried it widens by the square root of the distance, as a
    random walk does.
    """
    origins, steps = errors.shape
    near = max(2, steps // 4)
    magnitudes = np.abs(errors)
    found = np.empty(steps)
    for step in range(steps):
        pool = np.sort(magnitudes[:, max(0, step - near) : step + near + 1], axis=None)
        rank = int(np.ceil((len(pool) + 1) * level))
        found[step] = pool[rank - 1] if rank <= len(pool) else 1.5 * pool[-1]
    # Errors of one origin go together: the next one differs from them as from the mean of so few.
    found *= np.sqrt(1 + 1 / origins)
    beyond = np.arange(steps + 1, horizon + 1)
    return np.concatenate((found[:horizon], found.max() * np.sqrt(beyond / steps)))


def coverage(errors: FloatArray, level: float) -> float:
    """Share of what came that was within the interval at `level` made from the other origins' errors."""
    inside = [
        np.abs(errors[origin]) <= half_widths(np.delete(errors, origin, axis=0), level, errors.shape[1])
        for origin in range(errors.shape[0])
    ]
    return float(np.mean(inside))
