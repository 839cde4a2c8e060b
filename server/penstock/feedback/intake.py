"""Takes interactions in: durable first, then in the session, and no answer from before is given any more."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from penstock.feedback.interactions import Interaction, Interactions
from penstock.feedback.profiles import touch
from penstock.feedback.sessions import Sessions
from penstock.feedback.sessions_state import Interaction as Touch

Interacted: TypeAlias = Callable[[str, str, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of some interactions."""

    stored: int
    duplicates: int
    commit: int
    stored_ms: float
    session_ms: float


class FeedbackIntake:
    """Takes feedback."""

    def __init__(self, interactions: Interactions, sessions: Sessions, interacted: Interacted) -> None:
        """`interacted(tenant, user, times)` is awaited when a user did something, before that is answered."""
        self._interactions = interactions
        self._sessions = sessions
        self._interacted = interacted

    async def take(self, tenant: str, interactions: Sequence[Interaction]) -> Taken:
        """Stores those that are new, and shows them to the users' next recommendations. Raises Overloaded, Unavailable.

        One that was stored before is shown to the session too: the server may have died between the two, and a session
        takes each once.
        """
        started = time.perf_counter()
        stored = await self._interactions.store(tenant, interactions)
        stored_ms = (time.perf_counter() - started) * 1e3
        started = time.perf_counter()
        touched: dict[str, list[Touch]] = defaultdict(list)
        for each in interactions:
            touched[each.user_id].append(touch(each))
        await self._sessions.update_many(tenant, touched)
        for user_id, touches in touched.items():
            await self._interacted(tenant, user_id, len(touches))
        return Taken(
            len(stored.fresh),
            len(interactions) - len(stored.fresh),
            stored.commit,
            stored_ms,
            (time.perf_counter() - started) * 1e3,
        )
