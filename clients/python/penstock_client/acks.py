"""What the server answered, as a writer's user reads it."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from penstock_client.errors import Error, RejectedRow
from penstock_client.signal import Signal

# Unread acks beyond this are merged, and of their rejected rows so many kept in detail: a reader that is slow, or has
# gone away, costs bounded memory and stops nobody.
ACKS_UNREAD_MAX = 1_000
REJECTED_ROWS_KEPT_MAX = 10_000
ERRORS_KEPT_MAX = 100


@dataclass(frozen=True, slots=True)
class Ack:
    """The server's answer to some rows, mostly one batch.

    Where acks are read more slowly than they come, neighbours are merged: `rows` and the counts add up, `offset` is the
    first's, the rest the last's.
    """

    offset: int | None  # of the first row; None in the default stream
    rows: int
    accepted_rows: int
    rejected_rows: int
    rejected: tuple[RejectedRow, ...] = ()  # `index` counts from this ack's first row
    commit: int = 0  # the commit that made the rows visible; 0 when an earlier connection's, or none
    commit_time: datetime | None = None
    durable: bool = False  # on the disk, not only in the database
    already_stored: bool = False  # they were stored before, and the answer was lost
    error: Error | None = None  # why the whole batch was refused; nothing of it is stored

    def merged(self, later: "Ack") -> "Ack":
        """One ack for both."""
        moved = tuple(replace(row, index=row.index + self.rows) for row in later.rejected)
        return replace(
            later,
            offset=self.offset,
            rows=self.rows + later.rows,
            accepted_rows=self.accepted_rows + later.accepted_rows,
            rejected_rows=self.rejected_rows + later.rejected_rows,
            rejected=(*self.rejected, *moved),
            already_stored=self.already_stored and later.already_stored,
        )


class AckQueue:
    """Acks that wait to be read; never full."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._unread: deque[Ack] = deque()
        self._rejected = 0
        self._errors = 0

    def put(self, ack: Ack) -> None:
        """Adds one, merging it into the last where many wait."""
        room = REJECTED_ROWS_KEPT_MAX - self._rejected
        if len(ack.rejected) > room:
            ack = replace(ack, rejected=ack.rejected[: max(room, 0)])
        if ack.error is not None and self._errors >= ERRORS_KEPT_MAX:
            ack = replace(ack, error=None)
        self._rejected += len(ack.rejected)
        self._errors += ack.error is not None
        crowded = len(self._unread) >= ACKS_UNREAD_MAX
        if crowded and self._unread[-1].error is None and ack.error is None:
            self._unread[-1] = self._unread[-1].merged(ack)
        else:
            self._unread.append(ack)

    async def read(self, ended: Callable[[], bool]) -> AsyncIterator[Ack]:
        """Yields acks until `ended`, and what was unread then."""
        while True:
            await self._signal.until(lambda: self._unread or ended())
            if not self._unread:
                return
            ack = self._unread.popleft()
            self._rejected -= len(ack.rejected)
            self._errors -= ack.error is not None
            yield ack
