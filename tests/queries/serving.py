"""The whole area over a fresh engine, in this process, with and without gRPC before it; and events to ask about."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from penstock.queries.ask import Asker
from penstock.queries.costs import CostRecorder
from penstock.queries.explain import Explainer
from penstock.queries.gate import Gate
from penstock.queries.runner import QueryRunner
from penstock.queries.service import QueryService
from penstock.queries.statement import Caller, Query
from penstock.queries.v1 import queries_service_pb2
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from penstock.queries.views import VIEWS
from penstock.rpc.bind import Edge
from penstock.rpc.server import listen, make_server
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.user_sql.lane import UserSql, open_user_sql
from tests.rpc.policies import open_policy

CALLER = Caller("RunSql", "request-1", "192.0.2.7")
# Passes the gate, reads and holds little, and takes minutes over 1,000 events.
ENDLESS = """
SELECT count() AS n
FROM events AS a, events AS b, events AS c
WHERE NOT ignore(sipHash64(a.event_id, b.event_id, c.event_id))
"""

_EVENTS = """
INSERT INTO silver_events
    (tenant, run, commit, event_id, event_type, event_time, visitor, user_id, site_id, amount, price, quantity,
    currency)
SELECT
    {tenant:String},
    {run:Int64},
    {commit:Int64},
    generateUUIDv4(),
    number % 3 = 0 ? 'purchase' : 'page_view',
    toDateTime64('2026-03-01 12:00:00', 6, 'UTC') + toIntervalSecond(number),
    concat('v', toString(number % 7)),
    concat('v', toString(number % 7)),
    number % 2 ? 'north' : 'south',
    number % 3 = 0 ? 2.5 : 0,
    2.5,
    1,
    'USD'
FROM numbers({count:UInt64})
"""
_PROCESSES = """
SELECT count() AS n FROM system.processes WHERE startsWith(Settings['log_comment'], 'penstock-user/')
"""


@dataclass(frozen=True, slots=True)
class Area:
    """All parts of the area."""

    engine: ClickHouseEngine
    log: CommitLog
    sql: UserSql
    costs: CostRecorder
    runner: QueryRunner
    service: QueryService

    async def add(self, count: int, tenant: str = "default") -> int:
        """Adds a run of that many events, a third of them purchases of 2.50 each; the version that has them."""
        async with self.log.transaction() as transaction:
            bounds = {"tenant": tenant, "run": transaction.commit, "commit": transaction.commit, "count": count}
            await self.engine.execute(_EVENTS, bounds)
            await transaction.append(Entry("etl", run=transaction.commit, last_commit=self.log.last_append))
        return self.log.head

    async def rows(self, sql: str, tenant: str = "default", **options: object) -> list[list[object]]:
        """The rows of a statement."""
        query = Query(tenant, sql, **options)  # type: ignore[arg-type]
        return [*(await self.runner.run(query, CALLER)).rows]

    async def idle(self, within_s: float = 1.0) -> None:
        """Waits until no statement of a user runs; TimeoutError when one still does after so long."""
        async with asyncio.timeout(within_s):
            while self.sql.running or await self._processes():  # noqa: ASYNC110 (the engine tells nobody)
                await asyncio.sleep(0.02)

    async def busy(self, within_s: float = 5.0) -> None:
        """Waits until the engine works on a statement of a user."""
        async with asyncio.timeout(within_s):
            while not await self._processes():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _processes(self) -> int:
        found = await self.engine.rows(_PROCESSES)
        return int(found[0]["n"])


@pytest.fixture
async def area(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[Area]:
    """The area, without events."""
    sql = open_user_sql(settings)
    costs = CostRecorder(engine)
    runner = QueryRunner(Gate(), sql, commit_log, costs)
    asker = Asker(runner, settings, VIEWS)
    yield Area(engine, commit_log, sql, costs, runner, QueryService(runner, Explainer(sql, engine), asker, costs))
    await asker.close()
    await sql.close()


@pytest.fixture
async def target(area: Area) -> AsyncIterator[str]:
    """Where it is served over gRPC."""
    descriptor = queries_service_pb2.DESCRIPTOR.services_by_name["QueryService"]
    server = make_server([Edge(trusted_proxies=[], policy=open_policy()).handlers(descriptor, area.service)])
    port = listen(server, "127.0.0.1", 0)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def stub(target: str) -> AsyncIterator[QueryServiceStub]:
    """A client of it."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield QueryServiceStub(channel)
