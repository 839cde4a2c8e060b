"""The language of the catalogue's expressions: small and closed, so that no metric can reach past what it counts.

    count       count(), count(event_type = 'signup'), count(session.page_views <= 1 and not session.converted)
    sum         sum(amount, event_type = 'purchase' and properties.channel = 'app')
    unique      unique(visitor, event_type in ('search', 'page_view')), counted anew for every window
    ratio       purchase_users / view_users, or average(session.seconds)
    derived     gmv - abs(refunds), arithmetic over other metrics
    cumulative  cumulative(gmv), from the start of the range

Conditions are `=`, `!=`, `<`, `<=`, `>`, `>=`, `in (…)`, `not in (…)`, `starts_with(field, 'text')`, `contains(field,
'text')`, and `and`, `or`, `not` over them. Fields of events stand by their names, those of sessions behind `session.`,
properties behind `properties.` or in `properties['any key']`. Amounts are of the reporting currency.

Python's own tokens and parser read them; whatever is not listed here is refused, and what is read is a tree of what
was understood, from which SQL is written with every text bound.
"""

import ast
import io
import tokenize
import warnings
from decimal import Decimal
from enum import StrEnum
from math import isfinite

from penstock.kpis.fields import FIELDS, KEY_BYTES_MAX, PROPERTIES, Field, Kind, Source
from penstock.kpis.formula import (
    Aggregate,
    All,
    Compared,
    Comparison,
    Condition,
    Flag,
    Formula,
    Function,
    Given,
    Magnitude,
    Metric,
    Not,
    Number,
    Operation,
    Operator,
    Ratio,
    Running,
    Some,
)


class MetricType(StrEnum):
    """How a metric is made, and so how it rolls up in time."""

    COUNT = "count"
    SUM = "sum"
    UNIQUE = "unique"
    RATIO = "ratio"
    DERIVED = "derived"
    CUMULATIVE = "cumulative"


class ExpressionError(ValueError):
    """An expression that is not of the language, or not of its metric's type."""


_OPERATORS: dict[type[ast.operator], Operator] = {
    ast.Add: Operator.PLUS,
    ast.Sub: Operator.MINUS,
    ast.Mult: Operator.TIMES,
    ast.Div: Operator.BY,
}
_ORDERED: dict[type[ast.cmpop], Comparison] = {
    ast.Lt: Comparison.LESS,
    ast.LtE: Comparison.AT_MOST,
    ast.Gt: Comparison.MORE,
    ast.GtE: Comparison.AT_LEAST,
}
_SEARCHES = {"starts_with": Comparison.STARTS_WITH, "contains": Comparison.CONTAINS}
_SESSION = "session"
_EVENT_DEFAULT = "unique_in_currency"
_NESTED_MAX = 32  # Python's own parser and the functions here go down once a level


def compiled(expression: str, metric_type: MetricType) -> Formula:
    """What the expression computes. Raises ExpressionError, which says what is wrong with it."""
    node = _parsed(expression)
    match metric_type:
        case MetricType.RATIO:
            return _ratio(node)
        case MetricType.DERIVED:
            return _derived(node)
        case MetricType.CUMULATIVE:
            return _running(node)
        case MetricType.COUNT | MetricType.SUM | MetricType.UNIQUE:
            return _aggregate(node, metric_type)


def _parsed(expression: str) -> ast.expr:
    unreadable = ExpressionError(f"{expression!r} cannot be read")
    if "\\" in expression or "\n" in expression or "\0" in expression:
        raise unreadable  # a text with a quote in it stands in quotes of the other kind
    if (
        sum(map(expression.count, "([{")) > _NESTED_MAX
        or expression.count("not ") + expression.count("-") > _NESTED_MAX
    ):
        raise ExpressionError(f"an expression may have {_NESTED_MAX} parentheses and as many negations")
    try:
        tokens = [
            (each.type, "==" if each.type == tokenize.OP and each.string == "=" else each.string)
            for each in tokenize.generate_tokens(io.StringIO(expression).readline)
        ]
        with warnings.catch_warnings(action="ignore"):  # of `1 is 1` and the like, which is refused anyway
            return ast.parse(tokenize.untokenize(tokens).strip(), mode="eval").body
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        raise unreadable from None


# --- over metrics ----------------------------------------


