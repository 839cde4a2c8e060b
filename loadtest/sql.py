"""SQL of users: what the gate adds to a statement, and how long an aggregation over a month of events takes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np

from loadtest.launch import apart, scratch, server
from loadtest.month import month
from loadtest.result import Better, Result
from loadtest.scale import Scale
from penstock.queries.costs import CostRecorder
from penstock.queries.gate import Gate
from penstock.queries.runner import QueryRunner
from penstock.queries.statement import Caller, Query
from penstock.queries.v1 import queries_service_pb2 as pb
from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceStub
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import open_engine
from penstock.storage.schema import migrate
from penstock.storage.user_sql.lane import open_user_sql
from penstock.storage.user_sql.statement import Statement

if TYPE_CHECKING:
    from penstock.queries.v1.queries_service_pb2_grpc import QueryServiceAsyncStub

GATE_MS_MAX = 3.0
VALIDATE_MS_MAX = 5.0
AGGREGATE_MS_MAX = 500.0
CALLER = Caller("RunSql", "loadtest")
EVENTS = 10_000

# No two alike, so that neither the gate's memory nor kept answers help: `{n}` is another number each time.
STATEMENTS = (
    "SELECT event_type, count() AS n FROM events WHERE commit < {n} GROUP BY event_type ORDER BY n DESC",
    "WITH buyers AS (SELECT visitor, sum(amount) AS spent FROM events WHERE event_type = 'purchase' AND commit < {n}"
    " GROUP BY visitor) SELECT round(spent / 100) AS bucket, count() AS visitors FROM buyers GROUP BY bucket"
    " ORDER BY bucket LIMIT 50",
    "SELECT toStartOfHour(e.event_time) AS hour, uniq(e.visitor) AS users, sumIf(e.amount, e.event_type = 'purchase')"
    " AS gmv, avg(s.page_views) AS pages FROM events AS e LEFT JOIN sessions AS s ON e.visitor = s.visitor"
    " WHERE e.commit < {n} AND e.site_id IN ('north', 'south') GROUP BY hour HAVING users > 0 ORDER BY hour",
)
AGGREGATIONS = {
    "by_type": "SELECT event_type, count() AS n, sum(amount) AS gmv FROM events WHERE commit < {n} GROUP BY event_type",
    "by_day_and_site": "SELECT toDate(event_time) AS day, site_id, count() AS events, sumIf(amount, event_type ="
    " 'purchase') AS gmv FROM events WHERE commit < {n} GROUP BY day, site_id ORDER BY day, site_id",
    "top_products": "SELECT product_id, sum(amount) AS gmv FROM events WHERE event_type = 'purchase' AND commit < {n}"
    " GROUP BY product_id ORDER BY gmv DESC LIMIT 10",
    "users_by_hour": "SELECT toHour(event_time) AS hour, uniq(visitor) AS users FROM events WHERE commit < {n}"
    " GROUP BY hour ORDER BY hour",
}
_EVENTS = """
INSERT INTO silver_events
    (tenant, run, commit, event_id, event_type, event_time, visitor, site_id, amount, quantity, currency)
SELECT 'default', 1, 1, generateUUIDv4(), number % 3 ? 'page_view' : 'purchase',
    toDateTime64('2026-03-01 12:00:00', 6, 'UTC') + toIntervalSecond(number), toString(number % 97),
    number % 2 ? 'north' : 'south', number % 3 ? 0 : 2.5, 1, 'USD'
FROM numbers({count:UInt64})
"""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of every statement, in the order in which they ran."""

    run: list[float]  # through the gate
    direct: list[float]  # what the gate printed, without it
    prepare: list[float]  # the gate, the parameters and the version alone
    validate: list[float]


