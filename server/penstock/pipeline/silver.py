"""Bronze → silver: one row an event id, typed.

Every conversion is total: ingest has checked the row, and what it let through has a value here, so no event can stop a
batch.
"""

from collections.abc import Sequence
from string import Template

from penstock.pipeline.batch import Batch
from penstock.pipeline.tenants import Counts
from penstock.storage.engine import Engine, Lane, Row

CANONICAL_TYPE = "if(event_type IN ('pageview', 'view'), 'page_view', event_type)"

_INTO = """
INSERT INTO silver_events
(
    tenant, run, commit, event_id, event_type, event_time, ingest_time, visitor, user_id, visitor_id, session_id,
    site_id, product_id, order_id, price, quantity, amount, currency, path, referrer,
    utm_source, utm_medium, utm_campaign, utm_term, utm_content, properties, user_agent
)
"""
# What silver makes of a row of bronze; a part of statements that bind `run` and `currency`.
_TYPED = f"""SELECT
    tenant,
    {{run:Int64}},
    commit,
    event_id,
    {CANONICAL_TYPE},
    event_time,
    ingest_time,
    if(user_id != '', user_id, visitor_id),
    user_id,
    visitor_id,
    session_id,
    site_id,
    product_id,
    order_id,
    price,
    ifNull(quantity, 1),
    toDecimal128(ifNull(price, 0), 6) * ifNull(quantity, 1),
    if(currency = '', {{currency:String}}, upper(currency)),
    multiIf(
        path != '', path,
        url = '', '',
        startsWith(url, '/'), cutQueryStringAndFragment(url),
        path(url) = '', '/',
        path(url)
    ),
    referrer,
    utm_source,
    utm_medium,
    utm_campaign,
    utm_term,
    utm_content,
    properties,
    user_agent
"""

# The first of the rows that share an event id wins, whatever their types; so rows are thinned out before they are
# chosen by type, or the type that is processed first would win.
#
# Ids are looked up by event id alone: a set of (tenant, event_id) costs five times as much to probe, because a
# LowCardinality column in a tuple is hashed as text. What is found is then compared with its tenant.
_SILVER = f"""{_INTO}WITH
    first_of_id AS
    (
        SELECT *
        FROM bronze_events
        WHERE commit > {{since:Int64}} AND commit <= {{last_commit:Int64}}
            AND ({{tenant:String}} = '' OR tenant = {{tenant:String}})
        ORDER BY tenant, commit, stream_id, offset
        LIMIT 1 BY tenant, event_id
    ),
    known AS
    (
        SELECT tenant, event_id
        FROM silver_ids
        WHERE event_id IN
        (
            SELECT event_id
            FROM bronze_events
            WHERE commit >= {{first_commit:Int64}} AND commit <= {{last_commit:Int64}}
                AND ({{tenant:String}} = '' OR tenant = {{tenant:String}})
        )
    )
{_TYPED}FROM first_of_id
WHERE commit >= {{first_commit:Int64}}
    AND ({{event_type:String}} = '' OR {CANONICAL_TYPE} = {{event_type:String}})
    AND (tenant, event_id) NOT IN (SELECT tenant, event_id FROM known)
"""

_IDS = """
INSERT INTO silver_ids (tenant, event_id, run)
SELECT tenant, event_id, run FROM silver_events WHERE run = {run:Int64}
"""

# Rows that were dropped because an event with their id was there already, which is to go.
_AGAIN = Template(f"""{_INTO}WITH
    going AS (SELECT event_id FROM silver_events WHERE $going),
    first_of_id AS
    (
        SELECT *
        FROM bronze_events
        WHERE $rows AND commit <= {{last_commit:Int64}} AND event_id IN (SELECT event_id FROM going)
        ORDER BY commit, stream_id, offset
        LIMIT 1 BY event_id
    )
{_TYPED}FROM first_of_id
WHERE event_id NOT IN
(
    SELECT event_id FROM silver_events WHERE $staying AND event_id IN (SELECT event_id FROM going)
)
""")

_OF_TYPE = f"""
SELECT tenant, count() AS n
FROM bronze_events
WHERE commit >= {{first_commit:Int64}} AND commit <= {{last_commit:Int64}}
    AND ({{tenant:String}} = '' OR tenant = {{tenant:String}}) AND {CANONICAL_TYPE} = {{event_type:String}}
GROUP BY tenant
"""

_MADE = """
SELECT tenant, count() AS n FROM silver_events WHERE run = {run:Int64} GROUP BY tenant
"""


async def build(engine: Engine, batch: Batch, currency: str) -> Counts:
    """Writes the batch's silver rows and their ids; how many there are."""
    await engine.execute(_SILVER, {**batch.parameters(), "currency": currency}, lane=Lane.PIPELINE)
    return await _with_ids(engine, batch.run)


async def build_again(engine: Engine, batch: Batch, currency: str, *, going: str, staying: str, rows: str) -> Counts:
    """Writes silver rows for events that were taken for duplicates of others, which are to go; how many there are.

    All in SQL, of one tenant: of silver `going` holds for the rows that are to go and `staying` for the others, of
    bronze `rows` for those that count. It looks at commits up to `batch.last_commit`: behind them a run does the same.
    """
    sql = _AGAIN.substitute(going=going, staying=staying, rows=rows)
    bounds = {"run": batch.run, "last_commit": batch.last_commit, "currency": currency}
    await engine.execute(sql, bounds, lane=Lane.PIPELINE)
    return await _with_ids(engine, batch.run)


async def _with_ids(engine: Engine, run: int) -> Counts:
    """Writes the ids of the run's silver rows; how many there are."""
    await engine.execute(_IDS, {"run": run}, lane=Lane.PIPELINE)
    return _counts(await engine.rows(_MADE, {"run": run}, lane=Lane.PIPELINE))


async def rows_read(engine: Engine, batch: Batch) -> Counts:
    """Rows of bronze that the batch is about: all, or those of its type."""
    if not batch.event_type:
        return batch.tenants
    return _counts(await engine.rows(_OF_TYPE, batch.parameters(), lane=Lane.PIPELINE))


def canonical_type(event_type: str) -> str:
    """What CANONICAL_TYPE makes of one type."""
    return "page_view" if event_type in ("pageview", "view") else event_type


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {row["tenant"]: int(row["n"]) for row in rows}
