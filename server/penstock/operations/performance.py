"""How fast each tenant's calls were answered in the last five minutes: figures, a grade, and what to do about it.

The edge records unary calls; a stream lasts as long as its client likes, which says nothing of this server.

What counts as what:
* the server's errors are INTERNAL, UNKNOWN, DATA_LOSS, UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED. The rate
  of errors is theirs among all calls. RESOURCE_EXHAUSTED is among them although a rate limit is the client's doing,
  because whoever waits for an answer does not get one;
* all others are the client's, counted apart: a wrong request is wrong however well the server is;
* times are of calls that the server answered or failed, and of those that a client gave up on (CANCELLED), who waited
  at least so long. Other errors of clients are left out: refusals take no time, and many would make a slow operation
  look fast.

The window moves in steps of SLOT_S. Counts are of all calls in it. Times are of the newest SAMPLES_MAX of an operation,
and `measured` says of how many. Percentiles are numpy's `linear` ones, definition 7 of Hyndman and Fan (1996).
"""

import time
from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

SLOT_S = 5.0
SLOTS = 60
WINDOW_S = SLOT_S * SLOTS
SAMPLES_MAX = 4_096  # of one operation of one tenant; p99 is then of the slowest forty
OPERATIONS_MAX = 1_000  # of all tenants together, those that were called last; each takes up to 36 kB

OK = "OK"
CANCELLED = "CANCELLED"
SERVER_ERRORS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
)

# Advice is given where more calls fail, or take longer, or are computed anew, than this.
ERROR_RATE_HIGH = 0.01
HIT_RATE_LOW = 0.5
SPREAD_WIDE = 5.0  # p95 among p50
CALLS_FEW = 20  # of fewer, p95 is the slowest one


class Grade(IntEnum):
    """How fast an operation is by its p95, from best to worst."""

    UNKNOWN = 0  # no call
    EXCELLENT = 1
    GOOD = 2
    ACCEPTABLE = 3
    SLOW = 4
    CRITICAL = 5

    @property
    def word(self) -> str:
        """As the contract has it."""
        return self.name.lower()


GRADE_MS = (50.0, 100.0, 150.0, 300.0)  # p95 from which on the next worse grade begins, GOOD first

_MEND = {
    "DEADLINE_EXCEEDED": "ask for less in one call, such as a shorter range or fewer rows, or set a longer deadline",
    "RESOURCE_EXHAUSTED": "send fewer calls at once, and try again after the delay in the error's RetryInfo",
    "UNAVAILABLE": "GET /healthz names what is down",
}
_LOOK_INTO_LOG = "they are faults of the server; its log has each under its request id"
_SEE_STAGES = "GET /performance/slow-queries shows the newest of them, each with the stages that took its time"

# What makes a service find more of its answers in a cache,
_REPEAT = {
    "KpiService": "an answer is kept until the next gold version; a longer PENSTOCK_PIPELINE_INTERVAL_S makes fewer",
    "QueryService": "the same text with the same parameters is kept until the next commit; leave now() and rand() out",
    "SearchService": "the same request is kept until the index changes; POST /v1/cache:warm computes the popular ones",
    "RecommendationService": "an answer is kept until the user does something, 120 s at most; POST /v1/cache:warm"
    " computes those of active users",
}
# and what makes it take less to compute one, by method.
_EASE = {
    method: advice
    for methods, advice in (
        ("GetTrend GetConversionTrend GetRevenueTrend DetectAnomalies", "ask for a smaller limit or wider windows"),
        ("QueryKpis", "ask for a coarser grain, a shorter range or fewer dimensions"),
        ("RunSql", "POST /api/v1/sql/explain shows what a statement reads: name fewer columns and a shorter time"),
        ("AskQuestion", "the model at PENSTOCK_ASK_URL writes the SQL; send that to POST /query to ask it again"),
        ("CountEvents", "give start_time and end_time close together"),
        ("Search BatchSearch", "ask for fewer facets; GET /v1/index shows whether vectors wait to be built in"),
        ("Recommend", "for many users take POST /v1/recommend:batch"),
        ("Collect", "each waits for its commit: send many in one (POST /v1/events:batchCollect) or over one stream"),
        ("SendFeedback", "each waits for its commit: send many in one (POST /v1/feedback:batch)"),
        ("UpsertProducts DeleteProduct", "each waits for its commit: change more products in one call, or stream them"),
        ("RunPipeline", "POST /etl/run answers at once; GET /v1/operations/{id} tells how far it is"),
    )
    for method in methods.split()
}


