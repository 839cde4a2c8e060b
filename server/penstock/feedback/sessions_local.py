"""What this process knows of sessions while Redis is away: interactions to give it later, and what ClickHouse said."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from penstock.feedback.sessions_state import Interaction, newest

KEPT_MAX = 100_000  # interactions of all users; each takes some 300 bytes
FRESH_S = 2.0  # what ClickHouse said is shown so long while Redis is away: other servers may have written since


@dataclass(slots=True)
class _User:
    unsent: tuple[Interaction, ...] = ()  # the newest first
    known: tuple[Interaction, ...] | None = None  # what ClickHouse said
    read_at: float = field(default=0.0)  # when it did, on the clock

    @property
    def kept(self) -> int:
        return len(self.unsent) + len(self.known or ())


class LocalSessions:
    """By tenant and user, at most KEPT_MAX interactions; of the user who was met least recently they go first."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._users: OrderedDict[tuple[str, str], _User] = OrderedDict()
        self._unsent: OrderedDict[tuple[str, str], None] = OrderedDict()  # who has any, the longest waiting first
        self._kept = 0
        self.lost_s = 0.0
        """When interactions were dropped last that Redis may not have, in seconds since 1970: what it says it knew by
        then is to be read from ClickHouse again."""
        self.era = 0
        """Counts what was forgotten: what was read before may not be kept after."""

    @property
    def unsent_users(self) -> int:
        """Users who have interactions that Redis may not have."""
        return len(self._unsent)

    def add(self, tenant: str, user: str, interactions: Iterable[Interaction]) -> tuple[Interaction, ...]:
        """Keeps interactions until they are `sent`; all of the user's that are to be sent."""
        unsent = newest([*self.unsent(tenant, user), *interactions])
        if unsent:
            known = self._users.get((tenant, user), _User())
            self._put(tenant, user, _User(unsent, known.known, known.read_at))
        return unsent

    def sent(self, tenant: str, user: str, interactions: Iterable[Interaction]) -> None:
        """Redis has them now. What ClickHouse said before does not: when Redis dies now, both would miss them."""
        known = self._users.get((tenant, user))
        if known is not None:
            gone = {each.request_id for each in interactions}
            unsent = tuple(each for each in known.unsent if each.request_id not in gone)
            self._put(tenant, user, _User(unsent))

    def unsent(self, tenant: str, user: str) -> tuple[Interaction, ...]:
        """What Redis may not have, the newest first."""
        known = self._users.get((tenant, user))
        return known.unsent if known is not None else ()

    def some_unsent(self, users_max: int) -> dict[str, list[str]]:
        """Users by tenant whose interactions are to be sent, the longest waiting first."""
        by_tenant: dict[str, list[str]] = {}
        for tenant, user in islice(self._unsent, users_max):
            by_tenant.setdefault(tenant, []).append(user)
        return by_tenant

    def knows(self, tenant: str, user: str, interactions: tuple[Interaction, ...]) -> None:
        """ClickHouse said so now."""
        self._put(tenant, user, _User(self.unsent(tenant, user), interactions, self._clock()))

    def known(self, tenant: str, user: str) -> tuple[Interaction, ...] | None:
        """What ClickHouse said less than FRESH_S ago; None when it did not."""
        known = self._users.get((tenant, user))
        return known.known if known is not None and self._clock() - known.read_at < FRESH_S else None

    def count(self, tenant: str, user: str) -> int:
        """Interactions of a user that are kept."""
        known = self._users.get((tenant, user), _User())
        return len({each.request_id for each in (*known.unsent, *(known.known or ()))})

    def forget(self, tenant: str, user: str) -> None:
        """Drops all of a user, and begins another era."""
        self.era += 1
        self._drop((tenant, user))

    def _put(self, tenant: str, user: str, new: _User) -> None:
        key = (tenant, user)
        waiting = key in self._unsent
        old = self._users.pop(key, None)
        self._kept += new.kept - (old.kept if old is not None else 0)
        if new.unsent and not waiting:
            self._unsent[key] = None
        elif waiting and not new.unsent:
            del self._unsent[key]
        if new.unsent or new.known is not None:
            self._users[key] = new
        while self._kept > KEPT_MAX:
            oldest = next(iter(self._users))
            if oldest in self._unsent:
                self.lost_s = self._wall_clock()
            self._drop(oldest)

    def _drop(self, key: tuple[str, str]) -> None:
        old = self._users.pop(key, None)
        self._kept -= old.kept if old is not None else 0
        self._unsent.pop(key, None)
