"""The SDK against a real server in a process of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

import penstock
from penstock_client.replay import PRESETS, ReplaySource, replay
from tests.process import ServerProcess

SITE = "client-tests"


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[penstock.Client]:
    """A client of the module's server."""
    async with penstock.Client(server.target) as opened:
        yield opened


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without the pipeline, whose own commits move the log's head: here only events do."""
    with ServerProcess(tmp_path_factory.mktemp("quiet"), env={"PENSTOCK_PIPELINE_ENABLED": "false"}) as running:
        yield running


@pytest.fixture
async def quiet(quiet_server: ServerProcess) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(quiet_server.target) as opened:
        yield opened


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def purchase(n: int, site_id: str) -> penstock.Event:
    """One order of 10."""
    return penstock.event(
        "purchase",
        timestamp=datetime.now(UTC),
        user_id=f"u{n}",
        session_id=f"{site_id}-s{n}",
        site_id=site_id,
        order_id=f"{site_id}-{n}",
        price=5.0,
        quantity=2,
    )


async def test_rows_and_columns_are_stored_and_read_back(client: penstock.Client) -> None:
    """A writer, then list, count, stream."""
    stream_id, site = f"rows-{uuid4()}", f"site-{uuid4()}"
    async with client.events.writer(stream_id, batch_rows=10) as writer:
        for n in range(25):
            await writer.send(purchase(n, site))
        columns = {"event_type": ["page_view"] * 5, "site_id": [site] * 5, "user_id": [f"u{n}" for n in range(5)]}
        await writer.send_arrow(pa.table({**columns, "shelf": range(5)}))
        await writer.flush()
        assert writer.stats.rows_accepted == 30
    assert (await client.events.stream(stream_id)).next_offset == 30
    assert dict((await client.events.count(site_id=site)).counts) == {"purchase": 25, "page_view": 5}
    stored = [each async for each in client.events.list(site_id=site, page_size=7)]
    assert len({each.event.event_id for each in stored}) == 30
    assert {each.event.properties["shelf"] for each in stored if each.event.event_type == "page_view"} == set("01234")


async def test_a_tail_shows_what_is_committed_and_resumes(quiet: penstock.Client) -> None:
    """Each event once; resumed in the middle of the newest commit, too, where no later one helps it along."""
    site = f"site-{uuid4()}"
    tail = quiet.events.tail(site_id=site, heartbeat_s=1)
    first = asyncio.create_task(anext(tail))
    await asyncio.sleep(0.5)
    async with quiet.events.writer() as writer:
        for n in range(3):
            await writer.send(purchase(n, site))
    seen = [await asyncio.wait_for(first, 10)]
    token = tail.resume_token
    await tail.aclose()
    resumed = quiet.events.tail(token, site_id=site)
    seen += [await asyncio.wait_for(anext(resumed), 5) for _ in range(2)]
    assert [each.event.user_id for each in seen] == ["u0", "u1", "u2"]
    await resumed.aclose()


async def test_a_tail_shows_all_of_a_large_commit(quiet: penstock.Client) -> None:
    """More rows than the server reads at a time, with no later commit."""
    site, rows = f"site-{uuid4()}", 2_500
    tail = quiet.events.tail(site_id=site, heartbeat_s=1)
    first = asyncio.create_task(anext(tail))
    await asyncio.sleep(0.5)
    async with quiet.events.writer(f"large-{uuid4()}", batch_rows=rows) as writer:
        await writer.send_batch(purchase(n, site) for n in range(rows))
    seen = [(await asyncio.wait_for(first, 10)).event.user_id]
    async with asyncio.timeout(10):
        while len(seen) < rows:
            seen.append((await anext(tail)).event.user_id)
    assert seen == [f"u{n}" for n in range(rows)]
    await tail.aclose()


async def test_refusals_and_rejected_rows(client: penstock.Client) -> None:
    """ALL_OR_NOTHING gives the rows back, KEEP_GOOD keeps them on the server, where they can be mended."""
    stream_id = f"bad-{uuid4()}"
    async with client.events.writer(stream_id) as writer:
        await writer.send(purchase(0, SITE))
        await writer.send(event_type="purchase", user_id="u1", currency="pounds")
        with pytest.raises(penstock.RowsRejected) as refusal:
            await writer.flush()
        assert [(row.index, row.reason) for row in refusal.value.rejected] == [(1, "INVALID_CURRENCY")]
        await writer.send_batch(event for event in refusal.value.events() if not event.currency)
        await writer.flush()
        assert writer.next_offset == 1
    async with client.events.writer(stream_id, row_policy="keep_good") as writer:
        acks = writer.acks()
        await writer.send(event_type="purchase", user_id="u1", currency="pounds")
        await writer.flush()
        assert (await anext(acks)).rejected_rows == 1
    (kept,) = [each async for each in client.events.rejected(stream_id=stream_id)]
    assert (kept.reason, kept.offset) == ("INVALID_CURRENCY", 1)
    answer = await client.events.replay_rejected([kept.rejected_id], overrides={"currency": "GBP"})
    assert answer.accepted_rows == 1


