"""Exposures of one tenant are stored whatever another's take."""

from collections import Counter
from collections.abc import Sequence

import pytest

from penstock import limits
from penstock.events.v1.events_pb2 import Event
from penstock.recommendations.experiments import Assignment
from penstock.recommendations.exposures import Exposures

SHOWN = [Assignment("experiment", "variant")]


@pytest.fixture
def stored() -> Counter[str]:
    return Counter()


@pytest.fixture
def exposures(stored: Counter[str], monkeypatch: pytest.MonkeyPatch) -> Exposures:
    async def store(tenant: str, events: Sequence[Event]) -> None:
        stored[tenant] += len(events)

    monkeypatch.setattr(limits, "EXPOSURES_QUEUED_MAX", 8)
    monkeypatch.setattr(limits, "EXPOSURES_KNOWN_MAX", 6)
    return Exposures(store)


async def finish(exposures: Exposures) -> None:
    exposures.start()
    await exposures.stop()


async def test_a_queue_that_one_filled_has_room_for_others(exposures: Exposures, stored: Counter[str]) -> None:
    for number in range(20):
        exposures.note("a", f"u{number}", SHOWN)
    exposures.note("b", "u", SHOWN)
    assert exposures.dropped == 12
    await finish(exposures)
    assert stored == {"a": 8, "b": 1}


async def test_what_is_known_of_one_is_not_forgotten_for_another(exposures: Exposures, stored: Counter[str]) -> None:
    for _ in range(2):
        exposures.note("b", "u", SHOWN)
        for number in range(8):
            exposures.note("a", f"u{number}", SHOWN)
    await finish(exposures)
    assert stored["b"] == 1
    exposures.forget("b", "u")
    exposures.note("b", "u", SHOWN)
    await finish(exposures)
    assert stored["b"] == 2
