"""Answers that are kept for whoever asks the same: in this process, and in Redis.

Promises, whatever Redis and other servers do:
* an answer is served for its own tenant, key and version only, and no longer than its kind's `ttl_s`;
* when `invalidate` returns, this server serves nothing of before, not even a computation that was under way;
* another server on the same Redis serves nothing of before either, at once for kinds with `trust_s` 0 and `trust_s`
  later for others; where this server cannot reach Redis then, as soon as it can again;
* of one answer one computation runs at a time on a server, however many ask;
* one that is asked for in the last STALE_SHARE of its time is computed anew in the background, and served meanwhile:
  nobody who asks often waits for an answer because its time is over.

With a Redis that other servers use, an answer in this process is served only after Redis said that it has not been
invalidated (a round trip, but not the answer's bytes), or within `trust_s` of it; and not at all while Redis is away. A
Redis of this server's own knows nothing that this server does not, and is not asked.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeAlias
from weakref import WeakValueDictionary

import structlog

from penstock.cache.flights import Flights
from penstock.cache.local import Asked, Entry, LocalTier, ScopeKey
from penstock.cache.redis import ABSENT, Redis
from penstock.cache.shared import SharedTier
from penstock.cache.tally import KindStats, Tallies, Tally
from penstock.observation import note_cache, stage
from penstock.storage.deadline import detached

log = structlog.get_logger()

Load: TypeAlias = Callable[[], Coroutine[Any, Any, bytes]]
Scope: TypeAlias = tuple[str, str, str | None]  # tenant, kind, scope; None: all scopes of the kind

ENTRIES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024
UNSENT_MAX = 10_000  # invalidations that Redis has not heard of; past it whole kinds are invalidated instead of users
STALE_SHARE = 0.2  # of an answer's time, at the end of it
RENEWED_AT_ONCE_MAX = 2  # they are computed beside the calls; what finds no place waits for its next caller
RESEND_S = 0.5  # how often they are sent again when nothing says that Redis is back


@dataclass(frozen=True, slots=True)
class Kind:
    """How answers of one kind are kept."""

    name: str
    ttl_s: float
    trust_s: float  # how late an invalidation by another server may be seen; 0: never late, at a round trip a hit


class Tier(Enum):
    """Where an answer came from."""

    LOCAL = "local"
    REDIS = "redis"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer."""

    value: bytes
    tier: Tier

    @property
    def cached(self) -> bool:
        """Whether nothing was computed for it."""
        return self.tier is not Tier.LOADED


@dataclass(frozen=True, slots=True)
class Stats:
    """What the cache did for a tenant since its start, and holds of theirs in this process."""

    uptime_s: float
    entries: int
    kinds: Mapping[str, KindStats]


class _Era:
    """The time of a scope between two invalidations, as far as anybody here asks for its answers."""

    __slots__ = ("__weakref__", "over")

    def __init__(self) -> None:
        self.over = False