@dataclass(frozen=True, slots=True)
class Durations:
    """How long calls took, in milliseconds."""

    measured: int  # calls that they are of
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class OperationFigures:
    """One operation in the window."""

    operation: str  # "KpiService/GetMetrics"
    count: int  # calls that ended
    server_errors: int
    client_errors: int
    error_rate: float  # the server's errors among all calls
    durations: Durations | None  # None: clients' errors alone
    cache_hit_rate: float | None  # among calls that looked into a cache; None where none did
    grade: Grade
    advice: str  # what to do; empty when there is nothing


@dataclass(frozen=True, slots=True)
class Report:
    """A tenant's operations in the window, slowest first."""

    operations: tuple[OperationFigures, ...]

    @property
    def grade(self) -> Grade:
        """That of the worst operation."""
        return max((each.grade for each in self.operations), default=Grade.UNKNOWN)

    @property
    def advice(self) -> list[str]:
        """What to do, most urgent first: what fails before what is slow."""
        urgent = sorted((each for each in self.operations if each.advice), key=_urgency)
        return [f"{each.operation}: {each.advice}" for each in urgent]


class Performance:
    """Records calls as they end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def record(self, tenant: str, method: str, seconds: float, code: str, cache: bool | None) -> None:
        """A unary call has ended. `method` is one of the contract's, `code` the name of a gRPC status; `cache`: whether
        the answer came from one, None where it looked into none. Takes 0.5 µs."""
        window, slot = self._now(tenant, method)
        slot.calls += 1
        if code != OK:
            if code in SERVER_ERRORS:
                slot.server_errors[code] = slot.server_errors.get(code, 0) + 1
            else:
                slot.client_errors += 1
                if code != CANCELLED:
                    return
        elif cache is not None:
            slot.looked += 1
            slot.hits += cache
        slot.timed += 1
        window.add(seconds)

    def answered(self, tenant: str, method: str, seconds: Sequence[float]) -> None:
        """So many unary calls have ended lately, each in its time, with answers from a cache."""
        window, slot = self._now(tenant, method)
        slot.calls += len(seconds)
        slot.looked += len(seconds)
        slot.hits += len(seconds)
        slot.timed += len(seconds)
        for each in seconds:
            window.add(each)

    def _now(self, tenant: str, method: str) -> "tuple[_Window, _Slot]":
        key = (tenant, method)
        window = self._windows.get(key)
        if window is None:
            window = self._opened(key)
        else:
            self._windows.move_to_end(key)
        number = int(self._clock() / SLOT_S)
        return window, window.slot if window.slot.number == number else window.begin(number)

    def report(self, tenant: str) -> Report:
        """The tenant's own operations. Takes 0.2 ms for each that is full of samples."""
        oldest = int(self._clock() / SLOT_S) - SLOTS + 1
        found = [
            _figures(method, window, live)
            for (owner, method), window in self._windows.items()
            if owner == tenant and (live := [slot for slot in window.slots if slot.number >= oldest])
        ]
        return Report(tuple(sorted(found, key=_p95, reverse=True)))

    def _opened(self, key: tuple[str, str]) -> "_Window":
        if len(self._windows) >= OPERATIONS_MAX:
            self._windows.popitem(last=False)
        window = self._windows[key] = _Window()
        return window


@dataclass(slots=True)
class _Slot:
    """What was counted in SLOT_S seconds."""

    number: int
    calls: int = 0
    timed: int = 0
    client_errors: int = 0
    looked: int = 0
    hits: int = 0
    server_errors: dict[str, int] = field(default_factory=dict)  # by code


