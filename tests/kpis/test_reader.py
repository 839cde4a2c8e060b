"""What is read from gold equals what the events themselves say, as of one version."""

import asyncio
import random
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from penstock.kpis.moment import Moments
from penstock.kpis.reader import WINDOW_METRICS, KpiReader
from penstock.kpis.trend import Course
from penstock.kpis.trends import CONVERSION_METRICS, REVENUE_METRICS, TrendReader
from penstock.kpis.windows import Scope, Snapshot
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.kpis.conftest import Clock, statements_of
from tests.kpis.gold import NOON, Event, Gold, counted, expected

MINUTE, HOUR, DAY = 60, 3_600, 86_400
EVERYTHING = Scope("default", "", 1)


def shopping(seed: int, events: int, span: int) -> list[Event]:
    """Random events of two sites in the `span` seconds before noon: orders repeat, some visitors are unknown."""
    chance = random.Random(seed)
    types = ["page_view"] * 6 + ["add_to_cart", "purchase", "purchase", "refund", "search"]
    return [
        Event(
            time=NOON - 1 - chance.randrange(span),
            event_type=(event_type := chance.choice(types)),
            visitor=chance.choice(["", *(f"visitor {i}" for i in range(25))]),
            site_id=chance.choice(["shop", "outlet"]),
            order_id=chance.choice(["", *(f"order {i}" for i in range(40))]) if event_type == "purchase" else "",
            amount=Decimal(chance.randrange(1, 100_000)) / 1000 * (-1 if event_type == "refund" else 1),
            currency=chance.choice(["USD", "USD", "USD", "EUR"]),
        )
        for _ in range(events)
    ]


async def test_windows_equal_a_computation_from_the_events(gold: Gold, reader: KpiReader) -> None:
    events = [*shopping(1, 900, 2 * DAY), *shopping(2, 300, HOUR), Event(NOON - 1, visitor="last", site_id="shop")]
    events.append(Event(NOON - 1, tenant="other", event_type="purchase", amount=Decimal(1_000_000)))
    random.Random(3).shuffle(events)
    for part in range(4):  # visitors and orders come back in later runs, and must not count twice
        await gold.run(events[part::4])

    for site_id in ("", "shop"):
        for minutes in (1, 7, 60, 1_440, 2_880):
            latest = await reader.latest(Scope("default", site_id, minutes))
            assert latest.window is not None
            assert latest.window.end == datetime.fromtimestamp(NOON, UTC)
            assert latest.window.start == datetime.fromtimestamp(NOON - minutes * MINUTE, UTC)
            values = {name: getattr(latest.window, name) for name in WINDOW_METRICS}
            assert values == expected(events, NOON - minutes * MINUTE, NOON, site_id=site_id)
            mine = [event for event in events if event.tenant == "default"]
            assert latest.recent_events == counted(mine, NOON - HOUR, NOON, site_id=site_id)
            assert latest.reason == ""


