"""Silver → gold: what a run's new silver rows add to the minutes they belong to.

Gold only grows: a run adds states of its own rows, which merge exactly with those of other runs. So a late event
repairs its minute, and a minute as of any run is the merge of the rows up to that run.
"""

from string import Template

from penstock.pipeline.batch import Batch
from penstock.storage.engine import Engine, Lane

_KPIS = Template("""
INSERT INTO gold_kpis
(
    tenant, minute, site_id, currency, run, orders, gmv, refunds, purchases, page_views, add_to_carts, events,
    purchase_users, view_users, cart_users, active_users
)
SELECT
    tenant,
    toStartOfMinute(event_time) AS minute,
    site_id,
    currency,
    $run,
    uniqExactStateIf(if(order_id != '', order_id, toString(event_id)), event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'),
    sumIf(amount, event_type = 'refund'),
    countIf(event_type = 'purchase'),
    countIf(event_type = 'page_view'),
    countIf(event_type = 'add_to_cart'),
    count(),
    uniqExactStateIf(visitor, event_type = 'purchase' AND visitor != ''),
    uniqExactStateIf(visitor, event_type = 'page_view' AND visitor != ''),
    uniqExactStateIf(visitor, event_type = 'add_to_cart' AND visitor != ''),
    uniqExactStateIf(visitor, visitor != '')
FROM silver_events
WHERE $rows
GROUP BY tenant, minute, site_id, currency$by_run
""")

_EVENTS = Template("""
INSERT INTO gold_events (tenant, minute, site_id, event_type, run, events)
SELECT tenant, toStartOfMinute(event_time) AS minute, site_id, event_type, $run, count()
FROM silver_events
WHERE $rows
GROUP BY tenant, minute, site_id, event_type$by_run
""")


# A run makes gold of its own rows; what is made anew is gold of chosen rows of many runs, each under its own run.
_OF_A_RUN = {"run": "{run:Int64}", "rows": "run = {run:Int64}", "by_run": ""}


def _anew(rows: str) -> dict[str, str]:
    return {"run": "run", "rows": rows, "by_run": ", run"}


async def build_kpis(engine: Engine, batch: Batch) -> None:
    """Writes what the run adds to gold_kpis."""
    await engine.execute(_KPIS.substitute(_OF_A_RUN), {"run": batch.run}, lane=Lane.PIPELINE)


async def build_events(engine: Engine, batch: Batch) -> None:
    """Writes what the run adds to gold_events."""
    await engine.execute(_EVENTS.substitute(_OF_A_RUN), {"run": batch.run}, lane=Lane.PIPELINE)


async def rebuild_kpis(engine: Engine, rows: str) -> None:
    """Writes what the silver rows for which `rows` holds, in SQL, add to gold_kpis, each under its run."""
    await engine.execute(_KPIS.substitute(_anew(rows)), lane=Lane.PIPELINE)


async def rebuild_events(engine: Engine, rows: str) -> None:
    """The same of gold_events."""
    await engine.execute(_EVENTS.substitute(_anew(rows)), lane=Lane.PIPELINE)
