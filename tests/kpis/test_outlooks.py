"""Anomalies and forecasts of metrics in gold: which windows they look at, and what is told of them."""

import asyncio
import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest
from google.protobuf.json_format import MessageToJson

from penstock.errors import NotFound
from penstock.kpis import wire_outlooks
from penstock.kpis.anomalies import Method, Status
from penstock.kpis.moment import Moments
from penstock.kpis.outlooks import Outlooks, Target
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.series import SeriesReader
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.workers import Workers
from tests.kpis.conftest import Clock
from tests.kpis.gold import NOON, Event, Gold

HOUR = 3600
T = TypeVar("T")


class Thread(Workers):
    """Runs at once and in this process, which imports the libraries only once for all tests."""

    async def run(self, function: Callable[..., T], *args: object, timeout_s: float, tenant: str = "") -> T:
        return await asyncio.wait_for(asyncio.to_thread(function, *args), timeout_s)


@pytest.fixture
def outlooks(series: SeriesReader, catalogs: Catalogs) -> Outlooks:
    """Outlooks without a process of their own; one test has it."""
    return Outlooks(series, catalogs, Thread())


def shop(hours: int, *, drop: int = -1, until: int = NOON) -> list[Event]:
    """Views and purchases by the hour with the rhythm of a day; hour `drop` has views and no purchases."""
    events = []
    for hour in range(hours):
        start = until - (hours - hour) * HOUR
        viewers = 60 + round(30 * math.sin(2 * math.pi * hour / 24))
        buyers = 0 if hour == drop else viewers // 4
        events += [Event(start + n * 20, visitor=f"v{n}") for n in range(viewers)]
        events += [
            Event(start + n * 20 + 5, "purchase", visitor=f"v{n}", order_id=f"o{hour}-{n}") for n in range(buyers)
        ]
    return events


async def judged(outlooks: Outlooks, moments: Moments, metric: str, *, limit: int = 48, **asked: object) -> object:
    target = Target("default", metric, "", timedelta(hours=1), moments.now())
    options = {"method": Method.AUTO, "sensitivity": 0.5, "threshold": None, "limit": limit} | asked
    return await outlooks.anomalies(target, **options)  # type: ignore[arg-type]


