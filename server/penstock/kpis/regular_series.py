"""A metric as a regular series: what anomalies and forecasts are computed from."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
YEAR_S = 365.25 * DAY_S
SEASON_WINDOWS_MIN = 4  # a season of fewer windows is hard to tell from noise


class Kind(StrEnum):
    """What a value of the series is, which decides what it can be and how much chance is in it."""

    RATE = "rate"  # successes ÷ trials, in [0, 1]
    COUNT = "count"  # whole things that happen, ≥ 0
    AMOUNT = "amount"  # money, lengths, means of them, ≥ 0
    VALUE = "value"  # anything


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Equally long windows of one metric, oldest first; NaN where there is no value.

    `denominators` holds what each value rests on: the trials of a RATE (then required), the things an AMOUNT or VALUE
    is the mean of (then optional). Raises ValueError on arrays that do not fit together, or infinite values.
    """

    values: FloatArray
    step_s: float  # length of a window
    kind: Kind = Kind.VALUE
    denominators: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or np.isinf(self.values).any():
            raise ValueError("values must be one row of numbers or NaN")
        if self.step_s <= 0:
            raise ValueError("step_s must be positive")
        if self.denominators is not None and self.denominators.shape != self.values.shape:
            raise ValueError("denominators must be as many as values")
        if self.kind is Kind.RATE and self.denominators is None:
            raise ValueError("a rate needs its denominators")

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def rate(cls, numerators: FloatArray, denominators: FloatArray, step_s: float) -> "Series":
        """A rate from its two counts; windows without trials have no value."""
        trials = np.nan_to_num(denominators, nan=0.0)
        values = np.divide(numerators, trials, out=np.full(len(trials), np.nan), where=trials > 0)
        return cls(values, step_s, Kind.RATE, trials)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which windows have a value."""
        return np.isfinite(self.values)

    def shown(self, value: float) -> str:
        """A value as people read it: `4.1 %`, `1,204`, `12.35`."""
        if self.kind is Kind.RATE:
            return f"{100 * value:.1f} %"
        if abs(value) >= 1_000 or (self.kind is Kind.COUNT and value == round(value)):
            return f"{value:,.0f}"
        return f"{value:.3g}" if abs(value) < 1 else f"{value:,.2f}"

    def bounded(self, values: FloatArray) -> FloatArray:
        """`values` brought into what the kind allows: no negative counts and amounts, rates in [0, 1]."""
        if self.kind is Kind.VALUE:
            return values
        return np.clip(values, 0.0, 1.0 if self.kind is Kind.RATE else None)


def seasons(step_s: float, windows: int, *, cycles_min: int) -> tuple[int, ...]:
    """Lengths in windows of the day, the week and the year, shortest first; those that `windows` holds often enough.

    Only these: they are what people live by, and a season that is searched for is found in noise too.
    """
    lengths = {round(span / step_s) for span in (DAY_S, WEEK_S, YEAR_S)}
    return tuple(sorted(n for n in lengths if n >= SEASON_WINDOWS_MIN and cycles_min * n <= windows))


def season_name(length: int, step_s: float) -> str:
    """What people call a season of `length` windows."""
    names = {round(DAY_S / step_s): "day", round(WEEK_S / step_s): "week", round(YEAR_S / step_s): "year"}
    return names.get(length, f"season of {length} windows")
