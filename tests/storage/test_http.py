"""The remote path where things go wrong: what is told, what is sent once only, and what is ended before going on."""

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from penstock.errors import Conflict, Unavailable
from penstock.settings import Settings
from penstock.storage import engine as engine_module
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.payload import Payload
from tests.storage.clickhouse_http import ClickHouseHttp, Kind
from tests.storage.conftest import OpenEngine
from tests.storage.rows import count_bronze, write_bronze

SCHEMA = 'syntax = "proto3"; message Row { string name = 1; }'


@pytest.fixture
async def engine(open_http: OpenEngine) -> ClickHouseEngine:
    return await open_http()


def names() -> pa.Table:
    return pa.table({"tenant": ["default"] * 3, "commit": pa.array([7] * 3, pa.int64())})


@pytest.mark.parametrize(("wrong", "said"), [("secret", "AUTHENTICATION_FAILED"), ("/test_", "UNKNOWN_DATABASE")])
def test_a_refused_user_or_database_is_said_at_the_start(http_settings: Settings, wrong: str, said: str) -> None:
    url = http_settings.clickhouse_url.replace(wrong, wrong + "x")
    with pytest.raises(Conflict, match="does not let user 'penstock' into database") as caught:
        open_engine(Settings(data_dir=http_settings.data_dir, clickhouse_url=url))
    assert caught.value.reason == "STORAGE_REFUSED"
    assert said in caught.value.message


def test_a_server_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        open_engine(Settings(data_dir=tmp_path, clickhouse_url="http://penstock:secret@127.0.0.1:1/penstock"))


async def test_a_server_that_went_away_is_unavailable_until_it_is_back(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp
) -> None:
    clickhouse.listen(False)
    try:
        for work in (
            engine.rows("SELECT 1 AS x"),
            write_bronze(engine, 1),
            engine.insert_arrow("bronze_events", names()),
        ):
            with pytest.raises(Unavailable) as caught:
                await work
            assert caught.value.reason == "STORAGE_UNAVAILABLE"
            assert caught.value.retry_after_s
    finally:
        clickhouse.listen(True)
    await write_bronze(engine, 1)
    assert await count_bronze(engine) == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_proxys_error_is_unavailable(engine: ClickHouseEngine, clickhouse: ClickHouseHttp, status: int) -> None:
    clickhouse.misbehave("refuse_statement", "INSERT INTO bronze_events", status=status)
    with pytest.raises(Unavailable):
        await write_bronze(engine, 1)
    assert await count_bronze(engine) == 0


async def test_a_read_is_tried_again_by_itself(engine: ClickHouseEngine, clickhouse: ClickHouseHttp) -> None:
    clickhouse.misbehave("lose_answer", "SELECT 41")
    assert await engine.rows("SELECT 41 + 1 AS x") == [{"x": 42}]


@pytest.mark.parametrize("how", ["lose_answer", "refuse_statement"])
@pytest.mark.parametrize("fence", ["", "1 = 1"])
async def test_an_insert_is_never_sent_twice(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp, how: Kind, fence: str
) -> None:
    """clickhouse-connect's own insert methods send an insert again after a broken connection."""
    engine.set_fence(fence)
    payload = Payload([(b"\n\x01a",)], "name String", SCHEMA, "Row")
    insert = "INSERT INTO bronze_events (commit, tenant) SELECT 7, name FROM {source} SETTINGS {settings}"
    sent = len(clickhouse.statements("INSERT INTO bronze_events"))
    for send in (
        lambda: write_bronze(engine, 7),
        lambda: engine.insert_arrow("bronze_events", names()),
        lambda: engine.insert_payload(insert, payload),
    ):
        clickhouse.misbehave(how, "INSERT INTO bronze_events")
        with pytest.raises(Unavailable):
            await send()
    assert len(clickhouse.statements("INSERT INTO bronze_events")) == sent + 3
    assert await count_bronze(engine) == (7 if how == "lose_answer" else 0)


async def test_a_server_that_hangs_is_given_up(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "ANSWER_S", 0.2)
    clickhouse.misbehave("hang", "SELECT 43", times=5, seconds=2)
    with pytest.raises(Unavailable):
        await engine.rows("SELECT 43", timeout_s=0.2)
    clickhouse.behave()
    await engine.settle(everybody=True)


async def test_settling_ends_a_write_that_was_not_answered(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp
) -> None:
    clickhouse.misbehave("late", "INSERT INTO bronze_events", seconds=0.5)
    with pytest.raises(Unavailable):
        await write_bronze(engine, 1)
    await engine.settle()
    await asyncio.sleep(0.7)
    assert await count_bronze(engine) == 0


async def test_a_write_that_was_not_answered_takes_effect_unless_it_is_settled(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp
) -> None:
    """What the test before would show if settling did nothing."""
    clickhouse.misbehave("late", "INSERT INTO bronze_events", seconds=0.3)
    with pytest.raises(Unavailable):
        await write_bronze(engine, 1)
    await asyncio.sleep(0.6)
    assert await count_bronze(engine) == 3


async def test_settling_leaves_other_statements_alone(engine: ClickHouseEngine, clickhouse: ClickHouseHttp) -> None:
    clickhouse.misbehave("drop", "INSERT INTO bronze_events")
    clickhouse.misbehave("hang", "INSERT INTO pipeline_runs", seconds=0.4)
    with pytest.raises(Unavailable):
        await write_bronze(engine, 1)
    running = asyncio.create_task(engine.execute("INSERT INTO pipeline_runs (run, start_time) VALUES (1, now64(6))"))
    await asyncio.sleep(0.1)
    await engine.settle()
    await running
    assert await engine.rows("SELECT run FROM pipeline_runs") == [{"run": 1}]


async def test_settling_for_everybody_ends_another_servers_writes(
    engine: ClickHouseEngine, open_http: OpenEngine, clickhouse: ClickHouseHttp
) -> None:
    other = await open_http()
    clickhouse.misbehave("late", "INSERT INTO bronze_events", seconds=0.5)
    with pytest.raises(Unavailable):
        await write_bronze(other, 1)
    await engine.settle(everybody=True)
    await asyncio.sleep(0.7)
    assert await count_bronze(engine) == 0


async def test_settings_that_a_commit_rests_on_go_with_every_statement(
    engine: ClickHouseEngine, clickhouse: ClickHouseHttp
) -> None:
    await write_bronze(engine, 1)
    (sent,) = clickhouse.statements("INSERT INTO bronze_events")[-1:]
    assert sent["settings"]["async_insert"] == "0"
    assert sent["settings"]["insert_deduplicate"] == "0"
    assert sent["query_id"].startswith("penstock/test_")
