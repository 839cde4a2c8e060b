"""kpis:query: metrics by dimensions and windows, put together from the rows of each source.

An answer is of one version and kept in memory, so that the pages of it, and whoever asks the same again, cost nothing.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from math import isfinite
from typing import TypeAlias
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from penstock import limits
from penstock.errors import invalid_field
from penstock.kpis import rows
from penstock.kpis.answers import Answers
from penstock.kpis.catalog import Catalog, Need
from penstock.kpis.fields import dimension
from penstock.kpis.formula import Comparison, Value
from penstock.kpis.grain import Grain, Windows, shifted, windows
from penstock.kpis.moment import seen
from penstock.kpis.nothing import why_nothing
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.ranges import Compare, Range, distance
from penstock.kpis.rows import Key
from penstock.kpis.sources import Filter, Selection
from penstock.storage.engine import Engine
from penstock.storage.version import Version

Figures: TypeAlias = Mapping[str, float]  # by metric; one without a value is not among them


class Fill(Enum):
    """What becomes of windows without events."""

    NONE = "left out"
    ZERO = "counts and sums are 0"
    EMPTY = "without values"


@dataclass(frozen=True, slots=True)
class Order:
    """By what rows are ordered: `window_start`, a dimension or a metric."""

    by: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for, its range resolved."""

    tenant: str
    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]
    filters: tuple[Filter, ...]
    covered: Range
    grain: Grain | None
    zone: str
    compare: Compare | None
    fill: Fill
    order: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One window of one combination of the dimensions' values; times in microseconds since the epoch."""

    start: int
    end: int
    dimensions: tuple[str, ...]
    values: Figures
    previous: Figures
    change: Figures


@dataclass(frozen=True, slots=True)
class Answer:
    """All rows, and the range as one."""

    rows: Sequence[Row]
    total: Row
    currency: str
    version: int
    reason: str  # why there are no rows; empty when there are


