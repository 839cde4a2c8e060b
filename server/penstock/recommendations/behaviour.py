"""Reads behaviour from ClickHouse: what users did with products, as feedback and as events."""

from collections.abc import Mapping
from string import Template

from penstock import limits
from penstock.feedback.sessions_state import WEIGHTS, InteractionType
from penstock.recommendations.interactions import Interactions
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Lane

# An event counts as the feedback of its kind does.
_EVENTS: Mapping[str, InteractionType] = {
    "page_view": InteractionType.VIEW,
    "product_view": InteractionType.VIEW,
    "click": InteractionType.CLICK,
    "add_to_wishlist": InteractionType.LIKE,
    "add_to_cart": InteractionType.ADD_TO_CART,
    "purchase": InteractionType.PURCHASE,
}
_FEEDBACK_WEIGHT = "multiIf({}, (ifNull(rating, 3) - 3) / 2)".format(
    ", ".join(f"interaction_type = '{each}', {weight}" for each, weight in WEIGHTS.items())
)
_EVENT_WEIGHT = "multiIf({}, 0)".format(
    ", ".join(f"event_type = '{name}', {WEIGHTS[each]}" for name, each in _EVENTS.items())
)
_COUNTED = f"event_type IN {tuple(_EVENTS)} AND product_id != '' AND visitor != ''"
_INTERACTIONS = Template(f"""
SELECT user_id, product_id, weight, time
FROM
(
    SELECT user_id, product_id, {_FEEDBACK_WEIGHT} AS weight, event_time AS time
    FROM $feedback
    UNION ALL
    SELECT visitor AS user_id, product_id, {_EVENT_WEIGHT} AS weight, event_time AS time
    FROM $events
    WHERE {_COUNTED}
)
ORDER BY time DESC
LIMIT {{limit:UInt64}}
""")
_COUNT = Template(f"""
SELECT (SELECT count() FROM $feedback) + (SELECT count() FROM $events WHERE {_COUNTED}) AS n
""")


class Behaviour:
    """What is stored of all users of a tenant."""

    def __init__(self, engine: Engine, commit_log: CommitLog) -> None:
        self._engine = engine
        self._log = commit_log

    async def count(self, tenant: str) -> int:
        """How many interactions there are. Raises Unavailable."""
        found = await self._engine.rows(_COUNT.substitute(self._relations()), {"tenant": tenant}, lane=Lane.PIPELINE)
        return int(found[0]["n"])

    async def read(self, tenant: str) -> Interactions:
        """The newest of them, TRAINING_INTERACTIONS_MAX at most. Raises Unavailable."""
        table = await self._engine.arrow(
            _INTERACTIONS.substitute(self._relations()),
            {"tenant": tenant, "limit": limits.TRAINING_INTERACTIONS_MAX},
            lane=Lane.PIPELINE,
        )
        return Interactions.from_arrow(table)

    def _relations(self) -> dict[str, str]:
        version = self._log.version
        return {"feedback": version.relation("feedback"), "events": version.relation("silver_events")}
