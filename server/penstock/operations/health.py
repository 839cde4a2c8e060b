"""Whether the things that the server rests on work, and what follows from it for each service."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from penstock.errors import PenstockError

log = structlog.get_logger()

PROBE_S_MAX = 2.0
CHECK_EVERY_S = 1.0  # also how old a report may be: whoever asks more often gets the last one

# What each service cannot do without. The empty name is the server as a whole, which load balancers ask for.
NEEDS: Mapping[str, frozenset[str]] = {
    "": frozenset({"storage", "ingest", "pipeline", "index"}),
    "penstock.accounts.v1.AccountService": frozenset({"storage"}),
    "penstock.events.v1.EventService": frozenset({"storage", "ingest"}),
    "penstock.pipeline.v1.PipelineService": frozenset({"storage", "pipeline"}),
    "penstock.kpis.v1.KpiService": frozenset({"storage"}),
    "penstock.queries.v1.QueryService": frozenset({"storage"}),
    "penstock.catalog.v1.CatalogService": frozenset({"storage"}),
    "penstock.search.v1.SearchService": frozenset({"index"}),
    "penstock.recommendations.v1.RecommendationService": frozenset({"storage", "index"}),
    "penstock.feedback.v1.FeedbackService": frozenset({"storage"}),
    "penstock.operations.v1.OperationsService": frozenset(),
}


class State(IntEnum):
    """How a dependency is, from best to worst; the numbers are those of the contract."""

    UP = 1
    DEGRADED = 2
    DOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """What a probe saw."""

    state: State
    detail: str  # for a person


class Probe(Protocol):
    """Looks at one dependency. What it raises, or more than PROBE_S_MAX seconds, counts as DOWN."""

    @property
    def name(self) -> str:
        """The dependency's name, such as `storage`."""
        ...

    async def check(self) -> Check:
        """Looks now."""
        ...


@dataclass(frozen=True, slots=True)
class Dependency:
    """A check, with whose it is and how long it took."""

    name: str
    state: State
    detail: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """All dependencies at one time."""

    dependencies: tuple[Dependency, ...]
    draining: bool

    @property
    def state(self) -> State:
        """That of the worst dependency."""
        return max((each.state for each in self.dependencies), default=State.UP)

    @property
    def states(self) -> dict[str, str]:
        """Each dependency's state by name, as words; `server` is there when it is draining."""
        states = {each.name: each.state.name.lower() for each in self.dependencies}
        return states | {"server": "draining"} if self.draining else states

    def is_down(self, name: str) -> bool:
        """Whether the dependency of that name is known to be down."""
        return any(each.name == name and each.state is State.DOWN for each in self.dependencies)


class HealthChecker:
    """Runs the probes every second and keeps `grpc.health.v1` in step with what they see."""

    def __init__(
        self, probes: Sequence[Probe], health: aio.HealthServicer, *, needs: Mapping[str, frozenset[str]] = NEEDS
    ) -> None:
        self._probes = tuple(probes)
        self._health = health
        self._needs = needs
        self._lock = asyncio.Lock()
        self._report: Report | None = None
        self._reported = 0.0
        self._draining = False
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Checks once, then goes on in the background until `stop`."""
        await self.report()
        self._loop = asyncio.create_task(self._follow(), name="health")

    async def stop(self) -> None:
        """Ends the background checks."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop

    async def drain(self) -> None:
        """From now on every service is NOT_SERVING and the server is not ready."""
        self._draining = True
        self._report = None
        await self._health.enter_graceful_shutdown()

    async def report(self) -> Report:
        """How things are, at most CHECK_EVERY_S ago; all who ask at the same time share one check."""
        async with self._lock:
            if self._report is None or time.monotonic() - self._reported >= CHECK_EVERY_S:
                found = await asyncio.gather(*(_checked(probe) for probe in self._probes))
                self._report = Report(tuple(found), self._draining)
                self._reported = time.monotonic()
                await self._tell(self._report)
            return self._report

    async def _tell(self, report: Report) -> None:
        for service, needed in self._needs.items():
            serving = not any(report.is_down(name) for name in needed)
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(service, status)

    async def _follow(self) -> None:
        last: dict[str, str] = {}
        while True:
            report = await self.report()
            if last and report.states != last:
                log.warning("health changed", **report.states)
            last = report.states
            await asyncio.sleep(CHECK_EVERY_S)


async def _checked(probe: Probe) -> Dependency:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            check = await probe.check()
    except TimeoutError:
        check = Check(State.DOWN, f"no answer within {PROBE_S_MAX:g} s")
    except PenstockError as error:
        check = Check(State.DOWN, error.message)
    except Exception:
        # A health check is where a fault must show, not where it may hide: DOWN, and the log has it.
        log.exception("a probe failed", probe=probe.name)
        check = Check(State.DOWN, "the check itself failed; the server's log has why")
    return Dependency(probe.name, check.state, check.detail, (time.perf_counter() - started) * 1e3)