class _Window:
    """One operation of one tenant: slots in which something was called, and the newest times in the order they came."""

    __slots__ = ("_at", "_seconds", "slot", "slots")

    def __init__(self) -> None:
        self._seconds = array("d")
        self._at = 0  # where the next one goes once all places are taken
        self.slots: deque[_Slot] = deque(maxlen=SLOTS)
        self.slot = _Slot(-1)

    def begin(self, number: int) -> _Slot:
        self.slot = _Slot(number)
        self.slots.append(self.slot)
        return self.slot

    def add(self, seconds: float) -> None:
        if len(self._seconds) < SAMPLES_MAX:
            self._seconds.append(seconds)
        else:
            self._seconds[self._at] = seconds
            self._at = (self._at + 1) % SAMPLES_MAX

    def newest(self, count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """The last `count` times, or as many as there are."""
        end = self._at or len(self._seconds)
        return np.array(self._seconds).take(range(end - min(count, len(self._seconds)), end), mode="wrap")


def _figures(method: str, window: _Window, slots: Sequence[_Slot]) -> OperationFigures:
    failed: Counter[str] = Counter()
    for slot in slots:
        failed.update(slot.server_errors)
    count, looked = sum(slot.calls for slot in slots), sum(slot.looked for slot in slots)
    durations = _durations(window, sum(slot.timed for slot in slots))
    hit_rate = sum(slot.hits for slot in slots) / looked if looked else None
    grade = Grade.UNKNOWN
    if durations is not None:
        grade = Grade(Grade.EXCELLENT + bisect_right(GRADE_MS, durations.p95_ms))
    operation = method.rpartition(".")[2]
    advice = [_advice_on_errors(failed, count)]
    if durations is not None and grade >= Grade.SLOW:
        advice.append(_advice_on_times(operation, durations, hit_rate))
    return OperationFigures(
        operation=operation,
        count=count,
        server_errors=failed.total(),
        client_errors=sum(slot.client_errors for slot in slots),
        error_rate=failed.total() / count,
        durations=durations,
        cache_hit_rate=hit_rate,
        grade=grade,
        advice=". ".join(filter(None, advice)),
    )


def _durations(window: _Window, timed: int) -> Durations | None:
    if not timed:
        return None
    times = window.newest(timed) * 1e3
    p50, p95, p99 = np.percentile(times, (50, 95, 99), method="linear").tolist()
    return Durations(len(times), p50, p95, p99, float(times.mean()), float(times.min()), float(times.max()))


def _advice_on_errors(failed: Counter[str], count: int) -> str:
    if failed.total() < ERROR_RATE_HIGH * count or not failed:
        return ""
    code, times = failed.most_common(1)[0]
    return f"{failed.total()} of {count} calls failed, {times} of them with {code}: {_MEND.get(code, _LOOK_INTO_LOG)}"


def _advice_on_times(operation: str, found: Durations, hit_rate: float | None) -> str:
    """Which calls are slow, and what makes such ones fewer or faster."""
    service, _, method = operation.partition("/")
    few = f", of {found.measured} calls only" if found.measured < CALLS_FEW else ""
    times = f"p50 {found.p50_ms:.0f} ms, p95 {found.p95_ms:.0f} ms, p99 {found.p99_ms:.0f} ms{few}"
    if hit_rate is not None and hit_rate < HIT_RATE_LOW and service in _REPEAT:
        return f"{1 - hit_rate:.0%} of the answers had to be computed ({times}): {_REPEAT[service]}"
    if found.p95_ms >= SPREAD_WIDE * found.p50_ms:
        return f"some calls take many times as long as most ({times}): {_SEE_STAGES}"
    return f"most calls are slow ({times}): {_EASE.get(method, _SEE_STAGES)}"


def _p95(figures: OperationFigures) -> float:
    return figures.durations.p95_ms if figures.durations is not None else -1.0


def _urgency(figures: OperationFigures) -> tuple[bool, float, float]:
    failing = figures.error_rate >= ERROR_RATE_HIGH
    return (not failing, -figures.error_rate if failing else 0.0, -_p95(figures))
