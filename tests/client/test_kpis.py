"""`client.kpis` against a real server, async and sync."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

import penstock
from tests.process import ServerProcess

DAY = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[penstock.Client]:
    async with penstock.Client(server.target) as opened:
        yield opened


async def shopping(client: penstock.Client, site: str) -> None:
    """Two days: a viewer who buys, and one who only looks."""
    events = [
        penstock.event("page_view", user_id=f"{site} a", site_id=site, timestamp=DAY),
        penstock.event("page_view", user_id=f"{site} b", site_id=site, timestamp=DAY + timedelta(hours=1)),
        penstock.event(
            "purchase", user_id=f"{site} a", site_id=site, timestamp=DAY + timedelta(days=1), price=20,
            properties={"channel": "app"},
        ),
    ]  # fmt: skip
    await client.events.batch_collect(events)
    await client.pipeline.run()


async def test_queries_come_as_rows_totals_and_frames(client: penstock.Client) -> None:
    site = uuid.uuid4().hex
    await shopping(client, site)
    asked = {"start": DAY, "end": DAY + timedelta(days=2), "filters": {"site": site}, "time_zone": "UTC"}
    rows = [row async for row in client.kpis.query(["view_users", "gmv"], grain="day", page_size=1, **asked)]
    assert [(row.window_start, row.window_end) for row in rows] == [
        (DAY, DAY + timedelta(days=1)), (DAY + timedelta(days=1), DAY + timedelta(days=2)),
    ]  # fmt: skip
    assert [row.values for row in rows] == [{"view_users": 2, "gmv": 0}, {"view_users": 0, "gmv": 20}]
    total = await client.kpis.query_total(["conversion_rate"], compare="previous_week", **asked)
    assert (total.values, total.previous) == ({"conversion_rate": 0.5}, {})
    frame = await client.kpis.query_frame(
        ["gmv", "conversion_rate"], dimensions=["event_type"], grain="day", compare="previous_period",
        order_by="gmv desc", **{**asked, "filters": {"site": ("in", [site]), "event_type": ("not in", ["refund"])}},
    )  # fmt: skip
    assert list(frame.columns) == [
        "window_start", "window_end", "event_type", "gmv", "conversion_rate",
        "gmv_previous", "conversion_rate_previous", "gmv_change", "conversion_rate_change",
    ]  # fmt: skip
    assert frame.gmv.tolist() == [20, 0]
    assert frame.event_type.tolist() == ["purchase", "page_view"]
    assert frame.conversion_rate.isna().tolist() == [True, False]
    with pytest.raises(penstock.InvalidRequest):
        await client.kpis.query_total(["gmv"], last="soon")
    with pytest.raises(penstock.NotFound):
        await client.kpis.query_total(["nothing"])


async def test_a_metric_of_ones_own(client: penstock.Client) -> None:
    site = uuid.uuid4().hex
    await shopping(client, site)
    name = f"app_{site[:8]}"
    made = await client.kpis.create(
        name, "sum", "sum(amount, event_type = 'purchase' and properties.channel = 'app')", unit="currency", warning=5
    )
    assert (made.own, made.thresholds.warning, made.label) == (True, 5, name)
    total = await client.kpis.query_total([name], start=DAY, end=DAY + timedelta(days=2), filters={"site": site})
    assert total.values == {name: 20}
    trend = await client.kpis.trend(name, site_id=site, window=timedelta(days=1))
    assert [point.value for point in trend.data] == [0, 20]
    assert (await client.kpis.update(name, label="App sales", good_direction="up")).label == "App sales"
    assert (await client.kpis.get(name)).expression == made.expression
    assert name in {kpi.name for kpi in await client.kpis.catalog()}
    await client.kpis.delete(name)
    with pytest.raises(penstock.NotFound):
        await client.kpis.get(name)
    with pytest.raises(penstock.Conflict):
        await client.kpis.delete("gmv")


async def test_the_rest_of_the_area(client: penstock.Client) -> None:
    site = uuid.uuid4().hex
    await shopping(client, site)
    judged = await client.kpis.anomalies("page_views", site_id=site, window=timedelta(days=1), method="mad")
    assert len(judged.data) == 2
    ahead = await client.kpis.forecast("page_views", site_id=site, window=timedelta(days=1), horizon=2)
    assert ahead.metric == "page_views"
    assert (await client.kpis.conversion_forecast(site_id=site)).reason
    assert (await client.kpis.features(f"{site} a")).user.total_events == 2
    table = await client.kpis.export_features()
    assert {f"{site} a", f"{site} b"} <= set(table["user_id"].to_pylist())
    with pytest.raises(penstock.NotFound):
        await client.kpis.features("nobody")
    assert (await client.kpis.data_quality()).grade
    assert (await client.kpis.latency(site_id=site)).summary.events_processed == 3
    versions = [each async for each in client.pipeline.history("gold")]
    then = await client.kpis.metrics(site_id=site, as_of=versions[-1].version)
    assert not then.HasField("latest_kpis") or len(versions) == 1
    assert (await client.kpis.conversion_trend(site_id=site, as_of=datetime.now(UTC))).data


def test_sync(server: ServerProcess) -> None:
    with penstock.SyncClient(server.target) as client:
        rows = list(client.kpis.query(["events"], last="7 days", fill="zero", grain="day"))
        assert len(rows) == 8  # the first and the last are cut
        assert list(client.kpis.query_frame(["gmv"], last="7 days").columns) == ["window_start", "window_end", "gmv"]
        assert client.kpis.get("gmv").unit == "currency"
