"""The language of the catalogue's expressions: small and closed, so that no metric can reach past the gold it reads.

    count    sum(page_views)                 of event counters; adds up over windows
    sum      sum(gmv) - abs(sum(refunds))    of amounts in the reporting currency
    unique   unique(purchase_users)          counted anew for every window; also unique_in_currency(orders)
    ratio    purchase_users / view_users     one metric by another

Python's own parser reads them; whatever is not listed here is refused.
"""

import ast
from dataclasses import dataclass
from enum import Enum, StrEnum


class MetricType(StrEnum):
    """How a metric is made, and so how it rolls up in time."""

    COUNT = "count"
    SUM = "sum"
    UNIQUE = "unique"
    RATIO = "ratio"


class ExpressionError(ValueError):
    """An expression that is not of the language, or not of its metric's type."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """SQL of an aggregate over rows of `gold_kpis AS gold`; it may bind `currency`."""

    sql: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """One metric by another, both by name."""

    numerator: str
    denominator: str


class _Column(Enum):
    """What a column of gold holds."""

    COUNTER = "a counter"
    AMOUNT = "an amount"
    DISTINCT = "a set of distinct values"


_COLUMNS = {
    "events": _Column.COUNTER,
    "page_views": _Column.COUNTER,
    "add_to_carts": _Column.COUNTER,
    "purchases": _Column.COUNTER,
    "gmv": _Column.AMOUNT,
    "refunds": _Column.AMOUNT,
    "orders": _Column.DISTINCT,
    "purchase_users": _Column.DISTINCT,
    "view_users": _Column.DISTINCT,
    "cart_users": _Column.DISTINCT,
    "active_users": _Column.DISTINCT,
}
# By type: what it may aggregate, and how. Columns are qualified because a metric may be named as its column is.
_FUNCTIONS = {
    MetricType.COUNT: (_Column.COUNTER, {"sum": "sum(gold.%s)"}),
    MetricType.SUM: (_Column.AMOUNT, {"sum": "sumIf(gold.%s, gold.currency = {currency:String})"}),
    MetricType.UNIQUE: (
        _Column.DISTINCT,
        {
            "unique": "uniqExactMerge(gold.%s)",
            "unique_in_currency": "uniqExactMergeIf(gold.%s, gold.currency = {currency:String})",
        },
    ),
}


def compiled(expression: str, metric_type: MetricType) -> Aggregate | Ratio:
    """What the expression computes. Raises ExpressionError, which says what is wrong with it."""
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        raise ExpressionError(f"{expression!r} cannot be read") from None
    return _ratio(node) if metric_type is MetricType.RATIO else Aggregate(_aggregate(node, metric_type))


def _ratio(node: ast.expr) -> Ratio:
    match node:
        case ast.BinOp(left=ast.Name(id=numerator), op=ast.Div(), right=ast.Name(id=denominator)):
            return Ratio(numerator, denominator)
    raise ExpressionError(f"a ratio is `metric / metric`, not {ast.unparse(node)!r}")


def _aggregate(node: ast.expr, metric_type: MetricType) -> str:
    additive = metric_type is not MetricType.UNIQUE  # a sum of distinct counts would count some twice
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as operator, right=right) if additive:
            sign = "+" if isinstance(operator, ast.Add) else "-"
            return f"({_aggregate(left, metric_type)} {sign} {_aggregate(right, metric_type)})"
        case ast.Call(func=ast.Name(id="abs"), args=[inner], keywords=[]) if additive:
            return f"abs({_aggregate(inner, metric_type)})"
        case ast.Call(func=ast.Name(id=function), args=[ast.Name(id=column)], keywords=[]):
            return _over_column(function, column, metric_type)
    raise ExpressionError(f"{ast.unparse(node)!r} cannot stand in a metric of type {metric_type}")


def _over_column(function: str, column: str, metric_type: MetricType) -> str:
    wanted, functions = _FUNCTIONS[metric_type]
    if function not in functions:
        known = ", ".join(functions)
        raise ExpressionError(f"unknown function {function!r} in a metric of type {metric_type}; known: {known}")
    if column not in _COLUMNS:
        raise ExpressionError(f"unknown column {column!r}; known: {', '.join(_COLUMNS)}")
    if _COLUMNS[column] is not wanted:
        held = _COLUMNS[column].value
        raise ExpressionError(f"column {column!r} holds {held}; a metric of type {metric_type} reads {wanted.value}")
    return functions[function] % column