async def sql_gate_overhead(name: str, scale: Scale) -> Result:
    """p95 of what stands before the engine: the gate, the parameters, the version.

    Beside it whole statements, and the same ones printed before, which take turns: their difference is the same figure,
    and the engine's own spread in it.
    """
    times = await _gate_times(scale)
    return Result(
        name, _p(times.prepare, 95), "ms", GATE_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "run_p50_ms": _p(times.run, 50),
            "run_p95_ms": _p(times.run, 95),
            "direct_p50_ms": _p(times.direct, 50),
            "direct_p95_ms": _p(times.direct, 95),
            "p50_ms": _p(times.prepare, 50),
            "samples": len(times.run),
        },
    )  # fmt: skip


async def sql_validate(name: str, scale: Scale) -> Result:
    """p95 of a validation: the gate, and the engine's types."""
    times = await _gate_times(scale)
    return Result(
        name, _p(times.validate, 95), "ms", VALIDATE_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "p50_ms": _p(times.validate, 50),
            "gate_alone_p95_ms": _p(times.prepare, 95),
            "samples": len(times.validate),
        },
    )  # fmt: skip


async def sql_aggregate_5m(name: str, scale: Scale) -> Result:
    """p95 of aggregations over a month of events, over gRPC, none of them asked before."""
    folder = await asyncio.to_thread(month, scale)
    with server(folder, fsync=False, pipeline=False) as running:
        async with grpc.aio.insecure_channel(running.target) as channel:
            times = await _aggregate(cast("QueryServiceAsyncStub", QueryServiceStub(channel)), scale.steady_s)
    everything = [each for of_one in times.values() for each in of_one]
    return Result(
        name, _p(everything, 95), "ms", AGGREGATE_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "events": scale.events,
            "p50_ms": _p(everything, 50),
            **{f"{each}_p50_ms": _p(of_one, 50) for each, of_one in times.items()},
            "samples": len(everything),
        },
    )  # fmt: skip


async def _aggregate(client: "QueryServiceAsyncStub", seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {each: [] for each in AGGREGATIONS}
    number = 1_000_000_000
    for sql in AGGREGATIONS.values():  # the first touch reads the files
        await client.RunSql(pb.RunSqlRequest(sql=sql.format(n=number)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for each, sql in AGGREGATIONS.items():
            number += 1
            request = pb.RunSqlRequest(sql=sql.format(n=number))
            began = time.perf_counter()
            answer = await client.RunSql(request)
            times[each].append((time.perf_counter() - began) * 1e3)
            assert answer.row_count
            assert not answer.cached
    return times


async def _gate_times(scale: Scale) -> Times:
    with scratch() as folder:
        return await apart(_measure, folder, scale.seconds * scale.rounds)


def _measure(folder: Path, seconds: float) -> Times:
    return asyncio.run(_measured(folder, seconds))


async def _measured(folder: Path, seconds: float) -> Times:
    settings = Settings.model_validate({"data_dir": folder, "fsync": False})
    engine = open_engine(settings)
    await migrate(engine, settings)
    log = CommitLog(engine)
    await log.open()
    async with log.transaction() as transaction:
        await engine.execute(_EVENTS, {"count": EVENTS})
        await transaction.append(Entry("etl", run=1))
    sql = open_user_sql(settings)
    try:
        runner = QueryRunner(Gate(), sql, log, CostRecorder(engine))

        async def direct(query: Query) -> None:
            prepared = await runner.prepare(query)
            statement = Statement(prepared.text, prepared.parameters, 1_001)
            times.direct.append(await _timed(lambda: sql.answer(statement)))

        times = Times([], [], [], [])
        number = 1_000_000
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for text in STATEMENTS:
                number += 4
                await direct(Query("default", text.format(n=number)))
                times.run.append(
                    await _timed(lambda: runner.run(Query("default", text.format(n=number + 1)), CALLER))  # noqa: B023
                )
                times.prepare.append(
                    await _timed(lambda: runner.prepare(Query("default", text.format(n=number + 2))))  # noqa: B023
                )
                times.validate.append(await _timed(lambda: runner.validate("default", text.format(n=number + 3))))  # noqa: B023
        return times
    finally:
        await sql.close()
        await engine.close()


async def _timed(work: Callable[[], Coroutine[Any, Any, object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1e3


def _p(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent, method="higher"))
