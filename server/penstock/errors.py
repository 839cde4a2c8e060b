"""The errors that Penstock's parts raise, and what each means on the wire.

Raised where the fault is known, translated once, in `penstock.rpc.status`:

    PenstockError
      ├── InvalidInput          INVALID_ARGUMENT     400
      ├── Unauthenticated       UNAUTHENTICATED      401   no credential, or one that does not hold
      ├── PermissionDenied      PERMISSION_DENIED    403   the credential holds, its roles do not reach
      ├── NotFound              NOT_FOUND            404
      ├── AlreadyStored         ALREADY_EXISTS       409   safe to ignore
      ├── Conflict              FAILED_PRECONDITION  400   the state forbids it
      ├── OutOfRange            OUT_OF_RANGE         400   a gap, an overlap, an expired token
      ├── TakenOver             ABORTED              409   a newer connection owns the stream
      ├── Overloaded            RESOURCE_EXHAUSTED   429   retry after
      ├── TooCostly             RESOURCE_EXHAUSTED   429   ask for less
      ├── Unavailable           UNAVAILABLE          503   retry after
      └── TimedOut              DEADLINE_EXCEEDED    504
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong: its path as the client spelled it, and what to do about it."""

    field: str
    description: str


class PenstockError(Exception):
    """A failure that a client is told about.

    `reason` is UPPER_SNAKE and stable: clients key on it. `metadata` goes into the ErrorInfo. `retry_after_s` is set
    where trying again helps.
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
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Callable[[], "PenstockError"], tuple[()]]:
        """Pickles with all it says: errors come back from worker processes."""
        told = {"reason": self.reason, "metadata": self.metadata, "violations": self.violations}
        return partial(type(self), self.message, **told, retry_after_s=self.retry_after_s), ()  # type: ignore[arg-type]


class InvalidInput(PenstockError):
    """The request is wrong, and would be tomorrow."""


class Unauthenticated(PenstockError):
    """There is no credential, or it does not hold (any more)."""


class PermissionDenied(PenstockError):
    """Who calls is known, and may not."""


class NotFound(PenstockError):
    """What was named is not there."""


class AlreadyStored(PenstockError):
    """What was sent is stored already; safe to ignore."""


class Conflict(PenstockError):
    """The request is right, but not in the present state."""


class OutOfRange(PenstockError):
    """A position that is not (or no longer) there."""


class TakenOver(PenstockError):
    """A newer connection owns the stream."""


class Overloaded(PenstockError):
    """A bound is reached; come again later."""


class TooCostly(PenstockError):
    """The request needs more than one may take; asking again does not help, asking for less does."""


class Unavailable(PenstockError):
    """Something that Penstock rests on does not work now; nothing was done."""


class TimedOut(PenstockError):
    """The deadline passed."""


def invalid_field(field: str, description: str, *, reason: str = "INVALID_FIELD") -> InvalidInput:
    """The commonest error: one field of the request breaks its bound."""
    return InvalidInput(f"{field}: {description}", reason=reason, violations=[Violation(field, description)])
