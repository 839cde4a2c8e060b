"""What the checker makes of its probes, and what grpc.health.v1 says of it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from penstock import limits
from penstock.errors import Unavailable
from penstock.operations import health
from penstock.operations.health import NEEDS, Check, HealthChecker, State
from penstock.operations.probes import LAG_DOWN_S, IngestProbe, PipelineProbe, StorageProbe
from penstock.operations.v1 import operations_pb2
from penstock.rest import contract
from penstock.storage.engine import ClickHouseEngine

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EVENTS = "penstock.events.v1.EventService"
OPERATIONS = "penstock.operations.v1.OperationsService"


class Scripted:
    """A probe that answers what its test says."""

    def __init__(self, name: str, answer: Callable[[], Awaitable[Check]] | None = None) -> None:
        self.name = name
        self.checks = 0
        self.state = State.UP
        self._answer = answer

    async def check(self) -> Check:
        self.checks += 1
        return await self._answer() if self._answer else Check(self.state, "as told")


@pytest.fixture(autouse=True)
def always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are made anew at each call, so that no test waits for one to grow old."""
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.0)


async def serving(servicer: aio.HealthServicer, service: str) -> int:
    answer = await servicer.Check(health_pb2.HealthCheckRequest(service=service), None)
    return int(answer.status)


async def test_a_report_holds_every_dependency_and_the_worst_state() -> None:
    storage, pipeline = Scripted("storage"), Scripted("pipeline")
    checker = HealthChecker([storage, pipeline], aio.HealthServicer())
    assert (await checker.report()).state is State.UP
    pipeline.state = State.DEGRADED
    report = await checker.report()
    assert report.state is State.DEGRADED
    assert report.states == {"storage": "up", "pipeline": "degraded"}
    assert all(each.latency_ms >= 0 for each in report.dependencies)


async def test_health_of_each_service_follows_what_it_needs() -> None:
    servicer = aio.HealthServicer()
    storage, ingest, pipeline = Scripted("storage"), Scripted("ingest"), Scripted("pipeline")
    checker = HealthChecker([storage, ingest, pipeline], servicer)
    pipeline.state = State.DOWN
    await checker.report()
    assert await serving(servicer, EVENTS) == SERVING
    assert await serving(servicer, "penstock.pipeline.v1.PipelineService") == NOT_SERVING
    assert await serving(servicer, "") == NOT_SERVING
    pipeline.state, storage.state = State.DEGRADED, State.DOWN
    await checker.report()
    assert await serving(servicer, EVENTS) == NOT_SERVING
    assert await serving(servicer, OPERATIONS) == SERVING
    storage.state = State.UP
    await checker.report()
    assert await serving(servicer, "") == SERVING, "late is not down"


async def test_a_draining_server_serves_nothing_whatever_the_probes_say() -> None:
    servicer = aio.HealthServicer()
    checker = HealthChecker([Scripted("storage")], servicer)
    await checker.report()
    await checker.drain()
    report = await checker.report()
    assert report.draining
    assert report.states["server"] == "draining"
    assert {await serving(servicer, service) for service in NEEDS} == {NOT_SERVING}


async def test_a_probe_that_fails_or_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> Check:
        raise Unavailable("no such host", reason="STORAGE_UNAVAILABLE")

    async def broken() -> Check:
        raise ZeroDivisionError

    async def hangs() -> Check:
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    monkeypatch.setattr(health, "PROBE_S_MAX", 0.05)
    probes = [Scripted("away", away), Scripted("broken", broken), Scripted("hangs", hangs)]
    report = await HealthChecker(probes, aio.HealthServicer()).report()
    assert {each.state for each in report.dependencies} == {State.DOWN}
    assert [each.detail for each in report.dependencies][::2] == ["no such host", "no answer within 0.05 s"]


async def test_all_who_ask_within_a_second_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_EVERY_S", 60.0)
    probe = Scripted("storage")
    checker = HealthChecker([probe], aio.HealthServicer())
    await asyncio.gather(*(checker.report() for _ in range(100)))
    assert probe.checks == 1


async def test_it_checks_by_itself_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_EVERY_S", 0.01)
    probe = Scripted("storage")
    checker = HealthChecker([probe], aio.HealthServicer())
    await checker.start()
    await asyncio.sleep(0.1)
    await checker.stop()
    checks = probe.checks
    assert checks > 2
    await asyncio.sleep(0.05)
    assert probe.checks == checks


# --- the probes ------------------------------------------------------------------------------------------------------


async def test_storage_tells_its_version(engine: ClickHouseEngine) -> None:
    check = await StorageProbe(engine).check()
    assert check.state is State.UP
    assert check.detail.startswith("ClickHouse 2")


async def test_ingest_is_late_when_its_queue_fills() -> None:
    queued = 0
    probe = IngestProbe(lambda: queued)
    assert (await probe.check()).state is State.UP
    queued = int(limits.QUEUE_BYTES_MAX * 0.9)
    check = await probe.check()
    assert (check.state, check.detail) == (State.DEGRADED, "the queue is 90% full")


async def test_the_pipeline_is_down_only_when_it_is_late_and_does_not_move() -> None:
    now, lag, commit = 0.0, 0.0, 0

    async def lag_s() -> float:
        return lag

    probe = PipelineProbe(lag_s, lambda: commit, clock=lambda: now)
    assert (await probe.check()).state is State.UP
    lag, now = 11.0, 11.0
    assert (await probe.check()).state is State.DEGRADED
    lag, now, commit = 500.0, 500.0, 1
    assert (await probe.check()).state is State.DEGRADED, "it works off a backlog"
    now += LAG_DOWN_S + 1
    check = await probe.check()
    assert check.state is State.DOWN
    assert "has not moved for 121 s" in check.detail
    assert probe.lag_s == 500.0
    lag, commit = 0.0, 2
    assert (await probe.check()).state is State.UP


async def test_a_pipeline_long_idle_is_not_down_at_its_next_event() -> None:
    now, lag = 0.0, 0.0

    async def lag_s() -> float:
        return lag

    probe = PipelineProbe(lag_s, lambda: 7, clock=lambda: now)
    now, lag = 86_400.0, 0.4
    assert (await probe.check()).state is State.UP


# --- the contract ----------------------------------------------------------------------------------------------------


def test_states_have_the_contracts_numbers() -> None:
    named = {state.name: state.value for state in State}
    declared = {
        value.name.removeprefix("STATE_"): value.number
        for value in operations_pb2.Dependency.State.DESCRIPTOR.values
        if value.number
    }
    assert named == declared


def test_every_service_says_what_it_needs() -> None:
    assert set(NEEDS) == {"", *contract.service_names()}