async def test_a_drop_of_conversion_is_found_and_explained(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    hours = 14 * 24
    await gold.run(shop(hours, drop=hours - 5))
    clock.now = NOON + 60
    for method in (Method.AUTO, Method.ZSCORE, Method.MAD, Method.SEASONAL):
        found = await judged(outlooks, moments, "conversion_rate", method=method)
        odd = [
            start
            for start, each in zip(found.starts, found.anomalies.windows, strict=True)
            if each.status is Status.ANOMALY
        ]
        assert [int(start.timestamp()) for start in odd] == [NOON - 5 * HOUR], method
        (why,) = [each.why for each in found.anomalies.windows if each.status is Status.ANOMALY]
        assert "0.0 %" in why
    assert len(found.starts) == len(found.anomalies.windows) == 48
    assert found.reason == ""


async def test_the_window_that_is_under_way_is_not_judged(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    await gold.run([*shop(100), *(Event(NOON + n, visitor=f"v{n}") for n in range(5))])
    clock.now = NOON + 600
    found = await judged(outlooks, moments, "view_users", limit=3)
    assert int(found.starts[-1].timestamp()) == NOON - HOUR
    clock.now = NOON + HOUR
    found = await judged(outlooks, moments, "view_users", limit=3)
    assert int(found.starts[-1].timestamp()) == NOON
    assert found.anomalies.windows[-1].value == 5


async def test_hours_without_events_count_as_none(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    events = [event for event in shop(200) if not NOON - 10 * HOUR <= event.time < NOON - 8 * HOUR]
    await gold.run(events)
    clock.now = NOON + 60
    found = await judged(outlooks, moments, "page_views", limit=12)
    silent = [each for each in found.anomalies.windows if each.value == 0]
    assert [int(start.timestamp()) for start in found.starts] == [NOON - n * HOUR for n in range(12, 0, -1)]
    assert len(silent) == 2
    assert silent[0].status is Status.ANOMALY


async def test_a_threshold_of_ones_own_is_an_alarm_by_itself(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    await gold.run(shop(100))
    clock.now = NOON + 60
    quiet = await judged(outlooks, moments, "conversion_rate")
    alarmed = await judged(outlooks, moments, "conversion_rate", threshold=0.5)
    assert quiet.anomalies.anomalies == 0
    assert alarmed.anomalies.anomalies == len(alarmed.starts)


async def test_no_data_one_window_and_a_constant_are_answers(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    async def everything() -> list[str]:
        target = Target("default", "conversion_rate", "", timedelta(hours=1), moments.now())
        found = await judged(outlooks, moments, "conversion_rate")
        ahead = await outlooks.forecast(target, 5)
        messages = [
            wire_outlooks.anomalies(found), wire_outlooks.forecast(ahead), wire_outlooks.conversion_forecast(ahead),
        ]  # fmt: skip
        for message in messages:
            assert not {"NaN", "Infinity", "-Infinity"} & set(MessageToJson(message).split('"'))
        return [json.loads(MessageToJson(message)).get("reason", "") for message in messages]

    assert await everything() == ["no events yet"] * 3
    await gold.run([Event(NOON - HOUR, visitor="a")])
    clock.now = NOON + 60
    assert all(await everything())
    await gold.run([Event(NOON - HOUR * n, visitor="a") for n in range(2, 100)])
    reasons = await everything()
    assert reasons[0] == ""
    assert "same value" in reasons[1]


async def test_the_next_hours_follow_the_day(gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock) -> None:
    await gold.run(shop(10 * 24))
    clock.now = NOON + 60
    target = Target("default", "view_users", "", timedelta(hours=1), moments.now())
    ahead = await outlooks.forecast(target, 24)
    assert [int(start.timestamp()) for start in ahead.starts] == [NOON + n * HOUR for n in range(24)]
    for n, point in enumerate(ahead.forecast.points):
        came = 60 + round(30 * math.sin(2 * math.pi * (240 + n) / 24))
        assert point.lower_95 <= point.lower_80 <= point.value <= point.upper_80 <= point.upper_95
        assert abs(point.value - came) < 5
    assert ahead.forecast.backtest is not None
    assert ahead.forecast.backtest.season_length == 24
    # A perfect season leaves the naive method without an error to scale by.
    assert not wire_outlooks.forecast(ahead).backtest.HasField("mase")


async def test_the_worker_says_the_same(
    gold: Gold, series: SeriesReader, catalogs: Catalogs, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    await gold.run(shop(100))
    clock.now = NOON + 60
    target = Target("default", "conversion_rate", "", timedelta(hours=1), moments.now())
    workers = Workers()
    apart = Outlooks(series, catalogs, workers)
    try:
        assert await judged(apart, moments, "conversion_rate") == await judged(outlooks, moments, "conversion_rate")
        assert await apart.forecast(target, 3) == await outlooks.forecast(target, 3)
    finally:
        await workers.close()


async def test_an_older_version_is_judged_as_it_was(
    gold: Gold, outlooks: Outlooks, moments: Moments, clock: Clock
) -> None:
    await gold.run(shop(100))
    clock.now = NOON + 60
    before = await judged(outlooks, moments, "view_users", limit=5)
    then = moments.now().version.commit
    await gold.run([Event(NOON - HOUR + n, visitor=f"late{n}") for n in range(500)])
    after = await judged(outlooks, moments, "view_users", limit=5)
    assert after.anomalies.windows[-1].value == before.anomalies.windows[-1].value + 500
    at = await moments.of("default", then, None)
    assert at.version.commit == then
    again = await outlooks.anomalies(
        Target("default", "view_users", "", timedelta(hours=1), at.__class__(at.version, clock.now, past=True)),
        method=Method.AUTO, sensitivity=0.5, threshold=None, limit=5,
    )  # fmt: skip
    assert again.anomalies == before.anomalies


async def test_a_metric_that_is_not_there(outlooks: Outlooks, moments: Moments) -> None:
    with pytest.raises(NotFound) as refused:
        await judged(outlooks, moments, "nothing")
    assert refused.value.reason == "KPI_NOT_FOUND"


def test_fields_that_are_absent_mean_the_default() -> None:
    assert wire_outlooks.windows(pb.DetectAnomaliesRequest()) == 60
    assert wire_outlooks.sensitivity(pb.DetectAnomaliesRequest()) == 0.5
    assert wire_outlooks.sensitivity(pb.DetectAnomaliesRequest(sensitivity=0)) == 0
    assert wire_outlooks.threshold(pb.DetectAnomaliesRequest()) is None
    assert wire_outlooks.horizon(pb.ForecastKpiRequest()) == 24
