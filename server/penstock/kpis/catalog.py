"""The catalogue: every metric declared once, those that come with Penstock in catalog.yaml, and checked.

All values come out through it, so a metric means the same in every answer and its value never depends on what else was
asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from penstock import limits
from penstock.errors import NotFound
from penstock.kpis import formula
from penstock.kpis.expression import ExpressionError, MetricType, compiled
from penstock.kpis.fields import DIMENSIONS, Source, dimensions_of
from penstock.kpis.formula import Aggregate, Formula, Ratio, Value

NAME = "^[a-z][a-z0-9_]{0,63}$"
# Names that stand for something else where metrics are named.
RESERVED = frozenset({"window_start", *DIMENSIONS[Source.EVENTS]})


class CatalogError(ValueError):
    """A metric cannot be used; the message says which and why, `field` what of it is wrong."""

    def __init__(self, message: str, *, metric: str = "", field: str = "expression") -> None:
        super().__init__(message)
        self.metric = metric
        self.field = field


class Unit(StrEnum):
    """What a value is a number of."""

    COUNT = "count"
    CURRENCY = "currency"
    RATIO = "ratio"
    SECONDS = "seconds"


class Direction(StrEnum):
    """Which way is good."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


class Thresholds(BaseModel):
    """Values that call for attention: below them, or above them where less is better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warning: float | None = Field(default=None, allow_inf_nan=False)
    critical: float | None = Field(default=None, allow_inf_nan=False)


class Declaration(BaseModel):
    """A metric as it is declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    label: str = Field(min_length=1, max_length=64)
    description: str = Field(min_length=0, max_length=512)
    unit: Unit
    type: MetricType
    expression: str = Field(min_length=1, max_length=512)
    good_direction: Direction
    thresholds: Thresholds = Thresholds()


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, declared and compiled."""

    name: str
    label: str
    description: str
    unit: Unit
    type: MetricType
    expression: str
    good_direction: Direction
    thresholds: Thresholds
    formula: Formula
    own: bool = False  # the tenant's
    update_time: datetime | None = None  # of the tenant's own


@dataclass(frozen=True, slots=True)
class Need:
    """What the values of some metrics are computed from."""

    aggregates: tuple[Aggregate, ...]  # of the window
    running: tuple[Aggregate, ...]  # from the start of the range up to the window's end


@dataclass(frozen=True)
class Catalog:
    """The metrics by name, in the order of their names."""

    metrics: Mapping[str, Metric]

    @cached_property
    def own(self) -> Mapping[str, Metric]:
        """Those that are the tenant's own."""
        return {name: metric for name, metric in self.metrics.items() if metric.own}

    def need(self, names: Iterable[str]) -> Need:
        """The aggregates behind the metrics, each once, in a fixed order."""
        of_window: dict[Aggregate, None] = {}
        running: dict[Aggregate, None] = {}
        seen: set[tuple[str, bool]] = set()

        def visit(name: str, up_to_now: bool) -> None:
            if (name, up_to_now) in seen:
                return
            seen.add((name, up_to_now))
            for part in formula.parts(self.metrics[name].formula):
                match part:
                    case Aggregate():
                        (running if up_to_now else of_window)[part] = None
                    case formula.Running(formula.Metric(inner)):
                        visit(inner, True)
                    case formula.Metric(inner) if not isinstance(self.metrics[name].formula, formula.Running):
                        visit(inner, up_to_now)

        for name in names:
            visit(name, False)
        return Need(tuple(of_window), tuple(running))

    def metric(self, name: str) -> Metric:
        """A metric by its name. Raises NotFound (KPI_NOT_FOUND)."""
        found = self.metrics.get(name)
        if found is None:
            raise NotFound(f"there is no metric {name!r}", reason="KPI_NOT_FOUND", metadata={"metric": name})
        return found

    def values(
        self,
        names: Sequence[str],
        aggregates: Mapping[Aggregate, Value],
        running: Mapping[Aggregate, Value] = MappingProxyType({}),
    ) -> dict[str, Value]:
        """The metrics' values where the aggregates have these; one that is not among them is of no events."""
        metric = self._computing(aggregates, running)
        return {name: metric(name, False) for name in names}

    def sides(
        self, name: str, aggregates: Mapping[Aggregate, Value], running: Mapping[Aggregate, Value]
    ) -> tuple[Value, Value]:
        """Numerator and denominator of a metric that is a ratio; None of others."""
        found = self.metrics[name].formula
        if not isinstance(found, Ratio):
            return None, None
        metric = self._computing(aggregates, running)
        return formula.computed(found.numerator, aggregates, metric), formula.computed(
            found.denominator, aggregates, metric
        )

    def _computing(
        self, aggregates: Mapping[Aggregate, Value], running: Mapping[Aggregate, Value]
    ) -> Callable[[str, bool], Value]:
        """Computes a metric by its name, of the window or up to its end, each once."""
        known: dict[tuple[str, bool], Value] = {}

        def metric(name: str, up_to_now: bool) -> Value:
            key = (name, up_to_now)
            if key not in known:
                made, found = self.metrics[name].formula, running if up_to_now else aggregates
                known[key] = formula.computed(made, found, lambda inner, run: metric(inner, up_to_now or run))
            return known[key]

        return metric

    def made_of(self, names: Iterable[str]) -> list[str]:
        """The metrics and all that they are made of, by name."""
        found: dict[str, None] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += [p.name for p in formula.parts(self.metrics[name].formula) if isinstance(p, formula.Metric)]
        return sorted(found)

    def sources(self, name: str) -> frozenset[Source]:
        """What the metric counts."""
        need = self.need([name])
        return frozenset(aggregate.source for aggregate in (*need.aggregates, *need.running))

    def dimensions(self, name: str) -> tuple[str, ...]:
        """What the metric can be split and filtered by."""
        return dimensions_of(self.sources(name))

    def with_own(self, own: Iterable[Metric]) -> "Catalog":
        """The same with these as the tenant's own. Raises CatalogError where they cannot stand together."""
        built_in = {name: metric for name, metric in self.metrics.items() if not metric.own}
        return checked({**built_in, **{metric.name: replace(metric, own=True) for metric in own}})


