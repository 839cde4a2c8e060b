"""The time that a query covers, and what it is compared with, by the clock of a timezone."""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from penstock.errors import InvalidInput, invalid_field
from penstock.kpis.grain import MICROS, Grain, Shift, Unit, instant, shifted, wall

MINUTE = 60 * MICROS
START_MIN = 0  # 1970; no event is older than 2000
END_MAX = 7_258_118_400 * MICROS  # 2200; the engine's times end in 2299
LAST_DEFAULT = "24 hours"
_LAST = re.compile(r"([1-9][0-9]{0,5}) (minute|hour|day|week|month|quarter|year)s?")


class Compare(Enum):
    """With what a range is compared."""

    PERIOD = "the one before, as long"
    WEEK = "a week before"
    YEAR = "a year before"


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of time, start <= t < end, in microseconds since the epoch."""

    start: int
    end: int
    period: Shift  # by so much the one before it lies back


def resolved(start: int | None, end: int | None, last: str, now: int, zone: ZoneInfo) -> Range:
    """The range that is asked for. Raises InvalidInput.

    What is counted back from now ends with the minute that is under way, so that its windows are of whole minutes.
    """
    minute_end = -(-now // MINUTE) * MINUTE
    if last and start is not None:
        raise invalid_field("range", "has either a start or a `last`")
    if start is not None:
        found = _between(start, minute_end if end is None else end, zone)
    else:
        last = last or LAST_DEFAULT
        match = _LAST.fullmatch(last)
        if match is not None:
            until = minute_end if end is None else end
            length = _length(int(match[1]), match[2])
            found = Range(shifted(until, length, zone, -1), until, length)
        elif end is None:
            found = _named(last, minute_end, zone)
        else:
            raise invalid_field("range.last", "only a length such as `7 days` goes with an end")
    if not START_MIN <= found.start < found.end <= END_MAX:
        raise _misplaced()
    return found


def distance(compare: Compare, covered: Range, grain: Grain | None, zone: ZoneInfo) -> Shift:
    """How far back lies what a range is compared with.

    Windows shorter than a month keep their lengths only where all lie back by so many days: the 29th has no February.
    """
    match compare:
        case Compare.PERIOD if covered.period.months and grain is not None and grain.unit is not Unit.MONTH:
            return _days(covered.start, covered.end, zone)
        case Compare.PERIOD:
            return covered.period
        case Compare.WEEK:
            return Shift(days=7)
        case Compare.YEAR:
            return Shift(months=12)


def _days(start: int, end: int, zone: ZoneInfo) -> Shift:
    days = (wall(end, zone) - wall(start, zone)).days
    return Shift(days=days, micros=end - shifted(start, Shift(days=days), zone))


def _length(count: int, unit: str) -> Shift:
    match unit:
        case "minute":
            return Shift(micros=count * MINUTE)
        case "hour":
            return Shift(micros=count * 60 * MINUTE)
        case "day":
            return Shift(days=count)
        case "week":
            return Shift(days=7 * count)
        case "month":
            return Shift(months=count)
        case "quarter":
            return Shift(months=3 * count)
        case _:
            return Shift(months=12 * count)


def _between(start: int, end: int, zone: ZoneInfo) -> Range:
    """Where both ends are the first of a month the range is so many months long, else so many days and the rest."""
    if not START_MIN <= start < end <= END_MAX:
        raise _misplaced()
    first, last = (wall(each, zone) for each in (start, end))
    if all(each == each.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for each in (first, last)):
        return Range(start, end, Shift(months=(last.year - first.year) * 12 + last.month - first.month))
    return Range(start, end, _days(start, end, zone))


def _misplaced() -> InvalidInput:
    return invalid_field("range", "must end behind its start, and lie between the years 1970 and 2200")


def _named(name: str, until: int, zone: ZoneInfo) -> Range:
    today = wall(until - 1, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    monday, first = today - timedelta(days=today.weekday()), today.replace(day=1)
    day, week, month = Shift(days=1), Shift(days=7), Shift(months=1)
    match name:
        case "today":
            return Range(instant(today, zone), until, day)
        case "yesterday":
            return Range(instant(today - timedelta(days=1), zone), instant(today, zone), day)
        case "this_week":
            return Range(instant(monday, zone), until, week)
        case "last_week":
            return Range(instant(monday - timedelta(days=7), zone), instant(monday, zone), week)
        case "this_month":
            return Range(instant(first, zone), until, month)
        case "last_month":
            return Range(instant((first - timedelta(days=1)).replace(day=1), zone), instant(first, zone), month)
        case "this_year":
            return Range(instant(first.replace(month=1), zone), until, Shift(months=12))
    raise invalid_field("range.last", f"{name!r} is neither a length such as `7 days` nor a word such as `last_week`")
