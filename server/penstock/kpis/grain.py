"""Windows of time by the clock of a timezone.

A window begins where that clock shows a multiple of the grain: of minutes and hours since the day began, of days and
weeks since Monday 1970-01-05, of months, quarters and years since January 1970. Where the clock is put forward past
such a moment, the window begins as it is put forward; where it is put back, a moment that it shows twice begins two
windows, but a day begins once. So on the days of a change an hour is an hour, and a day has 23 or 25 of them.

Times are microseconds since the epoch; windows are half-open.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from zoneinfo import ZoneInfo

from dateutil.relativedelta import relativedelta

from penstock.errors import invalid_field

MICROS = 1_000_000
DAY_MINUTES = 1_440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY = date(1970, 1, 5)
_MICROSECOND = timedelta(microseconds=1)
_WRITTEN = re.compile(r"(?:([1-9][0-9]{0,4}) )?(minute|hour|day|week|month|quarter|year)s?")


class Unit(StrEnum):
    """What grains are multiples of."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Grain:
    """The length of windows."""

    count: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class Shift:
    """A length of time: months and days as the clock shows them, the rest as it passes."""

    months: int = 0
    days: int = 0
    micros: int = 0


_UNITS = {
    "minute": Grain(1, Unit.MINUTE),
    "hour": Grain(60, Unit.MINUTE),
    "day": Grain(1, Unit.DAY),
    "week": Grain(7, Unit.DAY),
    "month": Grain(1, Unit.MONTH),
    "quarter": Grain(3, Unit.MONTH),
    "year": Grain(12, Unit.MONTH),
}


