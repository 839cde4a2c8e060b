"""Latency against a plain computation over the events as sent."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean

import pytest

from penstock.kpis.latency import Lag, LatencyReader
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Parameters, Row
from tests.pipeline import bronze
from tests.pipeline.bronze import Sent

MINUTE = timedelta(minutes=1)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Past:
    """Commits at times of the test's choosing: the log's own clock is set before each."""

    def __init__(self, engine: ClickHouseEngine, log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self._log = log
        self._monkeypatch = monkeypatch

    async def commit(self, time: datetime, events: Sequence[Sent]) -> None:
        """Stores `events` at `time`, which must rise."""

        class Frozen(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return time

        with self._monkeypatch.context() as patched:
            patched.setattr("penstock.storage.commit_log.datetime", Frozen)
            await bronze.commit(self._engine, self._log, events)


@pytest.fixture
def past(engine: ClickHouseEngine, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch) -> Past:
    return Past(engine, commit_log, monkeypatch)


@pytest.fixture
def latency(engine: ClickHouseEngine, commit_log: CommitLog) -> LatencyReader:
    return LatencyReader(engine, commit_log)


def sent(stored: datetime, lags: Sequence[float], site_id: str = "shop", tenant: str = "default") -> list[Sent]:
    return [Sent(event_time=stored - timedelta(seconds=lag), site_id=site_id, tenant=tenant) for lag in lags]


def agrees(found: Lag, lags: Sequence[float]) -> bool:
    """Whether it is the lag of events with these lags, its quantiles within their 0.5 %."""
    lags = sorted(max(0.0, lag) for lag in lags)

    def near(value: float, quantile: float) -> bool:
        # Between the neighbours of the quantile, because there are several ways to say which of them it is.
        place = quantile * (len(lags) - 1)
        below, above = lags[int(place)], lags[min(int(place) + 1, len(lags) - 1)]
        return below * 0.994 - 1e-6 <= value <= above * 1.006 + 1e-6

    return (
        found.events == len(lags)
        and found.mean == pytest.approx(fmean(lags))
        and near(found.p50, 0.5)
        and near(found.p95, 0.95)
        and near(found.p99, 0.99)
        and found.backfilled_share == pytest.approx(sum(lag > 86_400 for lag in lags) / len(lags))
    )


async def test_minutes_and_their_total(past: Past, latency: LatencyReader) -> None:
    chance = random.Random(3)
    minutes: dict[datetime, list[float]] = {}
    for number in range(12):
        stored = START + timedelta(seconds=25 * number)
        lags = [chance.choice((chance.expovariate(0.2), 0.0, -5.0, 3e8)) for _ in range(chance.randrange(1, 80))]
        minutes.setdefault(stored.replace(second=0), []).extend(lags)
        await past.commit(stored, sent(stored, lags))
    for limit in (60, 5, 3, 1):
        found = await latency.latency("default", "", limit)
        wanted = list(minutes.items())[-limit:]
        assert [minute for minute, _ in found.minutes] == [minute for minute, _ in wanted]
        assert all(agrees(lag, lags) for (_, lag), (_, lags) in zip(found.minutes, wanted, strict=True))
        assert found.total is not None
        assert agrees(found.total, [lag for _, lags in wanted for lag in lags])
        assert found.reason == ""


@pytest.mark.parametrize(
    ("lag", "status"), [(0, "excellent"), (4.9, "excellent"), (5.1, "good"), (15.1, "warning"), (30.2, "critical")]
)
def test_the_status_is_by_the_95th_percentile(lag: float, status: str) -> None:
    assert Lag(mean=1e6, p50=1e6, p95=lag, p99=1e6, events=1, backfilled_share=0).status == status


async def test_replayed_years_are_late_and_said_to_be_a_replay(past: Past, latency: LatencyReader) -> None:
    years = 15 * 365 * 86_400.0
    await past.commit(START, sent(START, [years] * 40_000))  # enough that their microseconds overflow an integer's sum
    found = await latency.latency("default", "", 60)
    assert found.total is not None
    assert found.total.mean == pytest.approx(years)
    assert (found.total.status, found.total.backfilled_share) == ("critical", 1)


async def test_sites_and_tenants_are_apart(past: Past, latency: LatencyReader) -> None:
    await past.commit(START, [*sent(START, [1, 1]), *sent(START, [7], site_id="blog")])
    later = START + 5 * MINUTE
    await past.commit(later, sent(later, [9, 9, 9], tenant="other"))
    assert [lag.events for _, lag in (await latency.latency("default", "", 1)).minutes] == [3]
    blog = await latency.latency("default", "blog", 60)
    assert blog.total is not None
    assert agrees(blog.total, [7])
    assert [lag.events for _, lag in (await latency.latency("other", "", 60)).minutes] == [3]


async def test_no_events_are_an_answer(past: Past, latency: LatencyReader) -> None:
    none = await latency.latency("default", "", 60)
    assert (none.minutes, none.total, none.reason) == ([], None, "no events yet")
    await past.commit(START, sent(START, [1]))
    nowhere = await latency.latency("default", "nowhere", 60)
    assert (nowhere.minutes, nowhere.total, nowhere.reason) == ([], None, "no events of this site in these minutes")


async def test_only_the_commits_of_the_minutes_are_read(
    past: Past, latency: LatencyReader, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        stored = START + number * MINUTE
        await past.commit(stored, sent(stored, [1]))
    bounds: list[object] = []
    rows = engine.rows

    async def noted(sql: str, parameters: Parameters | None = None, **options: float) -> list[Row]:
        bounds.append((parameters or {}).get("since"))
        return await rows(sql, parameters)

    monkeypatch.setattr(engine, "rows", noted)
    assert len((await latency.latency("default", "", 2)).minutes) == 2
    assert bounds == [None, 4]
