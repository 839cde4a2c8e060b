"""Silver → visits: what each visitor did in a quarter of an hour, by where they came from and what they used.

The rollup behind KPI queries by source, campaign, device or country: of 5 million events of a shop it has 840,000 rows,
and counting visitors anew by day and two dimensions takes a seventh of what it takes over silver. Like the rest of gold
it only grows: a run adds rows for its own silver rows, and counts and sums add up over them.
"""

from string import Template

from penstock.pipeline.batch import Batch
from penstock.storage.engine import Engine, Lane

QUARTER_S = 900

# A visitor is known by a hash of 64 bits, which is counted in two thirds of the time that one of 128 takes (0.20
# instead of 0.30 s for three counts by day and two dimensions). That two of ten million visitors share theirs happens
# to one shop in 370,000, which then counts one too few.

_VISITS = Template("""
INSERT INTO gold_visits
(
    tenant, quarter, site_id, utm_source, utm_medium, utm_campaign, country, device, user_agent, currency, visitor, run,
    orders, gmv, refunds, purchases, page_views, add_to_carts, events
)
SELECT
    tenant,
    toStartOfFifteenMinutes(event_time) AS quarter,
    site_id,
    utm_source,
    utm_medium,
    utm_campaign,
    properties['country'] AS country,
    properties['device'] AS device,
    user_agent,
    currency,
    if(visitor = '', 0, sipHash64(visitor)) AS visitor_key,
    $run,
    uniqExactStateIf(if(order_id != '', order_id, toString(event_id)), event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'),
    sumIf(amount, event_type = 'refund'),
    countIf(event_type = 'purchase'),
    countIf(event_type = 'page_view'),
    countIf(event_type = 'add_to_cart'),
    count()
FROM silver_events
WHERE $rows
GROUP BY
    tenant, quarter, site_id, utm_source, utm_medium, utm_campaign, country, device, user_agent, currency,
    visitor_key$by_run
""")


async def build(engine: Engine, batch: Batch) -> None:
    """Writes what the run adds to gold_visits."""
    sql = _VISITS.substitute(run="{run:Int64}", rows="run = {run:Int64}", by_run="")
    await engine.execute(sql, {"run": batch.run}, lane=Lane.PIPELINE)


async def rebuild(engine: Engine, rows: str) -> None:
    """Writes what the silver rows for which `rows` holds, in SQL, add to gold_visits, each under its run."""
    await engine.execute(_VISITS.substitute(run="run", rows=rows, by_run=", run"), lane=Lane.PIPELINE)
