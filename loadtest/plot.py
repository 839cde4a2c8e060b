"""Draws the ratios of a run against 1 and against their targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_MET, _MISSED, _NO_TARGET = "#2a7f62", "#b3402e", "#7a7f87"


def draw(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One bar for each result, as `Result.line` writes it; the marks are the targets."""
    figure = Figure(figsize=(10, 0.6 * len(results) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, result in enumerate(results):
        colour = {True: _MET, False: _MISSED, None: _NO_TARGET}[result["met"]]
        axes.barh(place, result["ratio"], color=colour, height=0.6)
        arrow = "≥" if result["better"] == "higher" else "≤"
        target = _target_ratio(result)
        if target is not None:
            axes.plot([target, target], [place - 0.4, place + 0.4], color="black", linewidth=2)
        wanted = f", target {arrow} {target:.2g}" if target is not None else ""
        text = f"  {result['ratio']:.2g}  ({_shown(result['value'])} {result['unit']}{wanted})"
        axes.text(max(result["ratio"], target or 0.0), place, text, va="center", fontsize=9)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(results)), [result["name"] for result in results])
    axes.invert_yaxis()
    axes.set_xscale("log")  # twice as good is as far from the limit as half as good
    ratios = [1.0, *(result["ratio"] for result in results)]
    axes.set_xlim(min(ratios) / 2, max(ratios) * 30)
    axes.set_xlabel("figure ÷ limit measured in the same run (dotted: the limit; black: the target)")
    figure.savefig(file, dpi=120)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _target_ratio(result: Mapping[str, Any]) -> float | None:
    """The target on the scale of ratios, also where it is one for the value."""
    if result["target_value"] is not None:
        return float(result["target_value"] / result["limit"])
    return None if result["target_ratio"] is None else float(result["target_ratio"])
