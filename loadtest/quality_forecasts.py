"""How well the forecaster does on hourly series of the M4 competition, with the seasonal naive method beside it."""

import asyncio
import csv
import lzma
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from loadtest.result import Better, Result
from loadtest.scale import Scale
from penstock.kpis.forecasts import forecast, smape
from penstock.kpis.regular_series import Kind, Series

VARIABLE = "PENSTOCK_M4_HOURLY"
HORIZON = 48
SEASON = 24
PROCESSES_MAX = 2
MISSING = f"""forecast_m4_hourly needs data that Penstock may not ship: Hourly-train.csv of the M4 competition, from
https://github.com/Mcompetitions/M4-methods/tree/master/Dataset/Train. Set {VARIABLE} to the file (.csv or .csv.xz)."""

Scores = tuple[
    float, float, float, float, float, float
]  # MASE, naive MASE, sMAPE, naive sMAPE, coverage 80, coverage 95


async def forecast_m4_hourly(name: str, scale: Scale) -> Result:
    """The last 48 hours of each training series held out; every twentieth series only with --quick."""
    series = await asyncio.to_thread(_read, os.environ.get(VARIABLE, ""))
    if series is None:
        raise SystemExit(MISSING)
    series = series[:: round(1 / scale.share)]
    started = perf_counter()
    loop = asyncio.get_running_loop()
    processes = min(PROCESSES_MAX, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        scores = await asyncio.gather(*(loop.run_in_executor(pool, measured, each) for each in series))
    mase, naive_mase, smape_, naive_smape, inside_80, inside_95 = (
        fmean(column) for column in zip(*scores, strict=True)
    )
    return Result(
        name,
        mase,
        "MASE",
        naive_mase,
        "seasonal naive method (24 hours) on the same series",
        better=Better.LOWER,
        target=1.0,
        details={
            "smape": smape_,
            "seasonal_naive_smape": naive_smape,
            "coverage_80": inside_80,
            "coverage_95": inside_95,
            "series": len(series),
            "seconds": perf_counter() - started,
            "processes": processes,
        },
    )


def measured(values: NDArray[np.float64]) -> Scores:
    """One series; its last 48 values are what is to be forecast."""
    past, came = values[:-HORIZON], values[-HORIZON:]
    points = forecast(Series(past, 3_600.0, Kind.AMOUNT), HORIZON).points
    said = np.array([point.value for point in points])
    naive = np.resize(past[-SEASON:], HORIZON)
    scale = float(np.mean(np.abs(past[SEASON:] - past[:-SEASON])))
    return (
        float(np.mean(np.abs(came - said))) / scale,
        float(np.mean(np.abs(came - naive))) / scale,
        smape(came, said) or 0.0,
        smape(came, naive) or 0.0,
        float(np.mean([point.lower_80 <= value <= point.upper_80 for point, value in zip(points, came, strict=True)])),
        float(np.mean([point.lower_95 <= value <= point.upper_95 for point, value in zip(points, came, strict=True)])),
    )


def _read(name: str) -> list[NDArray[np.float64]] | None:
    path = Path(name)
    if not path.is_file():
        return None
    opened = lzma.open(path, "rt") if path.suffix == ".xz" else path.open(encoding="utf-8")  # noqa: SIM115
    with opened as file:
        rows = list(csv.reader(file))[1:]
    return [np.array([float(cell) for cell in row[1:] if cell not in ("", "NA")]) for row in rows]
