"""Every call of several clients, as its client saw it: when, how it ended, and whether it came from a cache."""

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Ended:
    """A call. Times are in seconds since 1970, so that they can be held against the server's log."""

    caller: str
    method: str
    began: float
    ended: float
    code: grpc.StatusCode
    reason: str  # of an error: the server's
    retry_s: float | None  # of an error: when to come again
    cached: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    def __str__(self) -> str:
        return f"{self.caller}: {self.method} {self.code.name} {self.reason} after {self.seconds:.3f} s"


@dataclass(slots=True)
class CallRecord:
    """All calls, in the order in which they ended."""

    calls: list[Ended] = field(default_factory=list)

    def of(self, caller: str, method: str = "", *, since: float = 0.0, until: float = float("inf")) -> list[Ended]:
        """A caller's, or all where it is empty, of a method or all, that began and ended in this time."""
        return [
            each
            for each in self.calls
            if caller in ("", each.caller)
            and method in ("", each.method)
            and each.began >= since
            and each.ended <= until
        ]

    def channel(self, caller: str, target: str, credential: str) -> grpc.aio.Channel:
        """One that sends the credential with each call, and notes each in here."""
        return grpc.aio.insecure_channel(target, interceptors=[_Noting(self.calls, caller, credential)])


class _Noting(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def __init__(self, calls: list[Ended], caller: str, credential: str) -> None:
        self._calls = calls
        self._caller = caller
        self._credential = credential

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        method = _text(details.method).rpartition("/")[2]
        bearer = ("authorization", f"Bearer {self._credential}")
        began = time.time()
        call = await continuation(details._replace(metadata=(*(details.metadata or ()), bearer)), request)
        code = await call.code()
        ended = time.time()
        sent = dict(await call.trailing_metadata() or ())
        reason, retry_s = await _why(call) if code is not grpc.StatusCode.OK else ("", None)
        cached = sent.get("x-cache-hit") == "true"
        self._calls.append(Ended(self._caller, method, began, ended, code, reason, retry_s, cached))
        return call


async def _why(call: Any) -> tuple[str, float | None]:
    """Of an error: the reason, and after how many seconds to come again."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = await rpc_status.aio.from_call(call)
    retry_s = None
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_s = retry.retry_delay.ToNanoseconds() / 1e9
    return info.reason or str(await call.details()), retry_s


def _text(method: bytes | str) -> str:
    return method.decode() if isinstance(method, bytes) else method


def median_s(calls: list[Ended], method: str) -> float:
    """How long half of the calls of a method took at most, in seconds. Raises StatisticsError where there are none."""
    return statistics.median(each.seconds for each in calls if each.method == method)


def latencies(calls: list[Ended]) -> str:
    """How long calls took, for a person, by method."""
    slowest: dict[str, float] = {}
    for each in calls:
        slowest[each.method] = max(each.seconds, slowest.get(each.method, 0.0))
    return ", ".join(
        f"{method} {median_s(calls, method) * 1e3:.0f} ms ({slowest[method] * 1e3:.0f} at most)"
        for method in sorted(slowest)
    )