async def test_unary_collecting(client: penstock.Client) -> None:
    """A result for each."""
    answer = await client.events.batch_collect([{"event_type": "page_view"}, {"event_type": ""}])
    assert [result.reason for result in answer.results] == ["", "MISSING_EVENT_TYPE"]


async def test_errors_name_the_field(client: penstock.Client) -> None:
    """As the contract bounds it."""
    with pytest.raises(penstock.InvalidRequest) as error:
        _ = [each async for each in client.events.list(page_size=5_000)]
    assert error.value.reason == "INVALID_FIELD"
    assert [violation.field for violation in error.value.violations] == ["page_size"]


async def test_pipeline_and_kpis(client: penstock.Client) -> None:
    """From events to figures, by every call."""
    site = f"site-{uuid4()}"
    async with client.events.writer() as writer:
        for n in range(4):
            await writer.send(purchase(n, site))
    await client.pipeline.run()
    metrics = await client.kpis.metrics(site_id=site, window=timedelta(hours=1))
    assert (metrics.latest_kpis.orders, metrics.latest_kpis.gmv) == (4, 40.0)
    revenue = await client.kpis.revenue_trend(site_id=site)
    assert revenue.summary.total_gmv == 40.0
    assert (await client.kpis.conversion_trend(site_id=site)).data
    assert "gmv" in [kpi.name for kpi in await client.kpis.catalog()]
    watch = client.kpis.watch(site_id=site, interval=timedelta(seconds=0.1))
    assert (await anext(watch)).latest_kpis.gmv == 10.0 * 4
    await watch.aclose()  # type: ignore[attr-defined]
    assert len(await client.pipeline.sessions(site_id=site)) == 4
    today = datetime.now(UTC).date()
    assert site in [each.site_id for each in await client.pipeline.daily_metrics(today)]
    operation = await client.pipeline.start()
    await operation.wait(30)
    assert operation.done
    assert (await client.pipeline.operation(operation.id)).name == operation.name
    await client.pipeline.process("page_view")
    assert (await client.pipeline.status()).lag_commits == 0
    assert (await client.pipeline.cleanup()).dry_run
    versions = [each async for each in client.pipeline.history("gold")]
    assert versions[0].version > versions[-1].version or len(versions) == 1
    mine = f'site_id = "{site}"'
    events = [row async for row in client.pipeline.data("silver", where=mine, page_size=3)]
    assert len(events) == (await client.events.count(site_id=site)).total
    assert all(isinstance(row["event_time"], datetime) and isinstance(row["commit"], int) for row in events)
    before = versions[-1].version - 1
    assert [row async for row in client.pipeline.data("gold", version=before, where=mine)] == []
    assert site in [window.site_id for window in (await client.pipeline.diff(from_version=before)).windows]
    with pytest.raises(penstock.OutOfRange):
        _ = [row async for row in client.pipeline.data("gold", version=10**9)]
    with pytest.raises(penstock.NotFound):
        await client.pipeline.operation("none")


async def test_the_state_of_the_server(client: penstock.Client) -> None:
    """Health, readiness, status."""
    assert (await client.operations.health()).database == "connected"
    assert (await client.operations.ready()).status == "ready"
    assert (await client.operations.status()).version


async def test_a_replay_loses_no_good_row(client: penstock.Client, tmp_path: Path) -> None:
    """Dirt is kept with its reason."""
    (tmp_path / "a.csv").write_text("1,10,7,pv,1511658000\n2,11,7,buy,1511658001\n3,12,7,pv,15\n1,10\n")
    result = await replay(client, ReplaySource(tmp_path / "a.csv", PRESETS["taobao"]))
    assert (result.rows_accepted, result.rows_rejected) == (2, 2)
    assert set(result.reasons) == {"TIMESTAMP_TOO_OLD", "MISSING_EVENT_TYPE"}


def test_the_sync_client(server: ServerProcess) -> None:
    """The same, waiting."""
    stream_id = f"sync-{uuid4()}"
    with penstock.SyncClient(server.target) as client:
        with client.events.writer(stream_id) as writer:
            for n in range(2_500):
                writer.send(purchase(n, SITE))
        assert client.events.stream(stream_id).next_offset == 2_500
        assert len(list(client.events.list(session_id=f"{SITE}-s7", site_id=SITE))) >= 1
        assert client.operations.health().status


@pytest.mark.slow
@pytest.mark.faults
async def test_a_server_that_is_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """kill -9 in the middle of a stream, twice; the writer goes on by itself."""
    # The port must stay: a client finds a restarted server where it was.
    with ServerProcess(tmp_path, "--grpc-port", str(free_port())) as server:
        async with penstock.Client(server.target) as client:
            async with client.events.writer("s", batch_rows=50) as writer:
                for n in range(6_000):
                    await writer.send(purchase(n, SITE))
                    if n in (2_000, 4_000):
                        server.kill()
                        await asyncio.to_thread(server.start)
            assert (await client.events.stream("s")).next_offset == 6_000
            assert (await client.events.count()).total == 6_000
            stored = [each.event.user_id async for each in client.events.list(page_size=1_000)]
            assert sorted(stored) == sorted(f"u{n}" for n in range(6_000))
