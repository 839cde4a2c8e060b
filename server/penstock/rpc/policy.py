"""What holds for every call: who may, how often, how many at once; and who watches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.observation import Observation
from penstock.rpc.access import Access
from penstock.rpc.admission import Admission
from penstock.rpc.call import Call
from penstock.rpc.rate_limits import RateLimits
from penstock.rpc.tags import Tags


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    status: str  # the name of its gRPC status
    reason: str  # the same more exactly: `OK`, the reason of its error, `CANCELLED` or `INTERNAL`


OK = Outcome("OK", "OK")


class Watcher(Protocol):
    """Is told of every call. What it does is done before the answer goes out, so it does little."""

    @property
    def traces(self) -> bool:
        """Whether it must see each call as it begins."""
        ...

    def started(self, call: Call) -> None:
        """A call begins."""
        ...

    def finished(self, call: Call, outcome: Outcome, seconds: float, seen: Observation, *, stream: bool) -> None:
        """It ended. `stream`: whether it lasted as long as its client liked."""
        ...

    def answered(self, method: str, tenant: str, seconds: float) -> None:
        """A unary call was answered at once from memory: instead of the other two."""
        ...

    def turned_away(self, method: str) -> None:
        """A call was refused unseen, because the server has too much to do: instead of the other two."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The parts that the edge asks at each call."""

    access: Access
    rates: RateLimits
    admissions: Mapping[int, Admission]  # by cost class; what is of none runs at once, or has bounds of its own
    tags: Tags
    watcher: Watcher