def _ratio(node: ast.expr) -> Ratio:
    match node:
        case ast.BinOp(left=ast.Name(id=numerator), op=ast.Div(), right=ast.Name(id=denominator)):
            return Ratio(Metric(numerator), Metric(denominator))
        case ast.Call(func=ast.Name(id="average"), args=[value, *rest], keywords=[]) if len(rest) <= 1:
            field = _value_field(value)
            condition = _condition(rest[0], field.source) if rest else None
            return Ratio(_sum(field, condition), _sum_of_present(field, condition))
    raise ExpressionError(f"a ratio is `metric / metric` or `average(field)`, not {ast.unparse(node)!r}")


def _derived(node: ast.expr) -> Formula:
    match node:
        case ast.Name(id=name):
            return Metric(name)
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Number(Decimal(str(_number(number))))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return Operation(Operator.MINUS, Number(Decimal(0)), _derived(inner))
        case ast.Call(func=ast.Name(id="abs"), args=[inner], keywords=[]):
            return Magnitude(_derived(inner))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return Operation(_OPERATORS[type(operator)], _derived(left), _derived(right))
    raise ExpressionError(
        f"a derived metric is `+`, `-`, `*`, `/` and `abs` over metrics and numbers; {ast.unparse(node)!r} is not"
    )


def _running(node: ast.expr) -> Running:
    match node:
        case ast.Call(func=ast.Name(id="cumulative"), args=[ast.Name(id=name)], keywords=[]):
            return Running(Metric(name))
    raise ExpressionError(f"a cumulative metric is `cumulative(metric)`, not {ast.unparse(node)!r}")


# --- over events and sessions ----------------------------------------


def _aggregate(node: ast.expr, metric_type: MetricType) -> Aggregate:
    match node:
        case ast.Call(func=ast.Name(id=called), args=arguments, keywords=[]):
            pass
        case _:
            raise _misplaced(node, metric_type)
    known = [metric_type.value, _EVENT_DEFAULT] if metric_type is MetricType.UNIQUE else [metric_type.value]
    if called not in known:
        raise ExpressionError(
            f"unknown function {called!r} in a metric of type {metric_type}; known: {', '.join(known)}"
        )
    match metric_type, arguments:
        case MetricType.COUNT, []:
            return Aggregate(Function.COUNT, Source.EVENTS)
        case MetricType.COUNT, [ast.Name(id=name)] if name == _SESSION:
            return Aggregate(Function.COUNT, Source.SESSIONS)
        case MetricType.COUNT, [only]:
            source = _source_of(only)
            return Aggregate(Function.COUNT, source, condition=_condition(only, source))
        case MetricType.SUM, [value, *rest] if len(rest) <= 1:
            field = _value_field(value)
            return _sum(field, _condition(rest[0], field.source) if rest else None)
        case MetricType.UNIQUE, [value, *rest] if len(rest) <= 1:
            field = _field(value)
            if field.kind not in (Kind.TEXT, Kind.PROPERTY):
                raise ExpressionError(f"{ast.unparse(value)} holds {field.kind}; unique counts texts")
            if called == _EVENT_DEFAULT and field.source is Source.SESSIONS:
                raise ExpressionError("sessions have no currency")
            condition = _condition(rest[0], field.source) if rest else None
            return Aggregate(Function.UNIQUE, field.source, field, condition, called == _EVENT_DEFAULT)
    raise _misplaced(node, metric_type)


def _misplaced(node: ast.expr, metric_type: MetricType) -> ExpressionError:
    return ExpressionError(f"{ast.unparse(node)!r} cannot stand in a metric of type {metric_type}")


def _sum(field: Field, condition: Condition | None) -> Aggregate:
    return Aggregate(Function.SUM, field.source, field, condition, in_currency=field.money)


def _sum_of_present(field: Field, condition: Condition | None) -> Aggregate:
    """The number of what an average is over."""
    given = Given(field) if field.nullable or field.kind is Kind.PROPERTY else None
    both = tuple(each for each in (condition, given) if each is not None)
    whole = both[0] if len(both) == 1 else All(both) if both else None
    return Aggregate(Function.COUNT, field.source, condition=whole, in_currency=field.money)


def _value_field(node: ast.expr) -> Field:
    field = _field(node)
    if field.kind not in (Kind.NUMBER, Kind.PROPERTY):
        raise ExpressionError(f"{ast.unparse(node)} holds {field.kind}; what is added up are numbers")
    return field


def _source_of(node: ast.expr) -> Source:
    """What a condition is about; it must be one of both, which `_field` checks."""
    names = (each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name))
    return Source.SESSIONS if any(each.value.id == _SESSION for each in names) else Source.EVENTS  # type: ignore[attr-defined]


