"""What a read of KPIs answers. Windows are half-open in time, start <= t < end, and times are UTC.

Fields that are metrics are named as in the catalogue and mean what it says there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Self

from penstock.kpis.newest import MINUTE
from penstock.kpis.trend import Trend
from penstock.storage.version import Cut, Gold, Version


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose events a read is about, and by what length of time."""

    tenant: str
    site_id: str  # empty: all
    minutes: int  # length of a window


@dataclass(frozen=True, slots=True)
class Window:
    """The KPIs of one window; amounts in `currency`."""

    start: datetime
    end: datetime
    currency: str
    orders: int
    gmv: Decimal
    refunds: Decimal
    revenue_net: Decimal
    average_order_value: float | None
    purchase_users: int
    view_users: int
    active_users: int
    conversion_rate: float | None  # None when nobody viewed, because 0 would claim that they did and left
    page_views: int
    add_to_carts: int


class Shown(NamedTuple):
    """What the latest window depends on: the minute bounds which one it is, and of a version only what gold shows. The
    first commit, which changes the reason why there is nothing yet, is no news to those who watch."""

    gold: Gold
    cuts: tuple[Cut, ...]
    minute: int  # since the epoch

    @classmethod
    def of(cls, version: Version, now: float) -> Self:
        """What a version shows at a time in seconds since the epoch."""
        return cls(version.gold, version.cuts, int(now) // MINUTE)


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest window, and the events by type in the hour that ends with it."""

    window: Window | None
    recent_events: Mapping[str, int]
    reason: str  # why there is no window; empty when there is
    shown: Shown = field(compare=False)  # what this was read from; equal figures of two versions are equal


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far gold is behind what was committed of one tenant's events."""

    last_update: datetime | None  # by the last run that had rows of it; None before the first
    lag_seconds: float  # age of its oldest commit that is not in gold
    commit: int  # its newest commit in gold; 0 without one


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The latest figures and how fresh they are."""

    latest: Latest
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class ConversionPoint:
    """Conversion in one window."""

    start: datetime
    purchase_users: int
    view_users: int
    conversion_rate: float | None


@dataclass(frozen=True, slots=True)
class ConversionTrend:
    """Windows that have events, oldest first."""

    points: Sequence[ConversionPoint]
    average: float | None  # mean of the windows' rates
    rated: int  # windows with a rate
    trend: Trend
    reason: str  # why there are no points; empty when there are


@dataclass(frozen=True, slots=True)
class RevenuePoint:
    """Revenue of one window."""

    start: datetime
    gmv: Decimal
    orders: int


@dataclass(frozen=True, slots=True)
class RevenueTrend:
    """Windows that have events, oldest first; amounts in `currency`."""

    points: Sequence[RevenuePoint]
    total: Decimal
    average: Decimal | None
    trend: Trend
    currency: str
    reason: str  # why there are no points; empty when there are
