"""What a browser keeps for this server, so that it can neither read nor change it: a JWE."""

from collections.abc import Mapping

from joserfc import jwt
from joserfc.jwe import JWERegistry
from joserfc.jwk import OctKey

SEALED_CHARS_MAX = 2_048  # less than what any browser keeps as a cookie

_ALGORITHMS = ["dir", "A256GCM"]
_HEADER = {"alg": "dir", "enc": "A256GCM"}


def sealed(content: Mapping[str, str], expires: float, key: OctKey) -> str:
    """`content`, to be opened again until `expires`, in seconds since 1970."""
    claims = {**content, "exp": int(expires)}
    return jwt.encode(dict(_HEADER), claims, key, registry=JWERegistry(algorithms=_ALGORITHMS))


def opened(text: str, now: float, key: OctKey) -> dict[str, str] | None:
    """What was sealed; None when it was not, not with this key, or when its time is over."""
    if len(text) > SEALED_CHARS_MAX:
        return None
    try:
        claims = jwt.decode(text, key, registry=JWERegistry(algorithms=_ALGORITHMS)).claims
        if float(claims.pop("exp")) <= now:
            return None
    except Exception:  # whatever it was made to trip over, it is not ours
        return None
    return {name: str(value) for name, value in claims.items()}
