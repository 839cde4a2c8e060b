"""Windows by the clock of a timezone, on ordinary days and on those on which it changes."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from penstock.errors import InvalidInput
from penstock.kpis.grain import MICROS, Windows, of, parsed, shifted, windows
from penstock.kpis.ranges import Compare, distance, resolved
from tests.kpis.test_query_model import DAYS, GRAINS, bounds

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3_600 * MICROS
# Clocks that are put back or forward at midnight, by half an hour, and that skipped a whole day.
ODD = {
    "America/Havana": datetime(2024, 11, 3, tzinfo=UTC),
    "America/Sao_Paulo": datetime(2018, 2, 18, tzinfo=UTC),
    "Asia/Beirut": datetime(2024, 3, 31, tzinfo=UTC),
    "Pacific/Apia": datetime(2011, 12, 30, tzinfo=UTC),
    "Africa/Cairo": datetime(2024, 4, 26, tzinfo=UTC),
}


def edges(start: datetime, end: datetime, grain: str, zone: ZoneInfo) -> tuple[int, ...]:
    found = windows(of(start), of(end), parsed(grain), zone, 100_000)
    assert found is not None
    return found.bounds


@pytest.mark.parametrize("zone", [*DAYS, *ODD])
def test_windows_are_those_that_a_walk_over_the_minutes_finds(zone: str) -> None:
    chance = random.Random(zone)
    for day in DAYS.get(zone, (ODD.get(zone),)):
        assert day is not None
        for grain in (*GRAINS, "45 minutes", "2 hours", "11 hours", "2 weeks", "quarter"):
            start = day - timedelta(minutes=chance.randrange(3_000), seconds=chance.choice((0, 0, 17)))
            end = start + timedelta(minutes=chance.randrange(1, 4_000))
            walked = tuple(map(of, bounds(start, end, grain, ZoneInfo(zone))))
            assert edges(start, end, grain, ZoneInfo(zone)) == walked, grain


def lengths_h(day: datetime, grain: str) -> list[float]:
    start = day.replace(tzinfo=BERLIN)
    return [(b - a) / HOUR for a, b in pairwise(edges(start, start + timedelta(days=1), grain, BERLIN))]


def test_days_of_a_change_have_23_or_25_hours() -> None:
    assert lengths_h(datetime(2026, 3, 29), "hour") == [1] * 23
    assert lengths_h(datetime(2026, 10, 25), "hour") == [1] * 25
    assert lengths_h(datetime(2026, 3, 29), "day") == [23]
    assert lengths_h(datetime(2026, 10, 25), "day") == [25]
    assert lengths_h(datetime(2026, 3, 29), "6 hours") == [5, 6, 6, 6]


def test_weeks_begin_on_monday_and_months_on_their_first() -> None:
    start, end = datetime(2026, 2, 11, tzinfo=UTC), datetime(2026, 5, 20, tzinfo=UTC)
    zone = ZoneInfo("UTC")
    weeks = [datetime.fromtimestamp(bound / MICROS, UTC) for bound in edges(start, end, "week", zone)[1:-1]]
    assert {week.weekday() for week in weeks} == {0}
    months = [datetime.fromtimestamp(bound / MICROS, UTC) for bound in edges(start, end, "month", zone)[1:-1]]
    assert [(month.month, month.day) for month in months] == [(3, 1), (4, 1), (5, 1)]


@pytest.mark.parametrize(
    ("bounds", "regular"),
    [
        ((0, 60), None),
        ((0, 60, 120, 180), (0, 60)),
        ((30, 60, 120, 150), (0, 60)),
        ((0, 60, 130, 190), (-10, 70)),
        ((0, 60, 130, 190, 250), None),
        ((0, 200, 260, 320), None),
        ((10, 20), None),
        ((0, 60, 90), (0, 60)),
        ((0, 60, 160), (-40, 100)),
    ],
)
def test_regular_windows_are_known_as_such(bounds: tuple[int, ...], regular: tuple[int, int] | None) -> None:
    made = Windows(bounds)
    assert made.regular == regular
    if regular is not None:
        origin, length = regular
        for number, (start, end) in enumerate(pairwise(bounds)):
            assert {(moment - origin) // length for moment in (start, end - 1)} == {number}


def moment(text: str) -> int:
    return of(datetime.fromisoformat(text).replace(tzinfo=BERLIN))


NOW = moment("2026-04-01T10:20:30")


@pytest.mark.parametrize(
    ("last", "start", "end"),
    [
        ("", "2026-03-31T10:21", "2026-04-01T10:21"),
        ("90 minutes", "2026-04-01T08:51", "2026-04-01T10:21"),
        ("7 days", "2026-03-25T10:21", "2026-04-01T10:21"),
        ("1 month", "2026-03-01T10:21", "2026-04-01T10:21"),
        ("2 quarters", "2025-10-01T10:21", "2026-04-01T10:21"),
        ("today", "2026-04-01", "2026-04-01T10:21"),
        ("yesterday", "2026-03-31", "2026-04-01"),
        ("this_week", "2026-03-30", "2026-04-01T10:21"),
        ("last_week", "2026-03-23", "2026-03-30"),
        ("this_month", "2026-04-01", "2026-04-01T10:21"),
        ("last_month", "2026-03-01", "2026-04-01"),
        ("this_year", "2026-01-01", "2026-04-01T10:21"),
    ],
)
def test_relative_ranges(last: str, start: str, end: str) -> None:
    found = resolved(None, None, last, NOW, BERLIN)
    assert (found.start, found.end) == (moment(start), moment(end))


@pytest.mark.parametrize(
    ("start", "end", "last"),
    [
        (NOW, NOW, ""),
        (NOW, NOW - 1, ""),
        (-1, NOW, ""),
        (NOW, 2**62, ""),
        (NOW, None, "7 days"),
        (None, NOW, "yesterday"),
        (None, None, "a while"),
        (None, None, "0 days"),
        (None, None, "999999 years"),
        (None, None, "100 years"),
    ],
)
def test_ranges_that_are_none_are_refused(start: int | None, end: int | None, last: str) -> None:
    with pytest.raises(InvalidInput):
        resolved(start, end, last, NOW, BERLIN)


def earlier(start: str, end: str, grain: str, compare: Compare) -> Windows:
    covered = resolved(moment(start), moment(end), "", NOW, BERLIN)
    made = windows(covered.start, covered.end, parsed(grain), BERLIN, 1_000)
    assert made is not None
    back = distance(compare, covered, parsed(grain), BERLIN)
    return made.moved(lambda each: shifted(each, back, BERLIN, -1))


def test_comparison_keeps_to_the_clock() -> None:
    month = earlier("2026-04-01", "2026-05-01", "", Compare.PERIOD)
    assert month.bounds == (moment("2026-03-01"), moment("2026-04-01"))
    months = earlier("2026-03-01", "2026-05-01", "month", Compare.PERIOD)
    assert months.bounds == (moment("2026-01-01"), moment("2026-02-01"), moment("2026-03-01"))
    # A clock was put forward in the 30 days before; every day is compared with one.
    days = earlier("2026-04-01", "2026-05-01", "day", Compare.PERIOD)
    assert (days.start, days.end) == (moment("2026-03-02"), moment("2026-04-01"))
    assert sorted((b - a) / HOUR for a, b in pairwise(days.bounds)) == [23] + [24] * 29
    week = earlier("2026-04-01", "2026-04-03", "day", Compare.WEEK)
    assert week.bounds == (moment("2026-03-25"), moment("2026-03-26"), moment("2026-03-27"))
    assert earlier("2024-02-29", "2024-03-01", "", Compare.YEAR).bounds == (moment("2023-02-28"), moment("2023-03-01"))
    # An hour that the day before did not have is compared with nothing.
    hours = earlier("2026-03-30", "2026-03-31", "hour", Compare.PERIOD)
    assert [(b - a) / HOUR for a, b in pairwise(hours.bounds)] == [1, 1, 0, *[1] * 21]


def test_a_grain_too_fine_for_the_range_is_told() -> None:
    assert windows(0, 365 * 24 * HOUR, parsed("minute"), BERLIN, 10_000) is None
    with pytest.raises(InvalidInput, match="lie within a day"):
        parsed("25 hours")
    assert parsed("") is None
