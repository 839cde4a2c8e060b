"""Page and resume tokens: opaque to clients, a few numbers to us.

A token is of its tenant: one that another tenant was given is refused, and so leaves a line in the log. It is not
signed: whoever makes one up reads their own rows from wherever they like.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from penstock.errors import PenstockError


def token(tenant: str, kind: str, values: Sequence[int | str]) -> str:
    """A token that says `values` to whoever of the tenant asks with the same `kind`."""
    said = json.dumps([_of(tenant, kind), *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def values_of(tenant: str, kind: str, text: str, shape: Sequence[type], error: PenstockError) -> list[int | str]:
    """What the token says; raises `error` for one that is not ours, or not the tenant's."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        json.dumps(found, ensure_ascii=False).encode()  # JSON may name half a character, which no text can hold
    except (ValueError, binascii.Error) as fault:
        raise error from fault
    own = _of(tenant, kind)
    if not isinstance(found, list) or found[:1] != [own] or [type(each) for each in found[1:]] != list(shape):
        raise error
    return found[1:]


def _of(tenant: str, kind: str) -> str:
    # A digest: tokens are handed around, and need not say whose they are.
    return f"{kind}:{hashlib.blake2s(tenant.encode(), digest_size=6).hexdigest()}"
