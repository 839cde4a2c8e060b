"""The caches of all areas, as those who run the server see them."""

import fnmatch
from collections.abc import Sequence

from penstock.cache.redis import Redis
from penstock.cache.results import Results
from penstock.cache.warming import Warm, Warmed
from penstock.errors import invalid_field
from penstock.operations import wire
from penstock.operations.v1 import operations_service_pb2 as pb


class Caches:
    """Tells of them, empties them, warms them: for one tenant at a time."""

    def __init__(self, results: Results, redis: Redis, searches: Warm, recommendations: Warm) -> None:
        self._results = results
        self._redis = redis
        self._searches = searches
        self._recommendations = recommendations

    def stats(self, tenant: str) -> pb.GetCacheStatsResponse:
        """What became of a tenant's answers."""
        stats = self._results.stats(tenant)
        redis = "none" if not self._redis.configured else "connected" if self._redis.available else "away"
        return wire.cache_stats(
            stats.kinds,
            self._results.kinds,
            entries=stats.entries,
            redis=redis,
            uptime_s=stats.uptime_s,
        )

    def summary(self, tenant: str) -> pb.GetHealthResponse.Cache:
        """A tenant's answers of all kinds together."""
        stats = self.stats(tenant)
        return pb.GetHealthResponse.Cache(
            entries=stats.entries, hit_rate=stats.hit_rate if stats.HasField("hit_rate") else None
        )

    async def invalidate(self, tenant: str, pattern: str, user_id: str) -> tuple[Sequence[str], bool]:
        """Drops a tenant's answers of the kinds that match, of one user where one is named; which kinds, and whether
        Redis knows it. Raises InvalidInput when none matches."""
        known = sorted(self._results.kinds)
        kinds = fnmatch.filter(known, pattern or "*")
        if not kinds:
            raise invalid_field(
                "kind",
                f"no kind is or matches {pattern!r}; there are {', '.join(known)}. Answers of KPIs and SQL are each of "
                "one version of the data, and need no dropping",
            )
        sent = [await self._results.invalidate(tenant, kind, user_id or None) for kind in kinds]
        return kinds, all(sent)

    async def warm(self, tenant: str, limit: int) -> tuple[Warmed, Warmed]:
        """Computes what is asked for most: searches, and users' recommendations. Raises Overloaded, Unavailable."""
        searches = await self._searches.warm(tenant, limit)
        return searches, await self._recommendations.warm(tenant, limit - searches.computed)