def _field(node: ast.expr, source: Source | None = None) -> Field:
    match node:
        case ast.Name(id=name):
            found = _known(Source.EVENTS, name, name)
        case ast.Attribute(value=ast.Name(id="session"), attr=name):
            found = _known(Source.SESSIONS, name, f"session.{name}")
        case ast.Attribute(value=ast.Name(id="properties"), attr=key):
            found = _property(key)
        case ast.Subscript(value=ast.Name(id="properties"), slice=ast.Constant(value=str() as key)):
            found = _property(key)
        case _:
            raise ExpressionError(f"{ast.unparse(node)!r} is not a field")
    if source is not None and found.source is not source:
        raise ExpressionError(f"{ast.unparse(node)!r} is of {found.source}; the rest of the metric is of {source}")
    return found


def _known(source: Source, name: str, written: str) -> Field:
    fields = FIELDS[source]
    if name not in fields:
        raise ExpressionError(f"unknown field {written!r}; known: {', '.join(fields)} of {source}")
    return fields[name]


def _property(key: str) -> Field:
    if not 0 < len(key.encode()) <= KEY_BYTES_MAX:
        raise ExpressionError(f"the key of a property has 1 to {KEY_BYTES_MAX} bytes")
    return Field(Source.EVENTS, PROPERTIES + key, Kind.PROPERTY)


def _condition(node: ast.expr, source: Source) -> Condition:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return All(tuple(_condition(each, source) for each in values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return Some(tuple(_condition(each, source) for each in values))
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return Not(_condition(inner, source))
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return _comparison(_field(left, source), operator, right)
        case ast.Call(func=ast.Name(id=search), args=[left, ast.Constant(value=str() as text)], keywords=[]) if (
            search in _SEARCHES
        ):
            field = _field(left, source)
            if field.kind not in (Kind.TEXT, Kind.PROPERTY):
                raise ExpressionError(f"{field.name} holds {field.kind}; {search} looks into texts")
            return Compared(field, _SEARCHES[search], (text,))
        case ast.Name() | ast.Attribute() | ast.Subscript():
            field = _field(node, source)
            if field.kind is Kind.FLAG:
                return Flag(field)
            raise ExpressionError(f"{ast.unparse(node)!r} holds {field.kind}: compare it with something")
    raise ExpressionError(f"{ast.unparse(node)!r} is not a condition")


def _comparison(field: Field, operator: ast.cmpop, right: ast.expr) -> Condition:
    values = _literals(right)
    texts = tuple(each for each in values if isinstance(each, str))
    numbers = tuple(each for each in values if not isinstance(each, str))
    if field.kind is Kind.FLAG or (texts and numbers):
        raise ExpressionError(f"{field.name} cannot be compared with {ast.unparse(right)}")
    if (texts and field.kind is Kind.NUMBER) or (numbers and field.kind is Kind.TEXT):
        raise ExpressionError(f"{field.name} holds {field.kind} and cannot be compared with {ast.unparse(right)}")
    chosen: tuple[str, ...] | tuple[float, ...] = texts or numbers
    single = isinstance(right, ast.Constant | ast.UnaryOp)
    match operator:
        case ast.Eq() if single:
            return Compared(field, Comparison.IN, chosen)
        case ast.NotEq() if single:
            return Not(Compared(field, Comparison.IN, chosen))
        case ast.In() if not single:
            return Compared(field, Comparison.IN, chosen)
        case ast.NotIn() if not single:
            return Not(Compared(field, Comparison.IN, chosen))
    if type(operator) in _ORDERED and numbers and single:
        return Compared(field, _ORDERED[type(operator)], chosen)
    raise ExpressionError(f"{field.name} cannot be compared so with {ast.unparse(right)}")


def _literals(node: ast.expr) -> list[str | float]:
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return [_number(number)]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return [-_number(number)]
        case ast.Tuple(elts=[_, *_] as each) | ast.List(elts=[_, *_] as each):
            if all(isinstance(one, ast.Constant | ast.UnaryOp) for one in each):
                return [value for one in each for value in _literals(one)]
    raise ExpressionError(f"{ast.unparse(node)!r} is neither a text, a number nor a list of them")


def _number(written: float) -> float:
    try:
        number = float(written)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise ExpressionError(f"{written!r} is too large a number")
    return number
