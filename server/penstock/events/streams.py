"""Where streams stand and which connection owns each.

An offset is decided in one place, the committer, from the state here; the state moves only when a commit is durable.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from penstock import limits
from penstock.errors import AlreadyStored, OutOfRange, Overloaded, PenstockError
from penstock.storage.commit_log import CommitLog

CLOSED_STATES_KEPT = 10_000  # a closed stream's state saves one look into the log when it is opened again


class Connection:
    """One open connection to a stream; `lost` is set when a newer one takes the stream over."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()


@dataclass(slots=True)
class StreamState:
    """Where a stream stands."""

    next_offset: int
    commit: int  # the last that moved it
    epoch: int  # of the log, when it was read: under another one another server may have moved it
    owner: Connection | None = None
    doubtful: bool = False  # a commit may have moved it without this server knowing


class Streams:
    """The named streams that this server knows of."""

    def __init__(self, log: CommitLog) -> None:
        self._log = log
        self._states: OrderedDict[tuple[str, str], StreamState] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Lock] = {}
        self._open: dict[str, int] = {}

    @property
    def open_count(self) -> int:
        """Streams that have a connection, of all tenants."""
        return sum(self._open.values())

    def open_count_of(self, tenant: str) -> int:
        """Streams of the tenant that have a connection."""
        return self._open.get(tenant, 0)

    async def state(self, tenant: str, stream_id: str) -> StreamState:
        """The stream's state, read from the log where this server does not know it."""
        key = (tenant, stream_id)
        known = self._states.get(key)
        if known is not None:
            if known.doubtful or known.epoch != self._log.epoch:
                epoch = self._log.epoch
                known.next_offset, known.commit = await self._log.next_offset(tenant, stream_id)
                known.epoch, known.doubtful = epoch, False
            self._states.move_to_end(key)
            return known
        async with self._loading.setdefault(key, asyncio.Lock()):
            if key not in self._states:
                epoch = self._log.epoch
                next_offset, commit = await self._log.next_offset(tenant, stream_id)
                self._states[key] = StreamState(next_offset, commit, epoch)
                self._forget_some()
        self._loading.pop(key, None)
        return self._states[key]

    async def open(self, tenant: str, stream_id: str, connection: Connection) -> StreamState:
        """Makes `connection` the owner; an older owner is told. Raises Overloaded at the tenant's bound."""
        state = await self.state(tenant, stream_id)
        if state.owner is None:
            if self._open.get(tenant, 0) >= limits.STREAMS_PER_TENANT_MAX:
                raise Overloaded(
                    f"{limits.STREAMS_PER_TENANT_MAX} streams are open; close some or send through fewer",
                    reason="TOO_MANY_STREAMS",
                    retry_after_s=5.0,
                )
            self._open[tenant] = self._open.get(tenant, 0) + 1
        else:
            state.owner.lost.set()
        state.owner = connection
        return state

    def close(self, tenant: str, state: StreamState, connection: Connection) -> None:
        """Ends the ownership of `connection`, if it still has it."""
        if state.owner is connection:
            state.owner = None
            self._open[tenant] -= 1

    def doubt(self, tenant: str, stream_id: str) -> None:
        """Has the stream's state read from the log again before it is next relied on."""
        state = self._states.get((tenant, stream_id))
        if state is not None:
            state.doubtful = True

    def _forget_some(self) -> None:
        if len(self._states) <= CLOSED_STATES_KEPT:
            return
        for key in [key for key, state in self._states.items() if state.owner is None][: CLOSED_STATES_KEPT // 10]:
            del self._states[key]


def check_offset(offset: int | None, rows: int, expected: int) -> PenstockError | None:
    """What is wrong with appending `rows` rows at `offset` to a stream whose next offset is `expected`."""
    if offset is None or offset == expected:
        return None
    where = {"expected_offset": str(expected), "offset": str(offset)}
    if offset > expected:
        return OutOfRange(
            f"offset {offset} leaves a gap: the stream goes on at {expected}", reason="OFFSET_GAP", metadata=where
        )
    if offset + rows <= expected:
        return AlreadyStored(
            f"rows {offset} to {offset + rows - 1} are stored already", reason="OFFSET_ALREADY_STORED", metadata=where
        )
    return OutOfRange(
        f"rows {offset} to {expected - 1} are stored already, those behind are not: send from {expected}",
        reason="OFFSET_OVERLAP",
        metadata=where,
    )
