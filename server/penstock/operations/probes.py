"""What the server rests on, each looked at in its own way."""

import time
from collections.abc import Awaitable, Callable

from penstock import limits
from penstock.cache.redis import Redis
from penstock.operations.health import PROBE_S_MAX, Check, State
from penstock.storage.engine import Engine

LAG_DEGRADED_S = 10.0
LAG_DOWN_S = 120.0
QUEUE_DEGRADED_SHARE = 0.8

_VERSION = "SELECT version() AS version"


class StorageProbe:
    """Whether ClickHouse answers."""

    name = "storage"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def check(self) -> Check:
        """UP, with the engine's version. Raises Unavailable when it does not answer."""
        found = await self._engine.rows(_VERSION, timeout_s=PROBE_S_MAX)
        return Check(State.UP, f"ClickHouse {found[0]['version']}")


class IngestProbe:
    """Whether the ingest queue has room."""

    name = "ingest"

    def __init__(self, queued_bytes: Callable[[], int]) -> None:
        self._queued_bytes = queued_bytes

    async def check(self) -> Check:
        """DEGRADED from four fifths of the queue's bound on: streams are about to be slowed down."""
        share = self._queued_bytes() / limits.QUEUE_BYTES_MAX
        state = State.DEGRADED if share >= QUEUE_DEGRADED_SHARE else State.UP
        return Check(state, f"the queue is {share:.0%} full")


class IndexProbe:
    """Whether products can be searched."""

    name = "index"

    def __init__(self, loading: Callable[[], list[str]]) -> None:
        self._loading = loading

    async def check(self) -> Check:
        """DOWN while an index is being read at start."""
        loading = self._loading()
        if loading:
            return Check(State.DOWN, f"the indexes of {len(loading)} tenants are being read")
        return Check(State.UP, "products can be searched")


class CacheProbe:
    """Whether Redis is there. Without it answers are slower, and right."""

    name = "cache"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def check(self) -> Check:
        """DEGRADED when it is configured and does not answer."""
        if not self._redis.configured:
            return Check(State.UP, "no Redis is configured")
        if self._redis.available:
            return Check(State.UP, "Redis answers")
        return Check(State.DEGRADED, f"Redis is away: {self._redis.last_error}")


class PipelineProbe:
    """Whether gold follows the commits.

    DEGRADED when it is more than LAG_DEGRADED_S behind; DOWN when it is more than LAG_DOWN_S behind and has not moved
    for as long. A pipeline that works off a backlog is late, not down.
    """

    name = "pipeline"

    def __init__(
        self,
        lag_s: Callable[[], Awaitable[float]],
        processed_commit: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_lag_s = lag_s
        self._processed_commit = processed_commit
        self._clock = clock
        self._seen_commit = processed_commit()
        self._moved = clock()
        self.lag_s = 0.0  # as of the last check

    async def check(self) -> Check:
        """Reads the lag. Raises Unavailable when it cannot be read."""
        commit = self._processed_commit()
        if commit != self._seen_commit:
            self._seen_commit, self._moved = commit, self._clock()
        self.lag_s = await self._read_lag_s()
        still_s = self._clock() - self._moved
        detail = f"gold is {self.lag_s:.1f} s behind"
        if self.lag_s > LAG_DOWN_S and still_s > LAG_DOWN_S:
            return Check(State.DOWN, f"{detail} and has not moved for {still_s:.0f} s")
        return Check(State.DEGRADED if self.lag_s > LAG_DEGRADED_S else State.UP, detail)