async def test_trends_equal_a_computation_from_the_events(gold: Gold, trends: TrendReader, moments: Moments) -> None:
    events = shopping(4, 1_000, 2 * DAY)
    for part in range(3):
        await gold.run(events[part::3])

    for site_id in ("", "outlet"):
        for minutes, limit in ((1, 60), (60, 10), (60, 10_000), (1_440, 5)):
            length = minutes * MINUTE
            mine = [event for event in events if not site_id or event.site_id == site_id]
            starts = sorted({event.time // length * length for event in mine})[-limit:]
            values = {start: expected(events, start, start + length, site_id=site_id) for start in starts}

            conversion = await trends.conversion(Scope("default", site_id, minutes), limit, moments.now())
            assert [int(point.start.timestamp()) for point in conversion.points] == starts
            for point in conversion.points:
                wanted = values[int(point.start.timestamp())]
                assert {name: getattr(point, name) for name in CONVERSION_METRICS} == {
                    name: wanted[name] for name in CONVERSION_METRICS
                }
            rates = [value["conversion_rate"] for value in values.values() if value["conversion_rate"] is not None]
            assert conversion.rated == len(rates)
            assert conversion.average == pytest.approx(sum(rates) / len(rates))

            revenue = await trends.revenue(Scope("default", site_id, minutes), limit, moments.now())
            assert [int(point.start.timestamp()) for point in revenue.points] == starts
            for revenue_point in revenue.points:
                wanted = values[int(revenue_point.start.timestamp())]
                assert {name: getattr(revenue_point, name) for name in REVENUE_METRICS} == {
                    name: wanted[name] for name in REVENUE_METRICS
                }
            assert revenue.total == sum(value["gmv"] for value in values.values())
            assert revenue.average == revenue.total / len(starts)


async def test_windows_of_a_series_lie_apart_as_far_as_they_like(
    gold: Gold, trends: TrendReader, moments: Moments
) -> None:
    times = [NOON - 300 * DAY, NOON - 299 * DAY, NOON - HOUR, NOON - 1]
    await gold.run([Event(time, visitor="v") for time in times])
    points = (await trends.conversion(EVERYTHING, 3, moments.now())).points
    assert [int(point.start.timestamp()) for point in points] == [time // MINUTE * MINUTE for time in times[1:]]


async def test_an_answer_is_of_the_version_that_is_visible(
    gold: Gold, reader: KpiReader, trends: TrendReader, moments: Moments
) -> None:
    await gold.run([Event(NOON, visitor="first")])
    unseen = await gold.write([Event(NOON, visitor="second"), Event(NOON + MINUTE, "purchase", amount=Decimal(9))])

    before = await reader.latest(EVERYTHING)
    assert before.window is not None
    assert (before.window.active_users, before.window.orders, before.shown.gold.run) == (1, 0, 1)
    assert (await trends.revenue(EVERYTHING, 60, moments.now())).total == 0

    await gold.show(unseen)
    after = await reader.latest(EVERYTHING)
    assert after.window is not None
    assert (after.window.start.timestamp(), after.window.orders, after.shown.gold.run) == (NOON + MINUTE, 1, 2)
    assert after.recent_events == {"page_view": 2, "purchase": 1}
    assert (await trends.revenue(EVERYTHING, 60, moments.now())).total == 9


async def test_amounts_in_other_currencies_are_not_added(gold: Gold, reader: KpiReader) -> None:
    await gold.run(
        [
            Event(NOON, "purchase", "a", order_id="1", amount=Decimal(10)),
            Event(NOON, "purchase", "b", order_id="2", amount=Decimal(7_000), currency="JPY"),
            Event(NOON, "refund", "b", amount=Decimal(-500), currency="JPY"),
        ]
    )
    window = (await reader.latest(EVERYTHING)).window
    assert window is not None
    assert (window.orders, window.purchase_users, window.currency) == (2, 2, "USD")
    assert (window.gmv, window.refunds, window.average_order_value) == (10, 0, 10.0)


async def test_a_skewed_event_does_not_move_the_window_into_the_future(
    gold: Gold,
    reader: KpiReader,
    clock: Clock,
    trends: TrendReader,
    moments: Moments,
) -> None:
    clock.now = NOON + 30.0
    ahead = NOON + HOUR
    await gold.run([Event(ahead, visitor="skewed")])
    only = await reader.latest(EVERYTHING)
    assert only.window is not None
    assert only.window.start.timestamp() == ahead
    assert len((await trends.conversion(EVERYTHING, 60, moments.now())).points) == 1

    await gold.run([Event(NOON, visitor="on time"), Event(NOON - MINUTE, visitor="on time")])
    latest = await reader.latest(EVERYTHING)
    assert latest.window is not None
    assert latest.window.start.timestamp() == NOON
    assert latest.recent_events == {"page_view": 2}
    assert [p.start.timestamp() for p in (await trends.conversion(EVERYTHING, 60, moments.now())).points] == [
        NOON - MINUTE,
        NOON,
    ]

    clock.now = ahead + 5.0  # its minute has come, though gold is the same
    latest = await reader.latest(EVERYTHING)
    assert latest.window is not None
    assert latest.window.start.timestamp() == ahead


async def test_no_data_is_an_answer_with_a_reason(
    gold: Gold, reader: KpiReader, trends: TrendReader, moments: Moments
) -> None:
    assert (await reader.latest(EVERYTHING)).reason == "no events yet"
    conversion = await trends.conversion(EVERYTHING, 60, moments.now())
    assert (conversion.points, conversion.average, conversion.trend.p_value) == ([], None, None)
    assert (conversion.reason, conversion.trend.course) == ("no events yet", Course.STABLE)
    revenue = await trends.revenue(EVERYTHING, 60, moments.now())
    assert (revenue.points, revenue.total, revenue.average, revenue.reason) == ([], 0, None, "no events yet")

    await gold.commit()
    assert (await reader.latest(Scope("default", "", 60))).reason == "the first events are not processed yet"

    await gold.run([Event(NOON)])
    assert (await reader.latest(Scope("default", "nowhere", 1))).reason == "no events of this site yet"
    assert (
        await trends.revenue(Scope("default", "nowhere", 1), 60, moments.now())
    ).reason == "no events of this site yet"
    assert (await reader.latest(Scope("nobody", "", 1))).reason == "no events yet"


async def test_a_window_without_views_has_no_rate(
    gold: Gold, reader: KpiReader, trends: TrendReader, moments: Moments
) -> None:
    await gold.run([Event(NOON, "purchase", "a", amount=Decimal(1)), Event(NOON + MINUTE, "purchase", "a")])
    window = (await reader.latest(EVERYTHING)).window
    assert window is not None
    assert window.conversion_rate is None
    conversion = await trends.conversion(EVERYTHING, 60, moments.now())
    assert (conversion.average, conversion.rated, conversion.trend.p_value) == (None, 0, None)
    assert [point.conversion_rate for point in conversion.points] == [None, None]


async def test_freshness_is_of_the_answer_and_of_the_moment(
    gold: Gold, reader: KpiReader, commit_log: CommitLog, clock: Clock, engine: ClickHouseEngine
) -> None:
    empty = (await reader.snapshot(EVERYTHING)).freshness
    assert (empty.last_update, empty.lag_seconds, empty.commit) == (None, 0.0, 0)

    await gold.run([Event(NOON)])
    fresh = (await reader.snapshot(EVERYTHING)).freshness
    assert (fresh.last_update, fresh.lag_seconds, fresh.commit) == (commit_log.gold.time, 0.0, 1)

    waiting = await gold.commit()
    await gold.commit()
    clock.now = await _time_of(engine, waiting) + 12.5
    assert (await reader.snapshot(EVERYTHING)).freshness.lag_seconds == pytest.approx(12.5, abs=0.001)
    clock.now += 1
    behind = (await reader.snapshot(EVERYTHING)).freshness
    assert (behind.lag_seconds, behind.commit) == (pytest.approx(13.5, abs=0.001), 1)


async def test_the_newest_snapshot_is_told_again_while_nothing_moves(
    gold: Gold, reader: KpiReader, clock: Clock, engine: ClickHouseEngine
) -> None:
    async def told() -> Snapshot | None:
        """What is told without reading; it must be what reading would find."""
        newest = reader.newest(EVERYTHING)
        assert newest is None or newest is await reader.snapshot(EVERYTHING)
        return newest

    assert await told() is None  # nobody asked before
    await gold.run([Event(NOON)])
    first = await reader.snapshot(EVERYTHING)
    moment = reader.moment()
    assert await told() is first
    assert reader.newest(Scope("default", "nowhere", 1)) is reader.newest(Scope("other", "", 1)) is None
    assert reader.moment() == moment

    clock.now += MINUTE  # another window may be the latest
    assert reader.moment() != moment
    assert await told() is None
    await reader.snapshot(EVERYTHING)
    assert await told() is not None

    await gold.commit()  # what waits makes a lag, which is another one at each moment
    assert await told() is None
    await reader.snapshot(EVERYTHING)
    assert await told() is None

    await gold.run([Event(NOON + MINUTE)])
    assert await told() is None
    latest = await reader.snapshot(EVERYTHING)
    assert latest.latest.window != first.latest.window
    assert await told() is latest


async def test_many_readers_at_once_cost_one_reading(
    gold: Gold, reader: KpiReader, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gold.run([Event(NOON)])
    statements = statements_of(engine, monkeypatch)
    answers = await asyncio.gather(*(reader.snapshot(EVERYTHING) for _ in range(50)))
    assert all(asdict(answer) == asdict(answers[0]) for answer in answers)
    read = len(statements)
    assert read == 4
    await reader.snapshot(EVERYTHING)
    assert len(statements) == read
    await gold.run([Event(NOON)])
    statements.clear()
    await reader.snapshot(EVERYTHING)
    assert len(statements) == read


async def _time_of(engine: ClickHouseEngine, commit: int) -> float:
    found = await engine.rows(
        "SELECT toUnixTimestamp64Micro(time) AS time FROM commits WHERE commit = {commit:Int64}", {"commit": commit}
    )
    return float(found[0]["time"]) / 1e6
