"""What is known of a user: what they do now, what they have liked for long, and what they did last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock import limits
from penstock.feedback.interactions import Interaction, Interactions, Summary
from penstock.feedback.sessions import Sessions
from penstock.feedback.sessions_state import Interaction as Touch
from penstock.feedback.sessions_state import InteractionType

LONG_TERM_HALF_LIFE_DAYS = 90.0  # as recommendations fade a user's history


@dataclass(frozen=True, slots=True)
class Affinity:
    """How much a user likes a product."""

    product_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One user."""

    session: Sequence[Affinity]
    long_term: Sequence[Affinity]
    last: Sequence[Interaction]
    summary: Summary


class Profiles:
    """Reads profiles."""

    def __init__(self, interactions: Interactions, sessions: Sessions) -> None:
        self._interactions = interactions
        self._sessions = sessions

    async def of(self, tenant: str, user_id: str, last: int) -> Profile:
        """The user's profile, empty where nothing is known. Raises Unavailable."""
        now = datetime.now(UTC)
        session = await self._sessions.read(tenant, user_id)
        rows = await self._interactions.last(tenant, user_id, limits.HISTORY_ROWS_MAX)
        weights: dict[str, float] = {}
        for row in rows:
            age_days = (now - row.event_time).total_seconds() / 86_400
            faded = touch(row).weight * math.exp2(-max(0.0, age_days) / LONG_TERM_HALF_LIFE_DAYS)
            weights[row.product_id] = weights.get(row.product_id, 0.0) + faded
        return Profile(
            _greatest(session.weights(now)),
            _greatest(weights),
            rows[:last],
            await self._interactions.summary(tenant, user_id),
        )


def touch(row: Interaction) -> Touch:
    """An interaction as sessions know it."""
    return Touch(row.request_id, row.product_id, InteractionType[row.interaction_type], row.event_time, row.rating)


def _greatest(weights: dict[str, float]) -> list[Affinity]:
    found = [Affinity(product_id, weight) for product_id, weight in weights.items() if weight]
    return sorted(found, key=lambda each: (-each.weight, each.product_id))[: limits.AFFINITIES_SHOWN_MAX]
