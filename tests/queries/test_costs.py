"""The record of what statements cost."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import limits
from penstock.errors import PenstockError, Unavailable
from penstock.queries.costs import CostRecorder, Selection
from penstock.queries.statement import Caller, Query
from penstock.queries.v1 import queries_service_pb2 as pb
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from penstock.storage.user_sql.statement import Usage
from tests.queries.serving import CALLER, ENDLESS, Area

SLOW = Usage(rows_read=10, bytes_read=20, elapsed_ms=200.0, memory_bytes=30)


def note(costs: CostRecorder, name: str, usage: Usage = SLOW, tenant: str = "default", **caller: Any) -> None:
    who = Caller("RunSql", "request", "192.0.2.1", **caller)
    costs.note(Query(tenant, ""), who, name, ("events",), 7, query_id=name, outcome="DONE", rows=3, usage=usage)


async def names(costs: CostRecorder, **selection: Any) -> list[str]:
    return [cost.sql for cost in await costs.list(Selection(**{"tenant": "default", **selection}))]


async def test_quick_and_light_statements_leave_no_record(area: Area) -> None:
    await area.add(10)
    await area.rows("SELECT count() FROM events")
    note(area.costs, "slow", Usage(elapsed_ms=limits.SQL_COST_MS_MIN))
    note(area.costs, "many rows", Usage(rows_read=limits.SQL_COST_ROWS_MIN))
    note(area.costs, "many bytes", Usage(bytes_read=limits.SQL_COST_BYTES_MIN))
    note(area.costs, "neither", Usage(elapsed_ms=1.0, rows_read=1, bytes_read=1))
    await area.costs.flush()
    assert set(await names(area.costs)) >= {"slow", "many rows", "many bytes"}
    assert "neither" not in await names(area.costs)


async def test_a_record_says_all_of_it(area: Area) -> None:
    note(area.costs, "it's \\ {x:Int8} €", user="u1")
    await area.costs.flush()
    [cost] = await area.costs.list(Selection("default"))
    assert cost.sql == "it's \\ {x:Int8} €"
    assert cost.usage == SLOW
    assert (cost.caller.user, cost.caller.client_address) == ("u1", "192.0.2.1")
    assert (cost.views, cost.version, cost.outcome, cost.result_rows) == (("events",), 7, "DONE", 3)
    assert datetime.now(UTC) - cost.time < timedelta(seconds=30)


async def test_a_statement_that_was_stopped_is_on_record_as_such(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    await area.add(1_000)
    running = asyncio.create_task(area.rows(ENDLESS))
    await area.busy()
    await asyncio.sleep(3 * limits.SQL_SAMPLE_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(PenstockError):
        await area.rows("SELECT length(range(toUInt64(400000000))) AS n")
    await area.costs.flush()
    limited, cancelled = await area.costs.list(Selection("default"))
    assert (cancelled.outcome, limited.outcome) == ("CANCELLED", "QUERY_LIMIT")
    assert cancelled.views == ("events",)
    assert cancelled.usage.rows_read >= 1_000
    assert cancelled.usage.memory_bytes
    assert cancelled.caller == CALLER


async def test_selection(area: Area) -> None:
    start = datetime.now(UTC) - timedelta(hours=10)
    times = iter(start + timedelta(hours=hour) for hour in range(4))
    costs = CostRecorder(area.engine, clock=lambda: next(times))
    note(costs, "first", user="a")
    note(costs, "second", Usage(elapsed_ms=500.0), user="b")
    note(costs, "third", user="a")
    note(costs, "theirs", tenant="another")
    await costs.flush()
    assert await names(costs) == ["third", "second", "first"]
    assert await names(costs, user="a") == ["third", "first"]
    assert await names(costs, min_ms=300.0) == ["second"]
    assert await names(costs, start=start + timedelta(hours=1)) == ["third", "second"]
    assert await names(costs, end=start + timedelta(hours=1)) == ["first"]
    assert await names(costs, tenant="another") == ["theirs"]
    assert await names(costs, limit=1) == ["third"]


async def test_pages_join_to_the_whole(area: Area, stub: QueryServiceStub) -> None:
    for number in range(7):
        note(area.costs, f"{number}")
    await area.costs.flush()
    found, token = [], ""
    while True:
        page = await stub.ListQueryCosts(pb.ListQueryCostsRequest(page_size=3, page_token=token))
        found += [cost.sql for cost in page.costs]
        token = page.next_page_token
        if not token:
            break
    assert found == [str(number) for number in reversed(range(7))]


@pytest.fixture
def few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SQL_COSTS_QUEUED_MAX", 4)


async def test_records_wait_while_storage_is_away_and_are_bounded(
    few_records: None, area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = area.engine.execute

    async def away(*arguments: Any, **options: Any) -> None:
        raise Unavailable("away", reason="STORAGE_UNAVAILABLE")

    monkeypatch.setattr(area.engine, "execute", away)
    for number in range(5):
        note(area.costs, f"{number}")
    note(area.costs, "theirs", tenant="another")
    await area.costs.flush()
    monkeypatch.setattr(area.engine, "execute", execute)
    await area.costs.stop()
    assert await names(area.costs) == ["2", "1", "0"]
    assert await names(area.costs, tenant="another") == ["theirs"]
    note(area.costs, "later")
    await area.costs.flush()
    assert (await names(area.costs))[0] == "later"
