"""Values for the parameters of a statement: from JSON to what the engine binds to `{name:Type}`.

Values are bound, never spliced. What a value must look like is the type's to say, and the engine checks it; here is
only what JSON cannot say (integers are doubles there, tuples are lists, times are RFC 3339) and what ClickHouse does
not check (an integer beyond its type's range wraps around).
"""

import re
from collections.abc import Mapping
from datetime import datetime

from penstock.errors import InvalidInput, Violation
from penstock.storage.user_sql.statement import EXACT_MAX, Bound

_NAMED = re.compile(r"\{\s*([A-Za-z_]\w*)\s*:")
_INTEGER = re.compile(r"\b(U?)Int(8|16|32|64|128|256)\b")
_TIME = re.compile(r"\bDateTime")
_DIGITS = re.compile(r"-?\d+")
_WHOLE = re.compile(r"(?:(?:Nullable|LowCardinality)\()*(?P<name>\w+)")


def named_in(sql: str) -> frozenset[str]:
    """The names that a text may use as parameters; in its strings, too, where they are none."""
    return frozenset(_NAMED.findall(sql))


def bound(types: Mapping[str, str], values: Mapping[str, object]) -> dict[str, Bound]:
    """The values of all parameters in `types`. Raises InvalidInput (INVALID_PARAMETER) naming those that are wrong."""
    violations = [
        *(
            _violation(name, f"the statement needs a value of type {types[name]}")
            for name in types
            if name not in values
        ),
        *(_violation(name, "the statement has no parameter of this name") for name in values if name not in types),
    ]
    made: dict[str, Bound] = {}
    for name in types.keys() & values.keys():
        try:
            made[name] = _value(values[name], types[name], outer=True)
        except ValueError as error:
            violations.append(_violation(name, str(error)))
    if violations:
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidInput(text, reason="INVALID_PARAMETER", violations=violations)
    return made


def _violation(name: str, description: str) -> Violation:
    return Violation(f"parameters.{name}", description)


def _value(value: object, kind: str, *, outer: bool) -> Bound:
    name = _WHOLE.match(kind)
    if isinstance(value, list):
        if outer and (name is None or name["name"] not in ("Array", "Tuple")):
            raise ValueError(f"a list is no value of type {kind}")
        made = [_value(each, kind, outer=False) for each in value]
        return tuple(made) if name is not None and name["name"] == "Tuple" else made
    if isinstance(value, dict):
        raise ValueError("an object cannot be bound; send its parts as parameters of their own")
    if value is None:
        if outer and "Nullable" not in kind:
            raise ValueError(f"null is no value of type {kind}; Nullable({kind}) takes it")
        return None
    if isinstance(value, bool):
        return str(value).lower() if "String" in kind else int(value)
    if isinstance(value, int | float):
        return _number(value, kind)
    if isinstance(value, str):
        return _text(value, kind)
    raise ValueError(f"{type(value).__name__} cannot be bound")


def _number(value: int | float, kind: str) -> Bound:
    if value != value // 1:
        return value
    if isinstance(value, float) and abs(value) > EXACT_MAX and _INTEGER.search(kind):
        raise ValueError("JSON numbers are exact up to 2^53; send a larger integer as a string")
    return _in_range(int(value), kind)


def _text(value: str, kind: str) -> Bound:
    if _INTEGER.search(kind) and "String" not in kind and _DIGITS.fullmatch(value):
        return _in_range(int(value), kind)
    if _TIME.search(kind) and "String" not in kind and "T" in value:
        # The engine reads 2024-05-01 12:00:00, in the type's own time zone.
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is no time as RFC 3339 writes it") from error
    return value


def _in_range(value: int, kind: str) -> int:
    types = _INTEGER.findall(kind)
    if len(types) == 1:
        unsigned, bits = bool(types[0][0]), int(types[0][1])
        least, most = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range of {kind}")
    return value
