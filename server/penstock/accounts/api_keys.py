"""What an API key looks like: `pk_<id>_<secret>`.

The last six characters are a checksum of the rest, so that a scanner that finds one in a text knows that it is one, and
a slip of the hand is told from a key that was revoked, without asking anybody.
"""

import re
import zlib
from dataclasses import dataclass, field

from penstock.accounts.secret_text import ALPHABET, SECRET_CHARS, drawn, same

PREFIX = "pk_"
ID_CHARS = 12  # 71 bits: two keys do not meet by chance
CHECKSUM_CHARS = 6  # of 62 letters and digits, more than 32 bits

_KEY = re.compile(
    rf"(?P<body>pk_(?P<id>[0-9A-Za-z]{{{ID_CHARS}}})_(?P<secret>[0-9A-Za-z]{{{SECRET_CHARS}}}))"
    rf"(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """An API key taken apart."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The key, as it is shown once and then brought with each call."""
        body = f"{PREFIX}{self.id}_{self.secret}"
        return body + _checksum(body)


def minted() -> Parts:
    """A new key."""
    return Parts(drawn(ID_CHARS), drawn(SECRET_CHARS))


def parsed(text: str) -> Parts | None:
    """The parts of a key; None for what is none."""
    match = _KEY.fullmatch(text)
    if match is None or not same(_checksum(match["body"]), match["checksum"]):
        return None
    return Parts(match["id"], match["secret"])


def _checksum(body: str) -> str:
    rest, found = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(ALPHABET))
        found = ALPHABET[digit] + found
    return found
