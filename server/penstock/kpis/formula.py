"""What a metric computes: aggregates of events or sessions, and arithmetic over other metrics.

Absence spreads: whatever is made of a value that is not there is not there either, and a division by zero has no value.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from operator import add, mul, sub, truediv
from typing import TypeAlias

from penstock.kpis.fields import Bindings, Field, Kind, Source, number_sql, text_sql

# int of counts and uniques, Decimal of amounts, float of what is divided or read from texts; None where there is none.
Value: TypeAlias = int | float | Decimal | None


class Comparison(StrEnum):
    """How a field is compared with values."""

    IN = "in"  # one of them; `=` with a single one
    STARTS_WITH = "starts_with"
    CONTAINS = "contains"
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Compared:
    """Holds where the field compares so with one of the values. A number that is not there compares with nothing."""

    field: Field
    comparison: Comparison
    values: tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """Holds where there is a number."""

    field: Field


@dataclass(frozen=True, slots=True)
class Flag:
    """Holds where the field says yes."""

    field: Field


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where the other does not."""

    condition: "Condition"


@dataclass(frozen=True, slots=True)
class All:
    """Holds where all hold."""

    conditions: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """Holds where at least one holds."""

    conditions: "tuple[Condition, ...]"


Condition: TypeAlias = Compared | Given | Flag | Not | All | Some


class Function(StrEnum):
    """How things become one number."""

    COUNT = "count"
    SUM = "sum"
    UNIQUE = "unique"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A number of, a sum over or the distinct ones among the events or sessions for which the condition holds."""

    function: Function
    source: Source
    field: Field | None = None  # of sums and uniques
    condition: Condition | None = None
    in_currency: bool = False  # only those in the currency that amounts are in

    @property
    def empty(self) -> Value:
        """Its value where there is nothing."""
        return Decimal(0) if self.field is not None and self.field.money else 0


@dataclass(frozen=True, slots=True)
class Metric:
    """Another metric, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number that was written."""

    value: Decimal


@dataclass(frozen=True, slots=True)
class Magnitude:
    """A value without its sign."""

    of: "Formula"


class Operator(StrEnum):
    """Arithmetic."""

    PLUS = "+"
    MINUS = "-"
    TIMES = "*"
    BY = "/"


@dataclass(frozen=True, slots=True)
class Operation:
    """Two values made one."""

    operator: Operator
    left: "Formula"
    right: "Formula"


@dataclass(frozen=True, slots=True)
class Ratio:
    """One value by another, both kept: whoever judges a rate needs to know what it rests on."""

    numerator: "Formula"
    denominator: "Formula"


@dataclass(frozen=True, slots=True)
class Running:
    """A metric from the start of the range up to the end of the window."""

    of: Metric


Formula: TypeAlias = Aggregate | Metric | Number | Magnitude | Operation | Ratio | Running


def parts(formula: Formula) -> Iterator[Formula]:
    """The formula and all that it is written of; metrics by their names only."""
    yield formula
    match formula:
        case Magnitude(of) | Running(of):
            yield from parts(of)
        case Operation(_, left, right) | Ratio(left, right):
            yield from parts(left)
            yield from parts(right)


def computed(formula: Formula, aggregates: Mapping[Aggregate, Value], metric: Callable[[str, bool], Value]) -> Value:
    """The formula's value. `metric` gives that of a metric by name, of the window or with True up to its end."""
    match formula:
        case Aggregate():
            value = aggregates.get(formula, formula.empty)
            return value if value is not None and isfinite(value) else None
        case Metric(name):
            return metric(name, False)
        case Running(Metric(name)):
            return metric(name, True)
        case Number(written):
            return written
        case Magnitude(of):
            inner = computed(of, aggregates, metric)
            return -inner if inner is not None and inner < 0 else inner
        case Ratio(numerator, denominator):
            divided = Operation(Operator.BY, numerator, denominator)
            found = computed(divided, aggregates, metric)
            return None if found is None else float(found)
        case Operation(operator, left, right):
            return _combined(operator, computed(left, aggregates, metric), computed(right, aggregates, metric))


