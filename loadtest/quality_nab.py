"""The scoring of the Numenta Anomaly Benchmark, standard profile.

As NAB's own scorer does it (github.com/numenta/NAB: sweeper.py, scorer.py, optimizer.py, runner.py in nab/; Lavin and
Ahmad, "Evaluating real-time anomaly detection algorithms", ICMLA 2015): a labelled window gives what its earliest
detection is worth, or -1; a detection outside costs 0.11 at most, and less shortly behind a window; the first 15 % of
a series, at most 750 rows, are not scored. One threshold for all series, the best one, as NAB's optimiser finds it. 0
is a detector that says nothing, 100 one that finds every window at its first row and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_POSITIVE = 0.11  # of the standard profile; what is found and what is missed weigh 1
PROBATION = 0.15
PROBATION_ROWS = 5_000  # the share is of at most so many


@dataclass(frozen=True, slots=True)
class Labelled:
    """One series' labels as row numbers: first and last row of each window, in order."""

    rows: int
    windows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a detector reached over all series."""

    score: float  # normalised, at most 100
    threshold: float  # from which on a score is a detection; infinite when saying nothing is best
    found: int  # windows
    windows: int
    false_positives: int  # rows


def worth(position: float) -> float:
    """What a detection is worth: `position` is -1 at a window's first row, 0 just behind it, 1 as far again behind."""
    if position > 3.0:
        return -1.0
    return 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def row_worths(labelled: Labelled) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """What a detection at each row is worth, and in which window the row is, -1 for none."""
    worths = np.full(labelled.rows, -FALSE_POSITIVE)
    inside = np.full(labelled.rows, -1, np.intp)
    starts = [*(start for start, _ in labelled.windows), labelled.rows][1:]
    for number, ((first, last), following) in enumerate(zip(labelled.windows, starts, strict=True)):
        width = last - first + 1
        inside[first : last + 1] = number
        for row in range(first, last + 1):
            worths[row] = worth(-(last - row + 1) / width) / worth(-1.0)
        for row in range(last + 1, following):
            worths[row] = worth((row - last) / (width - 1)) * FALSE_POSITIVE
    return worths, inside


def first_scored(rows: int) -> int:
    """The row with which scoring begins."""
    return math.ceil(min(math.floor(PROBATION * rows), PROBATION * PROBATION_ROWS))


def scored(series: Sequence[tuple[Labelled, NDArray[np.float64]]], *, at: float | None = None) -> Corpus:
    """The corpus' score for each series' labels and anomaly scores, at the best threshold, or at the one given."""
    scores, worths, windows, total = _rows(series)
    order = np.argsort(-scores, kind="stable")
    best = np.full(total, -1.0)  # a window none of whose rows are scored counts nothing, found or not
    steps = np.empty(len(order))
    for place, row in enumerate(order):
        window, value = windows[row], worths[row]
        if window < 0:
            steps[place] = value
        else:
            steps[place] = max(value - best[window], 0.0)
            best[window] = max(best[window], value)
    scorable = len(np.unique(windows[windows >= 0]))
    sums = np.concatenate(([0.0], np.cumsum(steps))) - scorable
    descending = scores[order]
    # A threshold lets in all rows that have it: only where the next score is lower can it be cut.
    cuts = np.concatenate(([0], np.flatnonzero(np.diff(descending)) + 1, [len(order)]))
    if at is None:
        cut = int(cuts[np.argmax(sums[cuts])])
        threshold = float(descending[cut - 1]) if cut else math.inf
    else:
        cut, threshold = int(np.count_nonzero(scores >= at)), at
    detected = windows[order[:cut]]
    return Corpus(
        # Windows outside what is scored weigh in the normalisation too, as they do in NAB's.
        score=100 * (float(sums[cut]) + scorable) / (total + scorable),
        threshold=threshold,
        found=len(np.unique(detected[detected >= 0])),
        windows=total,
        false_positives=int(np.count_nonzero(detected < 0)),
    )


def _rows(
    series: Sequence[tuple[Labelled, NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp], int]:
    """All scored rows one after the other: scores, worths, windows numbered through; and how many windows there are."""
    scores, worths, windows, total = [], [], [], 0
    for labelled, given in series:
        if len(given) != labelled.rows:
            raise ValueError("a score is needed for every row")
        start = first_scored(labelled.rows)
        worth_, inside = row_worths(labelled)
        scores.append(given[start:])
        worths.append(worth_[start:])
        windows.append(np.where(inside >= 0, inside + total, -1)[start:])
        total += len(labelled.windows)
    return np.concatenate(scores), np.concatenate(worths), np.concatenate(windows), total


def windowed_gaussian(values: NDArray[np.float64], *, window: int = 6_400, step: int = 100) -> NDArray[np.float64]:
    """NAB's baseline, with its parameters: 1 minus the tail probability, were all normal as the rows before.

    The window grows to 6,400 rows and then moves on by 100. Rounded to 12 places, as NAB's files of results are: the
    best threshold is exactly 1, so this matters.
    """
    centred = values - values[: min(window, len(values))].mean()  # keeps differences of the sums exact
    sums = np.concatenate(([0.0], np.cumsum(centred)))
    squares = np.concatenate(([0.0], np.cumsum(centred**2)))
    scores = np.zeros(len(values))
    for row in range(1, len(values)):
        # What was learned up to here: all rows before, or a window that ends where the last whole step did.
        end = row if row <= window else window + (row - window) // step * step
        start = max(0, end - window)
        count = end - start
        mean = (sums[end] - sums[start]) / count
        variance = (squares[end] - squares[start]) / count - mean**2
        deviation = math.sqrt(variance) if variance > 1e-12 * max(mean**2, 1e-12) else 1e-6
        tail = 0.5 * math.erfc(abs(centred[row] - mean) / deviation / math.sqrt(2))
        scores[row] = round(1.0 - tail, 12)
    return scores
