"""Whoever stops waiting stops the work in the engine: shown by the engine's own list of what runs, and by its CPU."""

import asyncio
import time
from typing import TYPE_CHECKING, cast

import grpc
import pytest

from penstock.queries.v1.queries_service_pb2 import RunSqlRequest, StreamSqlRequest
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from tests.queries.serving import ENDLESS, Area

if TYPE_CHECKING:
    from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceAsyncStub


@pytest.fixture
def client(stub: QueryServiceStub) -> "QueryServiceAsyncStub":
    return cast("QueryServiceAsyncStub", stub)


async def test_cancelling_a_task_stops_the_statement(area: Area) -> None:
    await area.add(1_000)
    running = asyncio.create_task(area.rows(ENDLESS))
    await area.busy()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await area.idle(1.0)
    before = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - before < 0.25, "something still computes"
    assert await area.rows("SELECT 1 AS a") == [[1]]


async def test_a_statement_with_parameters_is_found_to_be_stopped_too(area: Area) -> None:
    """chDB forgets the text of such a statement, comments and all."""
    await area.add(1_000)
    query = f"{ENDLESS} AND a.site_id != {{site:String}}"
    running = asyncio.create_task(area.rows(query, parameters={"site": "x"}))
    await area.busy()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await area.idle(1.0)


async def test_cancelling_a_call_stops_the_statement(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(1_000)
    call = client.RunSql(RunSqlRequest(sql=ENDLESS))
    running = asyncio.ensure_future(call)
    await area.busy()
    call.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await area.idle(1.0)


async def test_a_deadline_stops_the_statement(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(1_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.RunSql(RunSqlRequest(sql=ENDLESS), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await area.idle(1.0)


async def test_leaving_a_stream_stops_the_statement(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(1_000)
    rows = "SELECT a.event_id AS x, b.event_id AS y, c.event_id AS z FROM events AS a, events AS b, events AS c"
    call = client.StreamSql(StreamSqlRequest(sql=rows))
    kinds = []
    async for frame in call:
        kinds.append(frame.WhichOneof("frame"))
        if len(kinds) == 3:
            break
    call.cancel()
    assert kinds == ["header", "rows", "rows"]
    await area.idle(1.0)
    assert await area.rows("SELECT 1 AS a") == [[1]]


async def test_leaving_a_stream_that_has_no_rows_yet_stops_it_too(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(1_000)
    call = client.StreamSql(StreamSqlRequest(sql=ENDLESS))
    async for frame in call:
        assert frame.WhichOneof("frame") == "header"
        break
    await area.busy()
    call.cancel()
    await area.idle(1.0)


async def test_a_stream_that_nobody_reads_does_not_run_ahead(area: Area, client: "QueryServiceAsyncStub") -> None:
    await area.add(1_000)
    sql = "SELECT a.event_id AS x, b.event_id AS y, c.event_id AS z FROM events AS a, events AS b, events AS c"
    call = client.StreamSql(StreamSqlRequest(sql=sql))
    async for _ in call:
        break
    # One that ran ahead would never pause; the process has other work too, such as merges, which does.
    async with asyncio.timeout(30):
        busy_s = 1.0
        while busy_s > 0.25:
            before = time.process_time()
            await asyncio.sleep(0.5)
            busy_s = time.process_time() - before
    call.cancel()
    await area.idle(1.0)
