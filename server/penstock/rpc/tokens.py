"""Page and resume tokens: opaque to clients, a few numbers to us."""

import base64
import binascii
import json
from collections.abc import Sequence

from penstock.errors import PenstockError


def token(kind: str, values: Sequence[int | str]) -> str:
    """A token that says `values` to whoever asks with the same `kind`."""
    return base64.urlsafe_b64encode(json.dumps([kind, *values], separators=(",", ":")).encode()).decode().rstrip("=")


def values_of(kind: str, text: str, shape: Sequence[type], error: PenstockError) -> list[int | str]:
    """What the token says; raises `error` for one that is not ours."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        json.dumps(found, ensure_ascii=False).encode()  # JSON may name half a character, which no text can hold
    except (ValueError, binascii.Error) as fault:
        raise error from fault
    if not isinstance(found, list) or found[:1] != [kind] or [type(each) for each in found[1:]] != list(shape):
        raise error
    return found[1:]
