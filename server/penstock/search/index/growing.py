"""Arrays that only grow, so that a reader keeps what it saw without a copy."""

from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

_FIRST_ROWS = 1024

Scalar = TypeVar("Scalar", bound=np.generic)


class Growing(Generic[Scalar]):
    """Rows in one buffer with room behind them, written by one thread.

    `view(n)` shares the buffer: rows below `n` are never written again, so a view is immutable although its buffer is
    not. A full buffer is replaced by one of twice the size; views of the old one stay good.
    """

    __slots__ = ("_buffer", "_rows")

    def __init__(self, dtype: type[Scalar], width: int | None = None, held: npt.NDArray[Any] | None = None) -> None:
        shape: tuple[int, ...] = (0,) if width is None else (0, width)
        self._buffer: npt.NDArray[Scalar] = np.empty(shape, dtype) if held is None else held
        self._rows = len(self._buffer)

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, room and all."""
        return self._buffer.nbytes

    def append(self, rows: npt.ArrayLike) -> None:
        """Adds rows: an array of this width."""
        added = np.asarray(rows, self._buffer.dtype)
        end = self._rows + len(added)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[self._rows : end] = added
        self._rows = end

    def add(self, value: float) -> None:
        """Adds one row."""
        if self._rows == len(self._buffer):
            self._grow(self._rows + 1)
        self._buffer[self._rows] = value
        self._rows += 1

    def view(self, rows: int | None = None) -> npt.NDArray[Scalar]:
        """The first `rows`, or all there are."""
        # The count first: a buffer that replaces this one meanwhile has at least as many rows.
        rows = self._rows if rows is None else rows
        return self._buffer[:rows]

    def _grow(self, least: int) -> None:
        room = max(_FIRST_ROWS, 2 * len(self._buffer), least)
        buffer = np.empty((room, *self._buffer.shape[1:]), self._buffer.dtype)
        buffer[: self._rows] = self._buffer[: self._rows]
        self._buffer = buffer


def extended(values: npt.NDArray[Scalar], length: int, fill: object) -> npt.NDArray[Scalar]:
    """A copy with `fill` behind it up to `length`: what a writer may change and no reader sees yet."""
    made = np.full(length, fill, values.dtype)
    made[: len(values)] = values
    return made
