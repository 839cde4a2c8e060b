"""Reads behaviour from ClickHouse: what users did with products, as feedback and as events."""

from string import Template

from penstock import limits
from penstock.recommendations.interactions import Interactions
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Lane

# What feedback weighs stands in the contract (`InteractionType`); an event weighs what the feedback of its kind does.
_WEIGHT = """multiIf(
        interaction_type = 'VIEW', 0.1,
        interaction_type = 'CLICK', 0.3,
        interaction_type IN ('LIKE', 'SHARE'), 0.5,
        interaction_type = 'ADD_TO_CART', 0.6,
        interaction_type = 'PURCHASE', 1.0,
        (ifNull(rating, 3) - 3) / 2
    )"""
_EVENTS = "('page_view', 'product_view', 'click', 'add_to_cart', 'add_to_wishlist', 'purchase')"
_INTERACTIONS = Template(f"""
SELECT user_id, product_id, weight, time
FROM
(
    SELECT user_id, product_id, {_WEIGHT} AS weight, event_time AS time
    FROM $feedback
    UNION ALL
    SELECT visitor AS user_id, product_id,
        multiIf(
            event_type = 'purchase', 1.0,
            event_type = 'add_to_cart', 0.6,
            event_type = 'add_to_wishlist', 0.5,
            event_type = 'click', 0.3,
            0.1
        ) AS weight,
        event_time AS time
    FROM $events
    WHERE event_type IN {_EVENTS} AND product_id != '' AND visitor != ''
)
ORDER BY time DESC
LIMIT {{limit:UInt64}}
""")
_COUNT = Template(f"""
SELECT
    (SELECT count() FROM $feedback)
    + (SELECT count() FROM $events WHERE event_type IN {_EVENTS} AND product_id != '' AND visitor != '') AS n
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