class KpiQueries:
    """Answers queries; everything may raise Unavailable, TimedOut or Overloaded."""

    def __init__(self, engine: Engine, catalogs: Catalogs, currency: str) -> None:
        self._engine = engine
        self._catalogs = catalogs
        self._currency = currency
        self._answers: Answers[Answer] = Answers(limits.KPI_QUERY_ANSWERS_MAX)
        self._slots = asyncio.Semaphore(limits.KPI_QUERIES_AT_ONCE)
        # One slot less for each tenant, which waits here for its own: so of many queries of one tenant few stand in the
        # line that all wait in, and they never have all slots. A turn is there for as long as somebody wants it.
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def answer(self, query: Query, version: Version) -> Answer:
        """The answer as of `version`.

        Raises InvalidInput, NotFound (KPI_NOT_FOUND), TooCostly (TOO_MANY_ROWS).
        """
        catalog = await self._catalogs.of(query.tenant)
        check(query, catalog)
        # What the metrics are is part of the question: a tenant's own may change under the same name.
        made_of = tuple(catalog.metrics[name].formula for name in catalog.made_of(query.metrics))
        return await self._answers.get(seen(version), (query, made_of), lambda: self._compute(query, catalog, version))

    async def _compute(self, query: Query, catalog: Catalog, version: Version) -> Answer:
        zone = ZoneInfo(query.zone)
        spans = windows(query.covered.start, query.covered.end, query.grain, zone, limits.KPI_QUERY_WINDOWS_MAX)
        if spans is None:
            raise invalid_field(
                "grain", f"it makes more than {limits.KPI_QUERY_WINDOWS_MAX:,} windows of the range; take a coarser one"
            )
        chosen = Selection(
            query.tenant, version, spans, query.dimensions, query.filters, _currency_of(query, self._currency)
        )
        wanted = [chosen]
        if query.compare is not None:
            back = distance(query.compare, query.covered, query.grain, zone)
            wanted.append(replace(chosen, windows=spans.moved(lambda moment: shifted(moment, back, zone, -1))))
        need = catalog.need(query.metrics)
        async with self._turn(query.tenant), self._slots:
            parts = await asyncio.gather(*(self._part(each, need, query) for each in wanted))
        size = max(len(part.aggregates) for part in parts)
        reason = "" if parts[0].aggregates else await self._reason(query, version)
        return await rows.apart(size, _assembled, query, catalog, spans, parts, version.commit, reason)

    def _turn(self, tenant: str) -> asyncio.Semaphore:
        turn = self._turns.get(tenant)
        if turn is None:
            turn = self._turns[tenant] = asyncio.Semaphore(limits.KPI_QUERIES_AT_ONCE - 1)
        return turn

    async def _reason(self, query: Query, version: Version) -> str:
        """Why there are no rows."""
        passing = " that pass the filters" if query.filters else ""
        return await why_nothing(self._engine, query.tenant, version, f"no events in this range{passing}")

    async def _part(self, selection: Selection, need: Need, query: Query) -> "_Part":
        """The aggregates of one selection, and of windows without events where they are filled in."""
        wanted = list(dict.fromkeys((*need.aggregates, *need.running)))
        currency = _single_currency(query) or self._currency
        if selection.currency == currency:
            found, total = await rows.read_with_total(self._engine, selection, wanted)
        else:  # its rows are each of their own currency
            whole = replace(selection.total(), currency=currency)
            found, alone = await asyncio.gather(
                rows.read(self._engine, selection, wanted), rows.read(self._engine, whole, wanted)
            )
            total = alone.get((0, ()), {})
        there = frozenset(found)
        if query.fill is not Fill.NONE:
            await rows.apart(limits.KPI_QUERY_ROWS_MAX, _fill, found, selection)
        running = await rows.read_running(self._engine, selection, need, found) if need.running else {}
        return _Part(found, running, there, total, currency)


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read of one selection."""

    aggregates: Mapping[Key, rows.Values]
    running: Mapping[Key, rows.Values]
    there: frozenset[Key]  # with events; the others were filled in
    total: rows.Values
    currency: str  # of the amounts in the total


def check(query: Query, catalog: Catalog) -> None:
    """Raises NotFound for a metric that there is not, InvalidInput for a dimension that a metric does not have."""
    for name in query.metrics:
        catalog.metric(name)
    asked = [("dimensions", each) for each in query.dimensions]
    asked += [(f"filters[{n}].dimension", each.dimension) for n, each in enumerate(query.filters)]
    for field, name in asked:
        for metric in query.metrics:
            if any(dimension(source, name) is None for source in catalog.sources(metric)):
                known = ", ".join(catalog.dimensions(metric))
                raise invalid_field(field, f"{metric} has no dimension {name!r}; it has {known}")
    sortable = {"window_start", *query.metrics, *query.dimensions}
    for order in query.order:
        if order.by not in sortable:
            raise invalid_field("order_by", f"{order.by!r} is not among {', '.join(sorted(sortable))}")


def _currency_of(query: Query, reporting: str) -> str:
    """The currency that amounts are in; empty where each row is of its own."""
    return "" if "currency" in query.dimensions else _single_currency(query) or reporting


def _single_currency(query: Query) -> str:
    """The one that the filters leave; empty where they leave more."""
    for each in query.filters:
        if each.dimension == "currency" and each.comparison is Comparison.IN and not each.negated:
            return each.values[0] if len(each.values) == 1 else ""
    return ""


def _fill(found: dict[Key, rows.Values], selection: Selection) -> None:
    combinations = {split for _, split in found} if selection.dimensions else {()}
    if len(combinations) * len(selection.windows) > limits.KPI_QUERY_ROWS_MAX:
        raise rows.too_many()
    for split in combinations:
        for number, (start, end) in enumerate(pairwise(selection.windows.bounds)):
            if start < end:
                found.setdefault((number, split), {})


def _assembled(
    query: Query, catalog: Catalog, spans: Windows, parts: Sequence[_Part], version: int, reason: str
) -> Answer:
    figures = [_figures(query, catalog, part) for part in parts]
    previous = figures[1] if len(figures) > 1 else {}
    made = [
        _row(spans.bounds[key[0]], spans.bounds[key[0] + 1], key[1], values, previous.get(key, {}))
        for key, values in sorted(figures[0].items())
    ]
    for order in reversed(query.order):  # each keeps the order of those before it among equals
        made.sort(key=_sorting(order, query.dimensions), reverse=order.descending)
    # Up to the end of the range, what runs is what is.
    totals = [_shown(catalog.values(query.metrics, part.total, part.total)) for part in parts]
    there_before = len(parts) > 1 and (bool(parts[1].there) or query.fill is Fill.ZERO)
    total = _row(spans.start, spans.end, (), totals[0], totals[1] if there_before else {})
    return Answer(made, total, parts[0].currency, version, reason)


def _figures(query: Query, catalog: Catalog, part: _Part) -> dict[Key, Figures]:
    return {
        key: _shown(catalog.values(query.metrics, values, part.running.get(key, {})))
        if query.fill is not Fill.EMPTY or key in part.there
        else {}
        for key, values in part.aggregates.items()
    }


def _shown(values: Mapping[str, Value]) -> Figures:
    figures = {name: float(value) for name, value in values.items() if value is not None}
    return {name: figure for name, figure in figures.items() if isfinite(figure)}


def _row(start: int, end: int, split: tuple[str, ...], values: Figures, previous: Figures) -> Row:
    change = {name: values[name] / before - 1 for name, before in previous.items() if name in values and before != 0}
    return Row(start, end, split, values, previous, {name: each for name, each in change.items() if isfinite(each)})


def _sorting(order: Order, dimensions: Sequence[str]) -> Callable[[Row], tuple[bool, float | str]]:
    """By what `sort` sees; rows without a value come last either way."""
    if order.by == "window_start":
        return lambda row: (True, row.start)
    if order.by in dimensions:
        place = dimensions.index(order.by)
        return lambda row: (True, row.dimensions[place])
    last = not order.descending
    return lambda row: (last, 0.0) if order.by not in row.values else (not last, row.values[order.by])
