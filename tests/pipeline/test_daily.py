"""Daily metrics: their values, by hand, and that computing them again replaces them."""

from datetime import date
from decimal import Decimal

import pytest

from penstock.pipeline.daily import Count, DailyCalculator, DailyMetrics
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit

DAY = date(2026, 3, 1)  # of bronze.START, which is noon


@pytest.fixture
def daily(engine: Engine, commit_log: CommitLog, settings: Settings) -> DailyCalculator:
    return DailyCalculator(engine, commit_log, settings)


async def test_a_day_by_hand(runner: PipelineRunner, daily: DailyCalculator, commit: Commit) -> None:
    hour = 3600
    await commit(
        # a looks at two pages and buys; b bounces twice; c comes before midnight and stays past it.
        Sent(visitor_id="a", event_time=at(0), path="/", utm_source="mail"),
        Sent(visitor_id="a", event_time=at(60), path="/p"),
        Sent("purchase", at(90), visitor_id="a", order_id="1", price=Decimal("10.10"), quantity=2),
        Sent("purchase", at(95), visitor_id="a", order_id="1", price=Decimal("5")),
        Sent("purchase", at(96), user_id="d", price=Decimal("7"), currency="EUR"),
        Sent(visitor_id="b", event_time=at(hour), path="/"),
        Sent(visitor_id="b", event_time=at(3 * hour), path="/"),
        Sent("search", at(11.9 * hour), visitor_id="c"),
        Sent(visitor_id="c", event_time=at(12.1 * hour), path="/night"),
        Sent(visitor_id="z", event_time=at(0), site_id="blog"),
        Sent(visitor_id="y", tenant="other"),
    )
    await runner.run()
    blog, shop = await daily.calculate("default", DAY)
    assert shop == DailyMetrics(
        date=DAY,
        site_id="shop",
        sessions=5,
        visitors=4,
        page_views=4,
        bounce_rate=3 / 5,
        average_session_seconds=(95 + 0.2 * hour) / 5,
        orders=2,
        gmv=Decimal("25.2"),
        currency="USD",
        conversion_rate=2 / 2,
        top_pages=(Count("/", 3), Count("/p", 1)),
        sources=(Count("", 4), Count("mail", 1)),
    )
    assert (blog.site_id, blog.sessions, blog.conversion_rate, blog.top_pages) == ("blog", 1, 0.0, ())


async def test_again_after_late_events_replaces(
    engine: Engine, runner: PipelineRunner, daily: DailyCalculator, commit: Commit
) -> None:
    await commit(Sent("search", visitor_id="a"))
    await runner.run()
    (first,) = await daily.calculate("default", DAY)
    await commit(Sent(visitor_id="a", event_time=at(9)), Sent("purchase", visitor_id="b", price=Decimal(3)))
    await runner.run()
    (second,) = await daily.calculate("default", DAY)
    assert (first.visitors, first.conversion_rate) == (1, None)
    assert (second.visitors, second.sessions, second.gmv) == (2, 2, Decimal(3))
    kept = await engine.rows(
        "SELECT visitors, top_pages, gmv FROM daily_metrics WHERE tenant = 'default' ORDER BY commit DESC LIMIT 1"
    )
    assert (kept[0]["visitors"], kept[0]["gmv"]) == (2, Decimal(3))


async def test_a_day_without_events_has_none(commit_log: CommitLog, daily: DailyCalculator) -> None:
    head = commit_log.head
    assert await daily.calculate("default", DAY) == []
    assert commit_log.head == head
