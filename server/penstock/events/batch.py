"""One batch of events on its way from an edge to a commit."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from; the same for all batches of a connection."""

    tenant: str
    stream_id: str  # empty: the default stream
    client_address: str
    user_agent: str


class RawFormat(Enum):
    """The form in which a rejected row is kept."""

    PROTOBUF = "protobuf"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class BadRow:
    """Why one row of a batch is not taken."""

    index: int  # in the batch, from 0
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A rejected row as it came."""

    data: bytes
    format: RawFormat


@dataclass(frozen=True, slots=True)
class Stored:
    """A batch is durable."""

    offset: int
    accepted: int
    rejected: Sequence[BadRow]
    commit: int
    time: datetime


class RowsRejected(Exception):
    """ALL_OR_NOTHING, and some rows are bad: nothing of the batch is stored."""

    def __init__(self, rows: Sequence[BadRow]) -> None:
        super().__init__(f"{len(rows)} rows are bad")
        self.rows = rows


@dataclass(slots=True, eq=False)
class Batch:
    """Rows that are stored together or not at all (or, with `keep_good`, without the bad ones)."""

    origin: Origin
    rows: int
    size: int  # bytes that it holds in memory, about
    keep_good: bool
    message: bytes = b""  # a serialised AppendRequest with event_rows, or empty:
    columns: pa.Table | None = None  # the same as columns, from `arrow.numbered`
    offset: int | None = None  # as the client asked; None: at the end
    owner: object | None = None  # the connection that must still own the stream
    raws: Sequence[Raw] | None = None  # the rows as they came, where that is not `message`
    faults: Mapping[int, BadRow] = field(
        default_factory=dict
    )  # what the edge knows better of a bad row than the engine
    replays: Sequence[str] = ()  # the rejected rows that these rows are, by their ids; bad ones are not kept again
    queued_at: float = 0.0  # on the clock of time.perf_counter
    done: "asyncio.Future[Stored]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.origin.tenant

    @property
    def answered(self) -> bool:
        """Whether it was stored or refused."""
        return self.done.done()

    def refuse(self, error: Exception) -> None:
        """Answers with an error; a batch that nobody waits for any more is left alone."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever waits is told; that nobody does is no fault

    def store(self, stored: Stored) -> None:
        """Answers with success."""
        if not self.done.done():
            self.done.set_result(stored)
