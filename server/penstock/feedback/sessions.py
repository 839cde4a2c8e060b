"""What users do now, so that the next recommendation has seen the last click.

Redis holds the sessions; nothing of them is lost with it, because every interaction is stored in ClickHouse first. A
session that Redis does not know is read from there, once. While Redis is away, interactions are kept in this process,
shown by `read`, and given to Redis when it is back; what ClickHouse said is kept for FRESH_S meanwhile.

With several servers on one Redis, one that cannot reach it shows the clicks that went to others FRESH_S late; and a
click that only a server had that was killed before Redis came back is missing from the session until it is read from
ClickHouse again, KNOWN_S after the last time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import structlog

from penstock.cache.flights import Flights
from penstock.cache.redis import ABSENT, Redis
from penstock.errors import PenstockError, Unavailable
from penstock.feedback.sessions_local import LocalSessions
from penstock.feedback.sessions_state import Interaction, SessionState, newest
from penstock.feedback.sessions_store import SessionStore, Stored

log = structlog.get_logger()

Loader: TypeAlias = Callable[[str, str], Awaitable[Sequence[Interaction]]]
"""Of a tenant and a user: their INTERACTIONS_MAX newest interactions in ClickHouse, or more, in any order."""

KNOWN_S = (
    1800.0  # a session in Redis is read from ClickHouse anew after so long, in case a server died with a part of it
)
REBUILDS_MAX = 3  # readings of ClickHouse for one read, when the session is forgotten or evicted during each
USERS_AT_ONCE = 256  # sessions on their way to Redis of one call
REPLAY_RETRY_S = 0.5  # how often it is tried again when nothing says that Redis is back


class Sessions:
    """`async with Sessions(redis, loader) as sessions`: the sessions of all users, on one server."""

    def __init__(
        self,
        redis: Redis,
        loader: Loader,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._store = SessionStore(redis, wall_clock)
        self._loader = loader
        self._wall_clock = wall_clock
        self._local = LocalSessions(clock, wall_clock)
        self._rebuilds: Flights[SessionState] = Flights()
        self._giving: set[asyncio.Future[None]] = set()  # one for each exchange that adds to sessions
        self._recovered = asyncio.Event()
        self._replaying: asyncio.Task[None] | None = None
        redis.on_recovered(self._recovered.set)

    @property
    def unsent_users(self) -> int:
        """Users of whom Redis lacks interactions that are kept here."""
        return self._local.unsent_users

    async def __aenter__(self) -> Self:
        """Nothing to wait for."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what runs in the background."""
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.wait({self._replaying})

    async def update(self, tenant: str, user: str, *interactions: Interaction) -> None:
        """Adds interactions; what has a request_id that is there changes nothing. A `read` after it shows them."""
        await self.update_many(tenant, {user: interactions})

    async def update_many(self, tenant: str, batch: Mapping[str, Sequence[Interaction]]) -> None:
        """Adds interactions by user, many users in a round trip."""
        users = list(batch)
        for start in range(0, len(users), USERS_AT_ONCE):
            # They are kept here before Redis is asked: a call that is cancelled leaves nothing half done.
            chunk = users[start : start + USERS_AT_ONCE]
            await self._give(tenant, {user: self._local.add(tenant, user, batch[user]) for user in chunk})
        if self._local.unsent_users and self._redis.configured:
            self._begin_to_replay()

    async def read(self, tenant: str, user: str) -> SessionState:
        """What the user does now: what Redis knows, or ClickHouse where it knows nothing, and what only we know.

        Raises nothing for Redis or ClickHouse that is away; `complete` is False where neither could be asked.
        """
        stored = await self._store.read(tenant, user)
        if stored is not ABSENT and self._is_whole(stored):
            return SessionState(newest([*stored.interactions, *self._local.unsent(tenant, user)]))
        if stored is ABSENT and (known := self._local.known(tenant, user)) is not None:
            return SessionState(newest([*known, *self._local.unsent(tenant, user)]))
        rebuilt = await self._rebuilds.join((tenant, user, self._local.era), lambda: self._rebuilt(tenant, user))
        # Whoever joined late may know of more than who began.
        return SessionState(newest([*rebuilt.interactions, *self._local.unsent(tenant, user)]), rebuilt.complete)

    async def forget(self, tenant: str, user: str) -> int:
        """Forgets a session; how many copies of interactions that were. Call it when ClickHouse has forgotten them.

        Raises Unavailable (SESSIONS_UNAVAILABLE) when Redis cannot be asked: it may keep the session.
        """
        here = self._local.count(tenant, user)
        self._local.forget(tenant, user)
        if not self._redis.configured:
            return here
        if self._giving:  # what is on its way to Redis must not come there after it forgot
            await asyncio.wait(set(self._giving))
        removed = await self._store.forget(tenant, user)
        if removed is ABSENT:
            raise _unavailable(self._redis.last_error)
        return removed + here

    async def remaining(self, tenant: str, user: str) -> int:
        """How many copies of a user's interactions are kept, here and in Redis, for the proof that there are none.

        Raises Unavailable (SESSIONS_UNAVAILABLE) when Redis cannot be asked.
        """
        here = self._local.count(tenant, user)
        if not self._redis.configured:
            return here
        stored = await self._store.read(tenant, user)
        if stored is ABSENT:
            raise _unavailable(self._redis.last_error)
        return here + len(stored.interactions)

    def _is_whole(self, stored: Stored) -> bool:
        if stored.known_s is None or stored.known_s <= self._local.lost_s:
            return False
        return self._wall_clock() - stored.known_s < KNOWN_S

    async def _rebuilt(self, tenant: str, user: str) -> SessionState:
        """Reads a session from ClickHouse, and stores it in Redis as all that there is."""
        for _ in range(REBUILDS_MAX):
            era = self._local.era
            mark = await self._store.mark(tenant, user)
            try:
                loaded = await self._loader(tenant, user)
            except PenstockError as error:
                log.warning("a session cannot be read from storage", tenant=tenant, error=str(error))
                stored = await self._store.read(tenant, user)
                return SessionState(newest(stored.interactions if stored is not ABSENT else ()), complete=False)
            if mark is ABSENT:
                if era == self._local.era:
                    self._local.knows(tenant, user, newest(loaded))
                    return SessionState(newest(loaded))
                continue
            done = await self._store.rebuild(tenant, user, newest(loaded), mark)
            stored = await self._store.read(tenant, user)
            if stored is ABSENT:
                if era == self._local.era:
                    return SessionState(newest(loaded))
            elif done is True or self._is_whole(stored):
                return SessionState(newest(stored.interactions))
        stored = await self._store.read(tenant, user)
        return SessionState(newest(stored.interactions if stored is not ABSENT else ()), complete=False)

    async def _give(self, tenant: str, whole: Mapping[str, tuple[Interaction, ...]]) -> bool:
        """Gives interactions to Redis, by user; whether it took any."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._giving.add(ended)
        try:
            taken = await self._store.add(tenant, whole)
        finally:
            self._giving.discard(ended)
            ended.set_result(None)
        for user, done in zip(whole, taken, strict=True):
            if done:
                self._local.sent(tenant, user, whole[user])
        return any(taken)

    def _begin_to_replay(self) -> None:
        if self._replaying is None or self._replaying.done():
            self._replaying = asyncio.create_task(self._replay(), name="sessions-replay")

    async def _replay(self) -> None:
        """Gives Redis what it lacks, as soon as it is there."""
        while self._local.unsent_users:
            self._recovered.clear()
            if self._redis.available and await self._replay_some():
                continue
            try:
                async with asyncio.timeout(REPLAY_RETRY_S):
                    await self._recovered.wait()
            except TimeoutError:
                continue

    async def _replay_some(self) -> bool:
        taken = [
            await self._give(tenant, {user: self._local.unsent(tenant, user) for user in users})
            for tenant, users in self._local.some_unsent(USERS_AT_ONCE).items()
        ]
        return any(taken)


def _unavailable(error: str) -> Unavailable:
    return Unavailable(
        f"Redis, which may hold the session, cannot be asked: {error}", reason="SESSIONS_UNAVAILABLE", retry_after_s=1.0
    )