def load_catalog(*, conversion_alert_threshold: float = 0.05) -> Catalog:
    """The catalogue that comes with Penstock. Raises CatalogError."""
    text = files("penstock.kpis").joinpath("catalog.yaml").read_text(encoding="utf-8")
    metrics = dict(parse_catalog(text, "catalog.yaml").metrics)
    conversion = metrics["conversion_rate"]
    warning = Thresholds(warning=conversion_alert_threshold, critical=conversion.thresholds.critical)
    metrics["conversion_rate"] = replace(conversion, thresholds=warning)
    return Catalog(metrics)


def parse_catalog(text: str, source: str) -> Catalog:
    """The catalogue that `text` declares; `source` is its name in errors. Raises CatalogError."""
    metrics: dict[str, Metric] = {}
    try:
        for declared in _declarations(text):
            if declared.name in metrics:
                raise CatalogError(f"metric {declared.name} is declared twice", metric=declared.name, field="name")
            metrics[declared.name] = metric_of(declared)
        return checked(metrics)
    except CatalogError as error:
        raise CatalogError(f"{source}: {error}", metric=error.metric, field=error.field) from error


def metric_of(declared: Declaration, *, own: bool = False, update_time: datetime | None = None) -> Metric:
    """The metric that is declared. Raises CatalogError."""
    if declared.name in RESERVED:
        raise CatalogError(f"metric {declared.name}: that is a dimension", metric=declared.name, field="name")
    try:
        made = compiled(declared.expression, declared.type)
    except ExpressionError as error:
        raise CatalogError(f"metric {declared.name}: {error}", metric=declared.name) from error
    return Metric(**dict(declared), formula=made, own=own, update_time=update_time)


def checked(metrics: Mapping[str, Metric]) -> Catalog:
    """The catalogue of these metrics. Raises CatalogError where one is made of what there is not, or of itself."""
    catalog = Catalog(dict(sorted(metrics.items())))
    depths: dict[str, int] = {}
    for name in catalog.metrics:
        _depth(name, catalog.metrics, depths, ())
    return catalog


def _depth(name: str, metrics: Mapping[str, Metric], depths: dict[str, int], above: tuple[str, ...]) -> int:
    """How many metrics stand on top of each other, up to this one; `above` are those that lead here."""
    if name in depths:
        return depths[name]
    if name in above:
        circle = " → ".join((*above[above.index(name) :], name))
        raise CatalogError(f"metric {name}: it is made of itself: {circle}", metric=above[-1])
    depth = 1
    for part in formula.parts(metrics[name].formula):
        if isinstance(part, formula.Metric):
            if part.name not in metrics:
                raise CatalogError(f"metric {name}: unknown metric {part.name!r}", metric=name)
            depth = max(depth, 1 + _depth(part.name, metrics, depths, (*above, name)))
    if depth > limits.KPI_DEPTH_MAX:
        most = f"at most {limits.KPI_DEPTH_MAX} metrics may stand on top of each other"
        raise CatalogError(f"metric {name}: {most}", metric=name)
    depths[name] = depth
    return depth


def _declarations(text: str) -> list[Declaration]:
    try:
        return TypeAdapter(list[Declaration]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise CatalogError(str(error)) from error
    except ValidationError as error:
        wrong = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors())
        raise CatalogError(wrong) from error


def _place(location: tuple[int | str, ...]) -> str:
    """`metric 3, type` of pydantic's (2, "type")."""
    return ", ".join(f"metric {part + 1}" if isinstance(part, int) else part for part in location) or "the file"
