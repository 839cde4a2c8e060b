"""Newline-delimited JSON, as bodies bring it: in pieces that are cut anywhere."""

from collections.abc import AsyncIterator, Callable

from penstock import limits
from penstock.errors import InvalidInput


async def lines(pieces: AsyncIterator[bytes], stored: Callable[[], int]) -> AsyncIterator[tuple[int, bytes]]:
    """The non-empty lines with their numbers, from 1.

    Raises InvalidInput (LINE_TOO_LONG) for a line that passes COLLECT_BYTES_MAX, saying how many lines before it are
    stored, by `stored`.
    """
    rest, number = b"", 0
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, _bounded(line, stored)
        _bounded(rest, stored)
    if rest.strip():
        yield number + 1, rest


def _bounded(line: bytes, stored: Callable[[], int]) -> bytes:
    if len(line) > limits.COLLECT_BYTES_MAX:
        raise InvalidInput(
            f"a line passes {limits.COLLECT_BYTES_MAX} bytes; {stored()} lines before it are stored",
            reason="LINE_TOO_LONG",
            metadata={"accepted_rows": str(stored())},
        )
    return line
