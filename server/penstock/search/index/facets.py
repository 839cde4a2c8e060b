"""How often values occur among the products that a filter lets through."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from penstock.errors import invalid_field
from penstock.search.index.columns import CATEGORY, Columns
from penstock.search.index.document import Floats
from penstock.search.index.filter import Matches

IN_STOCK = "in_stock"
RANGES = 8  # of a facet of numbers, when no bounds are given


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value and how many matches have it. Of `category`: names from the root joined by `/`, and all below."""

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class FacetCounts:
    """The commonest values; equals by value."""

    values: tuple[FacetValue, ...]
    more_values: int


@dataclass(frozen=True, slots=True)
class Range:
    """How many are in it: low <= number < high."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class NumberRange:
    """What a number is among the matches; None where it is known of none."""

    least: float | None
    greatest: float | None
    ranges: tuple[Range, ...]


def facet(columns: Columns, name: str, matches: Matches, limit: int) -> FacetCounts:
    """Counts the values of a keyword, of `category` or of `in_stock`."""
    if name == IN_STOCK:
        yes = int(np.count_nonzero(columns.in_stock.view()[matches.rows]))
        return _commonest({"true": yes, "false": matches.count - yes}, limit)
    if name == CATEGORY:
        return _commonest(_category_counts(columns, matches), limit)
    keyword = columns.keywords.get(name)
    if keyword is None:
        return FacetCounts((), 0)
    counts = keyword.counts(matches.row_mask)
    used = np.flatnonzero(counts)
    return _commonest({keyword.values[code]: int(counts[code]) for code in used.tolist()}, limit)


def number_facet(values: Floats, bounds: Sequence[float] | None) -> NumberRange:
    """Counts numbers (NaN: not known) in ranges: from each bound to the next.

    Without bounds there are RANGES at most, between round numbers, about as many products in each. Raises InvalidInput
    when bounds do not rise.
    """
    known = values[~np.isnan(values)]
    if bounds is not None and (len(bounds) < 2 or any(high <= low for low, high in pairwise(bounds))):
        raise invalid_field("bounds", "two or more that rise are needed")
    if not len(known):
        return NumberRange(None, None, ())
    edges = _edges(known) if bounds is None else [float(bound) for bound in bounds]
    places = np.searchsorted(np.array(edges), known, side="right") - 1
    counts = np.bincount(places[(places >= 0) & (places < len(edges) - 1)], minlength=len(edges) - 1)
    ranges = tuple(
        Range(low, high, int(count)) for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
    )
    return NumberRange(float(known.min()), float(known.max()), ranges)


def _category_counts(columns: Columns, matches: Matches) -> dict[str, int]:
    counts = columns.category.counts(matches.row_mask)
    found: dict[str, int] = {}
    spelled: dict[str, str] = {}
    for code in np.flatnonzero(counts).tolist():
        path = columns.paths[code]
        for depth in range(1, len(path) + 1):
            name = "/".join(path[:depth])
            name = spelled.setdefault(name.casefold(), name)
            found[name] = found.get(name, 0) + int(counts[code])
    return found


def _commonest(counts: dict[str, int], limit: int) -> FacetCounts:
    ranked = sorted(((count, value) for value, count in counts.items() if count), key=lambda each: (-each[0], each[1]))
    values = tuple(FacetValue(value, count) for count, value in ranked[:limit])
    return FacetCounts(values, len(ranked) - len(values))


def _edges(known: Floats) -> list[float]:
    """Round numbers near the quantiles, the last above all."""
    quantiles = np.quantile(known, np.linspace(0, 1, RANGES + 1))
    edges = sorted({_round(float(value)) for value in quantiles[:-1]})
    greatest = float(known.max())
    step = 10.0 ** np.floor(np.log10(greatest)) if greatest > 0 else 1.0
    top = float(np.floor(greatest / step) + 1) * step
    return [*(edge for edge in edges if edge < top), float(top)]


def _round(value: float) -> float:
    """Down to two figures: 1,234 is 1,200."""
    if value <= 0:
        return float(np.floor(value))
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.floor(value / unit) * unit)
