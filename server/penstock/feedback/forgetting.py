"""Forgets a user in everything: what events and feedback made, the session, and what is kept in memory."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from penstock.feedback.sessions import Sessions
from penstock.pipeline.forget import Forgetter

Changed: TypeAlias = Callable[[str, str], Awaitable[None]]

SESSION = "session"  # what stands in Redis, among the tables


@dataclass(frozen=True, slots=True)
class Done:
    """What a forgetting did."""

    removed: Mapping[str, int]  # rows or interactions, by table or store
    remaining: Mapping[str, int]
    linked_visitor_ids: Sequence[str]
    took_ms: float


class Forgetting:
    """Forgets users."""

    def __init__(self, forgetter: Forgetter, sessions: Sessions, changed: Changed) -> None:
        """`changed(tenant, user)` is awaited when nothing that was kept of the user may be used any more."""
        self._forgetter = forgetter
        self._sessions = sessions
        self._changed = changed

    async def forget(self, tenant: str, user_id: str) -> Done:
        """Forgets the user. The session last, because one that is missing is made anew from what is stored.

        Raises Conflict (RUN_IN_PROGRESS) and Unavailable, also while Redis is away: the rows are gone then, and the
        same call again ends it.
        """
        started = time.perf_counter()
        rows = await self._forgetter.forget(tenant, user_id)
        removed = await self._sessions.forget(tenant, user_id)
        await self._changed(tenant, user_id)
        remaining = await self._sessions.remaining(tenant, user_id)
        return Done(
            {**rows.removed, SESSION: removed},
            {**rows.remaining, SESSION: remaining},
            rows.linked_visitor_ids,
            (time.perf_counter() - started) * 1e3,
        )
