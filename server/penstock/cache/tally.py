"""What is counted of each kind of answer, for each tenant."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class KindStats:
    """What became of one kind's answers since the start."""

    local_hits: int
    redis_hits: int
    misses: int
    sets: int
    evictions: int  # dropped from this process for room
    invalidations: int
    get_us_mean: float  # to find an answer or that there is none, microseconds; computing it is not in it
    set_us_mean: float  # to keep one, microseconds

    @property
    def hit_rate(self) -> float | None:
        """Hits per request; None when there was none."""
        gets = self.local_hits + self.redis_hits + self.misses
        return (self.local_hits + self.redis_hits) / gets if gets else None


class Tally:
    """The counters behind KindStats."""

    def __init__(self) -> None:
        self._gets = {"local": 0, "redis": 0, "loaded": 0}
        self._get_s = 0.0
        self._sets = 0
        self._set_s = 0.0
        self.invalidations = 0
        self.evictions = 0

    def got(self, tier: str, seconds: float, times: int = 1) -> None:
        """An answer was looked for and came from `tier`; so many times, which took so long together."""
        self._gets[tier] += times
        self._get_s += seconds

    def set(self, seconds: float) -> None:
        """An answer was kept."""
        self._sets += 1
        self._set_s += seconds

    def stats(self) -> KindStats:
        """What was counted so far."""
        gets = sum(self._gets.values())
        return KindStats(
            local_hits=self._gets["local"],
            redis_hits=self._gets["redis"],
            misses=self._gets["loaded"],
            sets=self._sets,
            evictions=self.evictions,
            invalidations=self.invalidations,
            get_us_mean=1e6 * self._get_s / gets if gets else 0.0,
            set_us_mean=1e6 * self._set_s / self._sets if self._sets else 0.0,
        )


class Tallies:
    """The counters of all tenants and kinds."""

    def __init__(self) -> None:
        self._tallies: defaultdict[str, defaultdict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))

    def of(self, tenant: str, kind: str) -> Tally:
        """The counters of one kind of a tenant's answers."""
        return self._tallies[tenant][kind]

    def stats(self, tenant: str) -> Mapping[str, KindStats]:
        """What was counted of a tenant so far, by kind."""
        found = self._tallies.get(tenant)
        return {kind: tally.stats() for kind, tally in sorted(found.items())} if found is not None else {}

    def sums(self) -> Mapping[str, KindStats]:
        """The same of all tenants together; times are means of the tenants' means, weighted alike."""
        by_kind: defaultdict[str, list[KindStats]] = defaultdict(list)
        for tenant in list(self._tallies):
            for kind, stats in self.stats(tenant).items():
                by_kind[kind].append(stats)
        return {kind: _summed(each) for kind, each in by_kind.items()}


def _summed(several: list[KindStats]) -> KindStats:
    sums = {field.name: sum(getattr(each, field.name) for each in several) for field in fields(KindStats)}
    for mean in ("get_us_mean", "set_us_mean"):
        sums[mean] /= len(several)
    return KindStats(**sums)
