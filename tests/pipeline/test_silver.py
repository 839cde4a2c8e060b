"""Bronze → silver: one row an event id, typed."""

import uuid
from decimal import Decimal

import pytest

from penstock.pipeline.runner import PipelineRunner
from penstock.storage.engine import Engine, Row
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit


async def silver(engine: Engine) -> list[Row]:
    return await engine.rows("SELECT * FROM silver_events ORDER BY event_time, tenant")


async def test_the_first_row_of_an_event_id_wins(engine: Engine, runner: PipelineRunner, commit: Commit) -> None:
    name = uuid.uuid4()
    first = Sent(event_id=name, path="/first", event_time=at(9))
    await commit(first, Sent(event_id=name, path="/same commit"))
    await commit(Sent(event_id=name, path="/same run"))
    run, _ = await runner.run()
    await commit(Sent(event_id=name, path="/next run"), Sent(event_id=name, path="/next run"))
    (again,) = await runner.run()  # without new rows there is nothing to make sessions of
    assert [row["path"] for row in await silver(engine)] == ["/first"]
    assert (run.steps[0].rows_in, run.steps[0].rows_out, run.steps[0].duplicates) == (3, 1, 2)
    assert (again.steps[0].rows_in, again.steps[0].rows_out, again.steps[0].duplicates) == (2, 0, 2)


async def test_tenants_may_use_the_same_event_id(engine: Engine, runner: PipelineRunner, commit: Commit) -> None:
    name = uuid.uuid4()
    await commit(Sent(event_id=name, tenant="a"))
    await runner.run()
    await commit(Sent(event_id=name, tenant="b"), Sent(event_id=name, tenant="a"))
    await runner.run()
    assert [row["tenant"] for row in await silver(engine)] == ["a", "b"]


async def test_rows_are_typed(engine: Engine, runner: PipelineRunner, commit: Commit) -> None:
    await commit(
        Sent("view", at(0), visitor_id="v", url="https://shop.example/p/1?q=2#top"),
        Sent("pageview", at(1), visitor_id="v", user_id="u", url="https://shop.example", path="/given"),
        Sent("purchase", at(2), price=Decimal("19.99"), quantity=3, currency="eur", url="https://shop.example"),
        Sent("purchase", at(3), price=Decimal("0.000001"), url="/only/path?x=1"),
        Sent("refund", at(4), price=Decimal("-1000000000"), quantity=2_147_483_647, url="not an address"),
        Sent("anything", at(5)),
    )
    await runner.run()
    rows = await silver(engine)
    assert [row["event_type"] for row in rows] == [*["page_view"] * 2, "purchase", "purchase", "refund", "anything"]
    assert [row["visitor"] for row in rows] == ["v", "u", "", "", "", ""]
    assert [row["path"] for row in rows] == ["/p/1", "/given", "/", "/only/path", "/", ""]
    assert [row["currency"] for row in rows] == ["USD", "USD", "EUR", "USD", "USD", "USD"]
    assert [row["quantity"] for row in rows] == [1, 1, 3, 1, 2_147_483_647, 1]
    assert [row["amount"] for row in rows] == [
        *(Decimal(0), Decimal(0), Decimal("59.97"), Decimal("0.000001")),
        *(Decimal("-2147483647000000000"), Decimal(0)),
    ]


@pytest.mark.parametrize("rows_max", [1, 4, 1_000])
async def test_batches_are_whole_commits(runner: PipelineRunner, commit: Commit, rows_max: int) -> None:
    for size in (1, 3, 2, 6):
        await commit(*(Sent() for _ in range(size)))
    *runs, sessions = await runner.run(rows_max=rows_max)
    expected = {1: [1, 3, 2, 6], 4: [4, 2, 6], 1_000: [12]}
    assert [run.rows for run in runs] == expected[rows_max]
    assert [run.first_commit for run in runs[1:]] == [run.last_commit + 1 for run in runs[:-1]]
    assert [step.name for step in sessions.steps] == ["sessions"]