class Results:
    """`async with Results(redis, kinds) as results`: the answers of one server."""

    def __init__(
        self,
        redis: Redis,
        kinds: Iterable[Kind],
        *,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._kinds = {kind.name: kind for kind in kinds}
        self._clock = clock
        self.tallies = Tallies()
        self._local = LocalTier(entries_max=entries_max, bytes_max=bytes_max, tallies=self.tallies, clock=clock)
        self._shared = SharedTier(redis, wall_clock)
        self._flights: Flights[bytes] = Flights()
        self._eras: WeakValueDictionary[ScopeKey, _Era] = WeakValueDictionary()
        self._unsent: dict[Scope, object] = {}  # invalidations under way to Redis: it is not believed about them
        self._recovered = asyncio.Event()
        self._resending: asyncio.Task[None] | None = None
        self._renewing: dict[Asked, asyncio.Task[None]] = {}
        self._started = clock()
        redis.on_recovered(self._recovered.set)

    async def __aenter__(self) -> Self:
        """Nothing to wait for."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what runs in the background."""
        running = {*self._renewing.values(), *({self._resending} if self._resending is not None else ())}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def get(self, asked: Asked, load: Load) -> Answer:
        """The answer that is kept, else what `load` computes, which is then kept.

        `load` must read as of `asked.version`. It runs outside of the call's deadline, because others may wait for it,
        and is cancelled when nobody does. Raises what it raises; failures are not kept. KeyError for an unknown kind.
        """
        kind, tally = self._kinds[asked.kind], self.tallies.of(asked.tenant, asked.kind)
        began = time.perf_counter()
        entry = self._local.get(asked)
        if entry is not None and self._is_trusted(entry, kind):
            self._note(tally, Tier.LOCAL, time.perf_counter() - began)
            self._renew_if_stale(asked, kind, entry, load)
            return Answer(entry.value, Tier.LOCAL)
        era = self._eras.setdefault(asked.scope_key, _Era())
        token, kept = await self._look(asked, kind, era, entry)
        self._note(tally, kept.tier if kept is not None else Tier.LOADED, time.perf_counter() - began)
        if kept is not None:
            if (entry := self._local.get(asked)) is not None:
                self._renew_if_stale(asked, kind, entry, load)
            return kept
        with stage("compute"):
            value = await self._flights.join((asked, token, era), lambda: self._load(asked, kind, era, token, load))
        return Answer(value, Tier.LOADED)

    async def invalidate(self, tenant: str, kind: str, scope: str | None = None) -> bool:
        """Invalidates the answers of a scope, such as a user's; or all of a tenant's of a kind.

        When it returns, this server serves none of them. True: they are gone from Redis too. False: Redis is away, and
        is told as soon as it is back; until then this server does not believe it about them. Raises ValueError for an
        empty scope, KeyError for an unknown kind.
        """
        if scope == "":
            raise ValueError("an answer without a scope is invalidated with its kind")
        what: Scope = (tenant, kind, scope)
        for key in [each for each in self._eras if _covers(what, each)] if scope is None else [(tenant, kind, scope)]:
            era = self._eras.pop(key, None)
            if era is not None:
                era.over = True
        if scope is None:
            self._local.drop_kind(tenant, kind)
        else:
            self._local.drop_scope(tenant, kind, scope)
        self.tallies.of(tenant, kind).invalidations += 1
        return await self._send(what) if self._redis.configured else True

    @property
    def unsent(self) -> int:
        """Invalidations that Redis has not heard of yet."""
        return len(self._unsent)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The kinds of answers, by name."""
        return self._kinds

    @property
    def size(self) -> tuple[int, int]:
        """How many answers are kept in this process, and what they take in bytes, about."""
        return len(self._local), self._local.bytes

    def stats(self, tenant: str) -> Stats:
        """What it did for a tenant so far."""
        kinds = {**{name: Tally().stats() for name in self._kinds}, **self.tallies.stats(tenant)}
        return Stats(self._clock() - self._started, self._local.count(tenant), kinds)

    def _is_trusted(self, entry: Entry, kind: Kind) -> bool:
        return not self._redis.shared or self._clock() - entry.verified < kind.trust_s

    def _is_unsent(self, asked: Asked) -> bool:
        return asked.scope_key in self._unsent or (asked.tenant, asked.kind, None) in self._unsent

    async def _look(self, asked: Asked, kind: Kind, era: _Era, entry: Entry | None) -> tuple[bytes, Answer | None]:
        """What Redis knows: the token to compute with, empty for none, and the answer that may be served."""
        if self._is_unsent(asked):
            return b"", None
        asked_at = self._clock()
        found = await self._shared.look(asked, kind.ttl_s, entry.token if entry is not None else b"")
        if found is ABSENT:
            return b"", None
        if entry is not None and entry.token and entry.token == found.token:
            entry.verified = asked_at
            return found.token, Answer(entry.value, Tier.LOCAL)
        if found.value is None:
            return found.token, None
        if not era.over:
            self._local.put(asked, Entry(found.value, self._clock() + found.left_s, found.token, asked_at))
        return found.token, Answer(found.value, Tier.REDIS)

    async def _load(self, asked: Asked, kind: Kind, era: _Era, token: bytes, load: Load) -> bytes:
        verified = self._clock()
        value = await load()
        began, kept_at = time.perf_counter(), self._clock()
        kept = await self._shared.keep(asked, kind.ttl_s, token, value) if token and not era.over else ABSENT
        if kept is not False and not era.over:  # False: another server invalidated it while it was computed
            self._local.put(asked, Entry(value, kept_at + kind.ttl_s, token, verified))
        self.tallies.of(asked.tenant, asked.kind).set(time.perf_counter() - began)
        return value

    def _note(self, tally: Tally, tier: Tier, seconds: float) -> None:
        """A call has looked for its answer, which comes from `tier`."""
        tally.got(tier.value, seconds)
        note_cache(hit=tier is not Tier.LOADED, seconds=seconds)

    def _renew_if_stale(self, asked: Asked, kind: Kind, entry: Entry, load: Load) -> None:
        if (
            entry.expires - self._clock() > STALE_SHARE * kind.ttl_s
            or asked in self._renewing
            or len(self._renewing) >= RENEWED_AT_ONCE_MAX
        ):
            return
        self._renewing[asked] = detached(self._renew(asked, kind, entry.token, load), "cache-renew")

    async def _renew(self, asked: Asked, kind: Kind, token: bytes, load: Load) -> None:
        era = self._eras.setdefault(asked.scope_key, _Era())
        try:
            await self._flights.join((asked, token, era), lambda: self._load(asked, kind, era, token, load))
        except Exception as error:  # the answer is served until its time is over; who asks then is told
            log.debug("an answer was not renewed", kind=asked.kind, tenant=asked.tenant, error=str(error))
        finally:
            del self._renewing[asked]

    async def _send(self, what: Scope) -> bool:
        if len(self._unsent) >= UNSENT_MAX and what not in self._unsent:
            what = (what[0], what[1], None)
            for narrower in [each for each in self._unsent if each[:2] == what[:2]]:
                del self._unsent[narrower]
        mark = self._unsent[what] = object()  # a second invalidation, meanwhile, is not done when the first is
        if (await self._shared.drop([what]))[0]:
            if self._unsent.get(what) is mark:
                del self._unsent[what]
            return True
        if self._resending is None or self._resending.done():
            self._resending = asyncio.create_task(self._resend(), name="cache-resend")
        return False

    async def _resend(self) -> None:
        """Tells Redis what it has not heard, as soon as it is there."""
        while self._unsent:
            self._recovered.clear()
            if self._redis.available:
                marks = dict(self._unsent)
                for (what, mark), sent in zip(marks.items(), await self._shared.drop(list(marks)), strict=True):
                    if sent and self._unsent.get(what) is mark:
                        del self._unsent[what]
                if not self._unsent:
                    return
            try:
                async with asyncio.timeout(RESEND_S):
                    await self._recovered.wait()
            except TimeoutError:
                continue


def _covers(what: Scope, scope: ScopeKey) -> bool:
    return what[:2] == scope[:2]