def _combined(operator: Operator, left: Value, right: Value) -> Value:
    if left is None or right is None:
        return None
    if operator is Operator.BY and not right:
        return None
    found: float | Decimal
    try:
        if isinstance(left, float) or isinstance(right, float):
            found = _FLOATS[operator](float(left), float(right))
        else:
            found = _DECIMALS[operator](Decimal(left), Decimal(right))
    except ArithmeticError:  # larger than any number there is
        return None
    return found if isfinite(found) else None


_FLOATS: Mapping[Operator, Callable[[float, float], float]] = {
    Operator.PLUS: add,
    Operator.MINUS: sub,
    Operator.TIMES: mul,
    Operator.BY: truediv,
}
_DECIMALS: Mapping[Operator, Callable[[Decimal, Decimal], Decimal]] = {
    Operator.PLUS: add,
    Operator.MINUS: sub,
    Operator.TIMES: mul,
    Operator.BY: truediv,
}


def condition_sql(condition: Condition, bind: Bindings) -> str:
    """SQL that is 1 where the condition holds and 0 where not, never NULL."""
    match condition:
        case All(conditions):
            return f"({' AND '.join(condition_sql(each, bind) for each in conditions)})"
        case Some(conditions):
            return f"({' OR '.join(condition_sql(each, bind) for each in conditions)})"
        case Not(inner):
            return f"NOT {condition_sql(inner, bind)}"
        case Flag(field):
            return f"({field.sql})"
        case Given(field):
            return f"isNotNull({number_sql(field, bind)})"
        case Compared(field, comparison, values):
            return _compared_sql(field, comparison, values, bind)


def _compared_sql(
    field: Field, comparison: Comparison, values: tuple[str, ...] | tuple[float, ...], bind: Bindings
) -> str:
    if not isinstance(values[0], str):
        number = f"toFloat64({number_sql(field, bind)})"
        operator = "=" if comparison is Comparison.IN else comparison.value
        either = " OR ".join(f"{number} {operator} {bind.add(value, 'Float64')}" for value in values)
        return f"ifNull({either}, 0)"
    text = text_sql(field, bind)
    match comparison:
        case Comparison.IN if len(values) == 1:
            return f"({text} = {bind.text(values[0])})"
        case Comparison.IN:
            return f"({text} IN {bind.add(list(values), 'Array(String)')})"
        case Comparison.STARTS_WITH:
            return f"({' OR '.join(f'startsWith({text}, {bind.text(str(value))})' for value in values)})"
        case _:
            return f"({' OR '.join(f'position({text}, {bind.text(str(value))}) > 0' for value in values)})"


def aggregate_sql(aggregate: Aggregate, bind: Bindings, currency: str) -> str:
    """The aggregate over rows of its source. `currency` is SQL of the currency that amounts are in; empty: any."""
    conditions = [condition_sql(aggregate.condition, bind)] if aggregate.condition is not None else []
    if aggregate.in_currency and currency:
        conditions.append(f"(currency = {currency})")
    match aggregate:
        case Aggregate(Function.COUNT):
            return f"countIf({' AND '.join(conditions)})" if conditions else "count()"
        case Aggregate(Function.SUM, field=Field() as field):
            number = number_sql(field, bind)
            value = f"ifNull({number}, 0)" if field.nullable or field.kind is Kind.PROPERTY else number
            return f"sumIf({value}, {' AND '.join(conditions)})" if conditions else f"sum({value})"
        case Aggregate(Function.UNIQUE, field=Field() as field):
            text = text_sql(field, bind)
            conditions.append(f"({text} != '')")
            return f"uniqExactIf({text}, {' AND '.join(conditions)})"
    raise TypeError(f"{aggregate.function} needs a field")
