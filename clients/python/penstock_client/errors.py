"""What goes wrong, by kind; `reason` says it exactly.

Error
  ├── InvalidRequest          INVALID_ARGUMENT      the request is wrong, and would be tomorrow
  │     └── RowsRejected      ROWS_REJECTED         `rejected` says which rows and why, `events()` gives them back
  ├── NotFound                NOT_FOUND
  ├── AlreadyStored           ALREADY_EXISTS        safe to ignore; a writer does
  ├── Conflict                FAILED_PRECONDITION   right, but not in the present state
  │     └── RunInProgress     RUN_IN_PROGRESS, REBUILD_IN_PROGRESS, TRAINING_IN_PROGRESS
  ├── OutOfRange              OUT_OF_RANGE
  │     ├── OffsetMismatch    OFFSET_GAP, OFFSET_OVERLAP
  │     ├── ResumeTokenExpired RESUME_TOKEN_EXPIRED
  │     └── PageTokenExpired  PAGE_TOKEN_EXPIRED    begin again with the first page
  ├── StreamTakenOver         STREAM_TAKEN_OVER     another writer owns the stream
  ├── AccessDenied            UNAUTHENTICATED, PERMISSION_DENIED
  ├── Overloaded              RESOURCE_EXHAUSTED    come again after `retry_after_s`
  ├── LimitReached            RESOURCE_EXHAUSTED without `retry_after_s`: TOO_MANY_PRODUCTS, TOO_MANY_KPIS, …
  │     └── QueryLimit        QUERY_LIMIT           ask for less; `metadata` says which limit was reached
  ├── Unavailable             UNAVAILABLE           the server, or the way to it, does not work now
  │     └── StorageUnavailable STORAGE_UNAVAILABLE  nothing was stored
  ├── TimedOut                DEADLINE_EXCEEDED     a write may be stored all the same
  ├── ServerFault             INTERNAL and the rest
  └── WriterClosed            raised here, never sent: the writer was closed before
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from penstock.events.v1 import events_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong: its path, and what to do about it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """One row that was not taken."""

    index: int  # its place in its batch, from 0
    reason: str  # UPPER_SNAKE, one of those named at `Event` in the contract
    message: str  # the same for a person, naming the field and the bound


class Error(Exception):
    """A call that failed.

    `reason` is the server's UPPER_SNAKE reason, stable, to be keyed on; where no server answered (the connection
    failed, a proxy refused) it is the name of the gRPC code. `metadata` holds the reason's particulars, `violations`
    the fields that are wrong, `retry_after_s` how long to wait where trying again helps.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class InvalidRequest(Error):
    """The request is wrong, and would be tomorrow."""


class RowsRejected(InvalidRequest):
    """A batch holds bad rows and the policy is all_or_nothing: none of it is stored.

    `rejected` names each bad row; `events()` gives back the whole batch, good rows and bad, to mend and send again.
    `others` are the further refusals since the last flush, where there were several.
    """

    rejected: tuple[RejectedRow, ...] = ()
    events: Callable[[], Sequence[events_pb2.Event]] = tuple
    others: tuple[Error, ...] = ()


class NotFound(Error):
    """What was named is not there."""


class AlreadyStored(Error):
    """What was sent is stored already."""


class Conflict(Error):
    """The request is right, but not in the present state."""


class RunInProgress(Conflict):
    """The same work is under way already: a run of the pipeline, a rebuild of the index, a training."""


class OutOfRange(Error):
    """A position that is not, or no longer, there."""


class OffsetMismatch(OutOfRange):
    """The stream goes on at another offset than the client's."""


class ResumeTokenExpired(OutOfRange):
    """The rows behind the resume token were cleaned up."""


class PageTokenExpired(OutOfRange):
    """What the first page showed is gone; begin again."""


class StreamTakenOver(Error):
    """Another writer owns the stream now, or has written to it."""


class AccessDenied(Error):
    """The credentials are missing, wrong, or not enough."""


class Overloaded(Error):
    """A bound of the server is reached."""


class LimitReached(Error):
    """More than one may have or take: asking again does not help, less does."""


class QueryLimit(LimitReached):
    """A statement needs more than one may take; `metadata` says which `limit`, its `value` and `unit`."""


class Unavailable(Error):
    """The server, or the way to it, does not work now."""


class StorageUnavailable(Unavailable):
    """The server cannot reach its database; nothing was stored."""


class TimedOut(Error):
    """The deadline passed; a write may be stored all the same."""


class ServerFault(Error):
    """The server broke, or said what it must not."""


class WriterClosed(Error):
    """The writer was closed before."""


_BY_REASON: dict[str, type[Error]] = {
    "ROWS_REJECTED": RowsRejected,
    "RUN_IN_PROGRESS": RunInProgress,
    "REBUILD_IN_PROGRESS": RunInProgress,
    "TRAINING_IN_PROGRESS": RunInProgress,
    "OFFSET_GAP": OffsetMismatch,
    "OFFSET_OVERLAP": OffsetMismatch,
    "RESUME_TOKEN_EXPIRED": ResumeTokenExpired,
    "PAGE_TOKEN_EXPIRED": PageTokenExpired,
    "QUERY_LIMIT": QueryLimit,
    "STREAM_TAKEN_OVER": StreamTakenOver,
    "STORAGE_UNAVAILABLE": StorageUnavailable,
}
_BY_CODE: dict[int, type[Error]] = {
    code_pb2.INVALID_ARGUMENT: InvalidRequest,
    code_pb2.NOT_FOUND: NotFound,
    code_pb2.ALREADY_EXISTS: AlreadyStored,
    code_pb2.FAILED_PRECONDITION: Conflict,
    code_pb2.OUT_OF_RANGE: OutOfRange,
    code_pb2.UNAUTHENTICATED: AccessDenied,
    code_pb2.PERMISSION_DENIED: AccessDenied,
    code_pb2.RESOURCE_EXHAUSTED: Overloaded,
    code_pb2.UNAVAILABLE: Unavailable,
    # What cut a call off without a word of the server's own is the connection, as far as a client can tell.
    code_pb2.CANCELLED: Unavailable,
    code_pb2.ABORTED: Unavailable,
    code_pb2.DEADLINE_EXCEEDED: TimedOut,
}


def from_status(status: status_pb2.Status) -> Error:
    """The error that a status tells of."""
    reason, metadata = code_pb2.Code.Name(status.code), {}
    violations: list[Violation] = []
    retry_after_s = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations = [Violation(each.field, each.description) for each in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    kind = _BY_REASON.get(reason) or _BY_CODE.get(status.code, ServerFault)
    # The server says so of every bound that lifts by itself; a proxy, whose answers carry no details, of none.
    if kind is Overloaded and status.details and retry_after_s is None:
        kind = LimitReached
    return kind(status.message, reason=reason, metadata=metadata, violations=violations, retry_after_s=retry_after_s)


def from_rpc(error: grpc.aio.AioRpcError) -> Error:
    """The error that a failed call tells of, with its details where it carries any."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            return from_status(status_pb2.Status.FromString(value))
    return from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))
