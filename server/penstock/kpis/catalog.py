"""The catalogue: every metric declared once, in catalog.yaml, and checked at start.

All SQL over gold is composed from it and all values come out through it, so a metric means the same in every answer and
its value never depends on what else was asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from penstock.kpis.expression import Aggregate, ExpressionError, MetricType, Ratio, compiled
from penstock.storage.engine import Row

# Values by metric: int of counts and uniques, Decimal of sums, float of ratios, None of a ratio without denominator.
Values: TypeAlias = dict[str, Any]


class CatalogError(ValueError):
    """The catalogue cannot be used; the message says which metric and why."""


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


class _Declaration(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,63}$")
    label: str = Field(min_length=1, max_length=64)
    description: str = Field(min_length=1, max_length=512)
    unit: Unit
    type: MetricType
    expression: str = Field(min_length=1, max_length=512)
    good_direction: Direction


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
    formula: Aggregate | Ratio


@dataclass(frozen=True, slots=True)
class Catalog:
    """The metrics by name, in the order of their names."""

    metrics: Mapping[str, Metric]

    def select(self, names: Iterable[str]) -> str:
        """The select list over `gold_kpis AS gold` from whose row `values` makes the metrics; binds `currency`."""
        needed: dict[str, str] = {}
        for name in names:
            for part in self._parts(self.metrics[name]):
                needed[part.name] = f"{_sql(part)} AS {part.name}"
        return ",\n    ".join(needed.values())

    def values(self, names: Sequence[str], row: Row) -> Values:
        """The metrics of one row that `select` of the same names read."""
        return {name: self._value(self.metrics[name], row) for name in names}

    def _parts(self, metric: Metric) -> list[Metric]:
        if isinstance(metric.formula, Ratio):
            return [self.metrics[metric.formula.numerator], self.metrics[metric.formula.denominator]]
        return [metric]

    def _value(self, metric: Metric, row: Row) -> Any:
        if isinstance(metric.formula, Aggregate):
            return row[metric.name]
        denominator = row[metric.formula.denominator]
        return float(row[metric.formula.numerator] / denominator) if denominator else None


def load_catalog() -> Catalog:
    """The catalogue that comes with Penstock. Raises CatalogError."""
    return parse_catalog(files("penstock.kpis").joinpath("catalog.yaml").read_text(encoding="utf-8"), "catalog.yaml")


def parse_catalog(text: str, source: str) -> Catalog:
    """The catalogue that `text` declares; `source` is its name in errors. Raises CatalogError."""
    metrics: dict[str, Metric] = {}
    for declared in _declarations(text, source):
        if declared.name in metrics:
            raise CatalogError(f"{source}: metric {declared.name} is declared twice")
        try:
            formula = compiled(declared.expression, declared.type)
        except ExpressionError as error:
            raise CatalogError(f"{source}: metric {declared.name}: {error}") from error
        metrics[declared.name] = Metric(**dict(declared), formula=formula)
    for metric in metrics.values():
        _check_parts(metric, metrics, source)
    return Catalog(dict(sorted(metrics.items())))


def _declarations(text: str, source: str) -> list[_Declaration]:
    try:
        return TypeAdapter(list[_Declaration]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise CatalogError(f"{source}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors())
        raise CatalogError(f"{source}: {wrong}") from error


def _place(location: tuple[int | str, ...]) -> str:
    """`metric 3, type` of pydantic's (2, "type")."""
    return ", ".join(f"metric {part + 1}" if isinstance(part, int) else part for part in location) or "the file"


def _check_parts(metric: Metric, metrics: Mapping[str, Metric], source: str) -> None:
    if not isinstance(metric.formula, Ratio):
        return
    for part in (metric.formula.numerator, metric.formula.denominator):
        if part not in metrics:
            raise CatalogError(f"{source}: metric {metric.name}: unknown metric {part!r}")
        if isinstance(metrics[part].formula, Ratio):
            raise CatalogError(f"{source}: metric {metric.name}: {part!r} is a ratio itself, and ratios do not nest")


def _sql(metric: Metric) -> str:
    if isinstance(metric.formula, Ratio):
        raise TypeError(f"{metric.name} is made of its parts")
    return metric.formula.sql
