"""Simulated browsing."""

from collections import Counter, defaultdict
from itertools import islice

import pytest

import penstock
from penstock_client.simulate import EVENTS_A_VISIT, GENERATOR, SITE_ID, SimulateOptions, history, intensity, simulate
from tests.client.model_server import ModelServer

DAY = 1_714_521_600.0  # midnight


def test_the_same_seed_gives_the_same_visits() -> None:
    """And another seed others."""
    one, same, other = (
        [event.SerializeToString() for event in islice(history(SimulateOptions(seed=seed), DAY), 500)]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_it_looks_like_a_shop_and_says_that_it_is_none() -> None:
    """Rate, order, funnel, orders, labels."""
    options = SimulateOptions(rate=3, daily_rhythm=False)
    events = list(history(options, DAY, DAY + 3_600))
    times = [event.timestamp.ToMicroseconds() for event in events]
    assert times == sorted(times)
    assert len(events) == pytest.approx(3 * 3_600, rel=0.1)
    assert {event.site_id for event in events} == {SITE_ID}
    assert all(dict(event.properties) == GENERATOR for event in events)
    kinds = Counter(event.event_type for event in events)
    assert kinds["page_view"] > kinds["add_to_cart"] > kinds["purchase"] > 0
    sessions = defaultdict(list)
    for event in events:
        sessions[event.session_id].append(event.event_type)
    assert len(events) / len(sessions) == pytest.approx(EVENTS_A_VISIT, rel=0.1)
    bought = [kinds for kinds in sessions.values() if "purchase" in kinds]
    assert 0.05 < len(bought) / len(sessions) < 0.25
    assert all("add_to_cart" in kinds for kinds in bought)


def test_the_day_has_a_rhythm() -> None:
    """Busy at 16 h, quiet at 4 h, UTC."""
    options = SimulateOptions(rate=0.3)
    by_hour = Counter(event.timestamp.seconds % 86_400 // 3_600 for event in history(options, DAY, DAY + 86_400))
    assert by_hour[16] > 3 * by_hour[4]
    assert intensity(DAY + 16 * 3_600) == pytest.approx(1.7)


async def test_it_streams_live() -> None:
    """For as long as asked, at the rate asked."""
    async with ModelServer() as model, penstock.Client(model.target) as client:
        options = SimulateOptions(rate=100, duration_s=1.0, daily_rhythm=False)
        stats = await simulate(client, options, stream_id="s")
        assert stats.rows_accepted == len(model.streams["s"].events) == pytest.approx(100, rel=0.5)
