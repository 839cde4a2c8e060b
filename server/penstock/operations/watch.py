"""What becomes of every call: counted, graded, traced, logged."""

import asyncio
from collections import Counter, defaultdict

import structlog

from penstock.cache.tally import Tallies
from penstock.observation import Observation
from penstock.operations.metrics import RpcMetrics
from penstock.operations.performance import Performance
from penstock.operations.slow_calls import SlowCalls
from penstock.rpc.call import Call
from penstock.rpc.policy import Outcome
from penstock.rpc.principal import WITH_CREDENTIAL
from penstock.tracing import ServerSpan, Tracing

log = structlog.get_logger()

# Services whose own answers, kept by version in this process, are counted by how their calls ended.
KEPT_ANSWERS = {"KpiService": "kpis", "QueryService": "sql"}
COUNT_S = 0.05
RATE_LIMITED = "RATE_LIMITED"
UNAUTHENTICATED = "UNAUTHENTICATED"
REFUSED = "RESOURCE_EXHAUSTED"
ANSWERED = {"OK", "CANCELLED"}  # of the others the edge says in the log why they were refused, or failed


class CallWatch:
    """The `Watcher` of a server."""

    def __init__(
        self,
        metrics: RpcMetrics,
        performance: Performance,
        slow_calls: SlowCalls,
        tallies: Tallies,
        tracing: Tracing | None,
    ) -> None:
        self._metrics = metrics
        self._performance = performance
        self._slow_calls = slow_calls
        self._tallies = tallies
        self._tracing = tracing
        self._log = log.bind()  # the lazy one is bound anew with every line
        # At once: the seconds of what is not counted yet, by method and tenant.
        self._answered: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.rate_limited = 0
        self.auth_failures: Counter[str] = Counter()  # by reason

    @property
    def traces(self) -> bool:
        """Whether it must see each call as it begins."""
        return self._tracing is not None

    def started(self, call: Call) -> None:
        """A call begins: it stands in every line that is logged within it."""
        if self._answered:  # so that whoever asks what was counted is told of all calls before
            self._count_answered()
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        self._metrics.started(call.method)
        if self._tracing is not None:
            call.span = self._tracing.begin(call.method, call.metadata, call.request_id)

    def finished(self, call: Call, outcome: Outcome, seconds: float, seen: Observation, *, stream: bool) -> None:
        """It ended."""
        self._metrics.finished(call.method, outcome.status, None if stream else seconds)
        if outcome.reason == RATE_LIMITED:
            self.rate_limited += 1
        elif outcome.status == UNAUTHENTICATED:
            self.auth_failures[outcome.reason] += 1
        if not stream and call.tenant:  # where it is not known who called, it is in nobody's report
            self._performance.record(call.tenant, call.method, seconds, outcome.status, seen.cache)
            self._slow_calls.record(call.tenant, call.method, seconds, outcome.reason, call.request_id, seen)
            if seen.cache is not None:
                self._kept(call.method, call.tenant, hit=seen.cache, seconds=seen.cache_s)
        if isinstance(call.span, ServerSpan):
            call.span.end(outcome.status, call.tenant)
        # Whoever asks by a filter or a statement for what another tenant has is answered, with nothing. So that such
        # attempts are found, too, calls that went to the data leave a line: what a cache has, its tenant has asked for.
        # On a server without accounts there is one tenant, and nobody to find.
        looked = stream or not seen.cache
        audited = looked and call.principal.kind in WITH_CREDENTIAL and outcome.reason in ANSWERED
        (self._log.info if audited else self._log.debug)(
            "call ended",
            method=call.method,
            code=outcome.reason,
            tenant=call.tenant,
            caller=call.principal.caller,
            seconds=round(seconds, 6),
        )

    def answered(self, method: str, tenant: str, seconds: float) -> None:
        """A unary call was answered at once from memory.

        It is counted COUNT_S later, many in one go: each by itself costs 15 µs, a tenth of such a call, most of them
        until what does it is in the processor's caches again.
        """
        if not self._answered:
            asyncio.get_running_loop().call_later(COUNT_S, self._count_answered)
        self._answered[method, tenant].append(seconds)

    def _count_answered(self) -> None:
        answered, self._answered = self._answered, defaultdict(list)
        for (method, tenant), seconds in answered.items():
            self._metrics.answered(method, seconds)
            self._performance.answered(tenant, method, seconds)
            self._kept(method, tenant, hit=True, seconds=sum(seconds), times=len(seconds))

    def _kept(self, method: str, tenant: str, *, hit: bool, seconds: float, times: int = 1) -> None:
        kind = KEPT_ANSWERS.get(method.rpartition("/")[0].rpartition(".")[2])
        if kind is not None:
            self._tallies.of(tenant, kind).got("local" if hit else "loaded", seconds, times)

    def turned_away(self, method: str) -> None:
        """A call was refused unseen: counted, and no more, as nobody knows whose it was."""
        self._metrics.started(method)
        self._metrics.finished(method, REFUSED, None)
