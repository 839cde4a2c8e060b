"""Values of JSON as people send it: numbers as texts, names in any of the usual spellings."""

import math
import re
from typing import Any, TypeAlias

import orjson

from penstock import limits
from penstock.errors import InvalidInput, invalid_field

Json: TypeAlias = Any

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def json_object(data: bytes) -> dict[str, Json]:
    """The one JSON object that `data` is. Raises InvalidInput (INVALID_JSON) with the position."""
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"the body is no JSON: {error.msg} at line {error.lineno} column {error.colno}",
            reason="INVALID_JSON",
            metadata={"position": str(error.pos), "line": str(error.lineno), "column": str(error.colno)},
        ) from error
    if not isinstance(parsed, dict):
        raise InvalidInput("the body must be one JSON object", reason="INVALID_JSON", metadata={"position": "0"})
    return parsed


def snake_case(name: str) -> str:
    """`utmSource`, `utm-source` and `utm_source` are one name."""
    return _HUMP.sub("_", name).lower().replace("-", "_")


def depth(value: Json) -> int:
    """How deep lists and objects are nested, up to one more than JSON_DEPTH_MAX."""
    level, levels = [value], 0
    while level and levels <= limits.JSON_DEPTH_MAX:
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
        levels += bool(nested)
        if not nested:
            break
    return levels


def text(field: str, value: Json) -> str:
    """A text, or a number as one. Raises InvalidInput naming the field."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_field(field, "must be text")
    return str(value)


def number(field: str, value: Json, reason: str = "INVALID_FIELD") -> float:
    """A finite number, or a text that is one. Raises InvalidInput naming the field."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise invalid_field(field, "must be a number", reason=reason) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid_field(field, "must be a finite number", reason=reason)
    return float(value)


def whole(field: str, value: Json) -> int:
    """A whole number of 32 bits, or a text that is one. Raises InvalidInput naming the field."""
    found = number(field, value)
    if found != int(found) or abs(found) > 2**31 - 1:
        raise invalid_field(field, "must be a whole number that fits 32 bits")
    return int(found)
