"""How well the anomaly detector does on labelled series: the Numenta benchmark's, with the baseline beside it."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loadtest.quality_nab import Corpus, Labelled, scored, windowed_gaussian
from loadtest.result import Result
from loadtest.scale import Scale
from penstock.kpis.anomalies import SENSITIVITY_DEFAULT, Method, detect, threshold_of
from penstock.kpis.regular_series import Series

DATA = Path(__file__).parent / "data" / "nab"
AIM = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """One series of the corpus."""

    name: str
    values: NDArray[np.float64]
    step_s: float  # the commonest distance of two rows; rows are taken one after the other, as NAB's detectors do
    labelled: Labelled


def corpus() -> Iterator[Recorded]:
    """The series that Penstock ships."""
    windows: dict[str, list[list[str]]] = json.loads((DATA / "windows.json").read_text(encoding="utf-8"))
    table = pq.read_table(DATA / "series.parquet")
    names = np.asarray(table["series"].to_pylist())
    times, values = table["time"].to_numpy().astype("datetime64[s]"), table["value"].to_numpy()
    for name, labels in windows.items():
        own = times[names == name]
        rows = tuple(tuple(int(np.flatnonzero(own == np.datetime64(edge))[0]) for edge in each) for each in labels)
        step_s = float(np.median(np.diff(own).astype(np.float64)))
        yield Recorded(name, values[names == name], step_s, Labelled(len(own), rows))  # type: ignore[arg-type]


async def anomaly_nab(name: str, scale: Scale) -> Result:
    """AUTO, as the product has it, at one threshold for all series; judged by past rows only."""
    return await asyncio.to_thread(_measured, name, quick=scale.rounds == 1)


def _measured(name: str, *, quick: bool) -> Result:
    # Short series only where it shall be quick; its figures are those of a part then, baseline included.
    series = [each for each in corpus() if not quick or each.labelled.rows < 2_500]
    judged = [detect(Series(each.values, each.step_s), Method.AUTO).windows for each in series]
    news = [np.abs([window.news for window in windows]) for windows in judged]
    plain = [np.abs([window.score for window in windows]) for windows in judged]
    baseline = _corpus(series, [windowed_gaussian(each.values) for each in series])
    reached = _corpus(series, news)
    default = threshold_of(SENSITIVITY_DEFAULT)
    return Result(
        name,
        reached.score,
        "NAB score, standard profile",
        baseline.score,
        "NAB's windowed Gaussian on the same series",
        target_value=AIM,
        details={
            "series": len(series),
            "windows": reached.windows,
            "windows_found": reached.found,
            "false_positive_rows": reached.false_positives,
            "threshold": reached.threshold,
            "at_default_sensitivity": _corpus(series, news, at=default).score,
            "every_odd_window": _corpus(series, plain).score,  # not only what is news
            "baseline_threshold": baseline.threshold,
        },
    )


def _corpus(series: list[Recorded], scores: list[NDArray[np.float64]], *, at: float | None = None) -> Corpus:
    return scored([(each.labelled, score) for each, score in zip(series, scores, strict=True)], at=at)