@dataclass(frozen=True)
class Windows:
    """Windows that follow each other without a gap: `bounds[n] <= t < bounds[n + 1]`."""

    bounds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def start(self) -> int:
        """Where the first begins."""
        return self.bounds[0]

    @property
    def end(self) -> int:
        """Where the last ends."""
        return self.bounds[-1]

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each begins."""
        return self.bounds[:-1]

    def of_whole(self, seconds: int) -> bool:
        """Whether all begin and end with a stretch of so many seconds, counted from the epoch."""
        return all(bound % (seconds * MICROS) == 0 for bound in self.bounds)

    @cached_property
    def regular(self) -> tuple[int, int] | None:
        """(origin, length) where window n is what lies n to n + 1 lengths behind the origin; None where it is not so.

        The first and the last may be cut short.
        """
        if len(self) < 2:
            return None
        inner = self.bounds[1:-1]
        length = inner[1] - inner[0] if len(inner) > 1 else max(inner[0] - self.start, self.end - inner[0])
        steady = all(after - before == length for before, after in pairwise(inner))
        fits = inner[0] - self.start <= length and self.end - inner[-1] <= length
        return (inner[0] - length, length) if steady and fits and length > 0 else None

    def whole(self) -> "Windows":
        """All of them as one."""
        return Windows((self.start, self.end))

    def moved(self, move: Callable[[int], int]) -> "Windows":
        """Each bound moved; none goes behind the one before, so a window may become empty."""
        bounds = [move(self.bounds[0])]
        for bound in self.bounds[1:]:
            bounds.append(max(bounds[-1], move(bound)))
        return Windows(tuple(bounds))


@dataclass(frozen=True, slots=True)
class Even:
    """Windows of one length, of which there may be any number, because they are not listed."""

    origin: int
    length: int
    count: int
    end: int  # where the last ends, which may be cut

    def __len__(self) -> int:
        return self.count

    @property
    def start(self) -> int:
        """Where the first begins."""
        return self.origin

    def of_whole(self, seconds: int) -> bool:
        """Whether all begin and end with a stretch of so many seconds, counted from the epoch."""
        return all(each % (seconds * MICROS) == 0 for each in (self.origin, self.length, self.end))

    @property
    def regular(self) -> tuple[int, int] | None:
        """(origin, length)."""
        return self.origin, self.length

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where each begins, and the last ends."""
        return (*range(self.origin, self.end, self.length), self.end)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each begins."""
        return self.bounds[:-1]

    def whole(self) -> Windows:
        """All of them as one."""
        return Windows((self.origin, self.end))


def parsed(text: str) -> Grain | None:
    """The grain that is written; None for the empty text. Raises InvalidInput."""
    if not text:
        return None
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise invalid_field("grain", f"{text!r} is not a length such as `15 minutes`, `day` or `2 weeks`")
    unit = _UNITS[match[2]]
    grain = Grain(int(match[1] or 1) * unit.count, unit.unit)
    if grain.unit is Unit.MINUTE and grain.count > DAY_MINUTES:
        raise invalid_field("grain", "windows of minutes and hours lie within a day; longer ones are made of days")
    return grain


def windows(start: int, end: int, grain: Grain | None, zone: ZoneInfo, most: int) -> Windows | None:
    """The windows of start <= t < end, the first and the last cut to it; None where they are more than `most`."""
    bounds = [start]
    if grain is not None:
        for bound in _begins(grain, start, zone):
            if bound >= end:
                break
            if bound > bounds[-1]:
                bounds.append(bound)
                if len(bounds) > most:
                    return None
    return Windows((*bounds, end))


def of(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def instant(shown: datetime, zone: ZoneInfo) -> int:
    """When the clock of `zone` first shows a time, or where it never does, when it is put forward past it."""
    local = shown.replace(tzinfo=zone, fold=0)
    found = of(local)
    if wall(found, zone) == shown:
        return found
    low, high = of(local.replace(fold=1)), found  # the clock is put forward between these two
    return _change(low, high, zone)


def shifted(moment: int, by: Shift, zone: ZoneInfo, times: int = 1) -> int:
    """The moment so much later; with `times` -1, earlier. Raises InvalidInput beyond the calendar."""
    if by.months or by.days:
        try:
            there = wall(moment, zone) + times * relativedelta(months=by.months, days=by.days)
            moment = instant(there, zone)
        except (OverflowError, ValueError):
            raise invalid_field("range", "reaches beyond what a calendar can hold") from None
    return moment + times * by.micros


def _begins(grain: Grain, start: int, zone: ZoneInfo) -> Iterator[int]:
    """Where windows begin, from one at or before `start` on, in order."""
    day = wall(start, zone).date()
    match grain.unit:
        case Unit.MINUTE:
            return _within_days(grain.count, day, zone)
        case Unit.DAY:
            first = (day - _FIRST_MONDAY).days // grain.count * grain.count
            return (_midnight(_FIRST_MONDAY + timedelta(days=n), zone) for n in _from(first, grain.count))
        case Unit.MONTH:
            first = ((day.year - 1970) * 12 + day.month - 1) // grain.count * grain.count
            return (_midnight(date(1970 + n // 12, n % 12 + 1, 1), zone) for n in _from(first, grain.count))


def _from(first: int, step: int) -> Iterator[int]:
    while True:
        yield first
        first += step


def _midnight(day: date, zone: ZoneInfo) -> int:
    return instant(datetime(day.year, day.month, day.day), zone)


def _within_days(minutes: int, day: date, zone: ZoneInfo) -> Iterator[int]:
    """From the day before, because its clock may have been put back into it."""
    for n in _from(-1, 1):
        today = day + timedelta(days=n)
        yield from _within_day(minutes, today, zone)


def _within_day(minutes: int, day: date, zone: ZoneInfo) -> list[int]:
    begin, end = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    step = minutes * 60 * MICROS
    if end - begin == DAY_MINUTES * 60 * MICROS and _offset(begin, zone) == _offset(end - 1, zone):
        return list(range(begin, end, step))
    found = {begin}
    midnight = datetime(day.year, day.month, day.day)
    for n in range(0, DAY_MINUTES, minutes):
        shown = midnight + timedelta(minutes=n)
        first = instant(shown, zone)
        found.add(first)
        again = of(shown.replace(tzinfo=zone, fold=1))
        if again > first and wall(again, zone) == shown:
            found.add(again)
    return sorted(bound for bound in found if begin <= bound < end)


def _offset(moment: int, zone: ZoneInfo) -> timedelta:
    offset = (_EPOCH + moment * _MICROSECOND).astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def wall(moment: int, zone: ZoneInfo) -> datetime:
    """What the clock of `zone` shows, without a timezone."""
    return (_EPOCH + moment * _MICROSECOND).astimezone(zone).replace(tzinfo=None, fold=0)


def _change(low: int, high: int, zone: ZoneInfo) -> int:
    """When the clock is put forward, in low < t <= high."""
    before = _offset(low, zone)
    seconds = range(low // MICROS, high // MICROS + 1)
    return seconds[bisect_left(seconds, True, key=lambda second: _offset(second * MICROS, zone) != before)] * MICROS
