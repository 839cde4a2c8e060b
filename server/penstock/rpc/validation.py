"""Enforces the bounds that the contract declares."""

from typing import Any

from google.protobuf.message import Message
from protovalidate import Validator

from penstock.errors import InvalidInput, Violation


class Bounds:
    """Checks messages against the constraints of their fields."""

    def __init__(self) -> None:
        self._validator = Validator()

    def check(self, message: Message) -> None:
        """Raises InvalidInput (INVALID_FIELD) that names every field which breaks its bound."""
        found = self._validator.collect_violations(message)
        if found:
            violations = [Violation(_path(each.proto.field), each.proto.message) for each in found]
            text = "; ".join(f"{v.field}: {v.description}" for v in violations)
            raise InvalidInput(text, reason="INVALID_FIELD", violations=violations)


def _path(field: Any) -> str:
    """`events[3].price` of protovalidate's field path."""
    names = []
    for element in field.elements:
        subscript = element.subscript
        names.append(element.field_name + (f"[{subscript.value!r}]" if subscript is not None else ""))
    return ".".join(names)
