"""Rows of two tenants in a real engine, one of which must never be seen."""

from penstock.storage.engine import Engine
from penstock.storage.version import Gold, Version

OURS, THEIRS = "ours", "theirs"
SECRET = "CANARY-7f3d"  # in every text of the other tenant, and in every row that is newer than VERSION
VERSION = Version(commit=10, gold=Gold(run=5))

_SILVER = """
INSERT INTO silver_events
WITH
    number % 120 AS n,
    number < 120 ? 'ours' : 'theirs' AS tenant,
    n < 100 AND tenant = 'ours' ? '' : {secret:String} AS secret,
    ['page_view', 'page_view', 'add_to_cart', 'purchase', 'refund', 'page_view', 'search'][n % 7 + 1] AS kind,
    toDateTime64('2026-03-01 12:00:00', 6, 'UTC') + toIntervalMinute(n * 11 % 1800) + toIntervalSecond(n) AS time
SELECT
    tenant,
    1 + intDiv(n, 20) AS run,
    1 + intDiv(n, 10) AS commit,
    toUUID(concat('00000000-0000-7000-8000-', leftPad(toString(number), 12, '0'))) AS event_id,
    kind AS event_type,
    time AS event_time,
    time + toIntervalDay(2) AS ingest_time,
    concat('v', toString(n % 9), secret) AS visitor,
    '' AS user_id,
    visitor AS visitor_id,
    '' AS session_id,
    concat(['north', 'south', 'east'][n % 3 + 1], secret) AS site_id,
    concat('p', toString(n % 5), secret) AS product_id,
    kind = 'purchase' ? concat('o', toString(n)) : '' AS order_id,
    n % 4 = 0 ? NULL : toDecimal64(n % 17 + 0.25, 6) AS price,
    1 + n % 3 AS quantity,
    ifNull(price, 0) * quantity AS amount,
    'USD' AS currency,
    concat('/product/', toString(n % 4), secret) AS path,
    secret AS referrer,
    concat('mail', secret) AS utm_source,
    secret AS utm_medium,
    secret AS utm_campaign,
    secret AS utm_term,
    secret AS utm_content,
    n % 2 ? map('colour', concat('red', secret), 'size', toString(n % 3)) : map() AS properties,
    secret AS user_agent
FROM numbers(240)
"""
_BRONZE = """
INSERT INTO bronze_events
SELECT
    tenant, commit, 's', commit, event_id, event_type, event_time, user_id, visitor_id, session_id, site_id, product_id,
    order_id, price, quantity, currency, path, path, referrer, utm_source, utm_medium, utm_campaign, utm_term,
    utm_content, properties, ingest_time, '192.0.2.7', user_agent
FROM silver_events
"""
_GOLD = """
INSERT INTO gold_kpis
SELECT
    tenant,
    toStartOfMinute(event_time),
    site_id,
    currency,
    run,
    uniqExactStateIf(order_id, event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'),
    sumIf(amount, event_type = 'refund'),
    countIf(event_type = 'purchase'),
    countIf(event_type = 'page_view'),
    countIf(event_type = 'add_to_cart'),
    count(),
    uniqExactStateIf(visitor, event_type = 'purchase'),
    uniqExactStateIf(visitor, event_type = 'page_view'),
    uniqExactStateIf(visitor, event_type = 'add_to_cart'),
    uniqExactState(visitor)
FROM silver_events
GROUP BY ALL
"""
_SESSIONS = """
INSERT INTO sessions (tenant, run, actor, session_id, site_id, visitor, start_time, end_time, page_views, events,
    landing_page, utm_source, converted)
SELECT tenant, max(run), concat('v:', visitor), concat(visitor, toString(min(event_time))), min(site_id), visitor,
    min(event_time), max(event_time), countIf(event_type = 'page_view'), count(), argMin(path, event_time),
    min(utm_source), countIf(event_type = 'purchase') > 4
FROM silver_events
GROUP BY tenant, run, visitor
"""
_DAILY = """
INSERT INTO daily_metrics (tenant, date, site_id, commit, sessions, orders, gmv, top_pages)
SELECT tenant, toDate(event_time), site_id, max(commit), uniq(visitor), countIf(event_type = 'purchase'), sum(amount),
    [(min(path), count())]
FROM silver_events
GROUP BY ALL
"""
_REJECTED = """
INSERT INTO rejected_events (tenant, commit, rejected_id, stream_id, reason, message, raw)
SELECT tenant, commit, event_id, 's', quantity = 2 ? 'BAD_PRICE' : 'BAD_TIME', path, path
FROM bronze_events
WHERE quantity > 1
"""
_REPLAYED = """
INSERT INTO rejected_replays (tenant, commit, rejected_id)
SELECT tenant, commit, rejected_id FROM rejected_events ORDER BY rejected_id LIMIT 3
"""
_PRODUCTS = """
INSERT INTO products (tenant, product_id, commit, deleted, name, price, attributes, message)
SELECT tenant, product_id, commit, event_type = 'refund', path, price, properties, path
FROM silver_events
"""
_FEEDBACK = """
INSERT INTO feedback (tenant, commit, user_id, product_id, interaction_type, request_id, event_time, ingest_time, query)
SELECT tenant, commit, user_id, product_id, 'CLICK', toString(event_id), event_time, ingest_time, path
FROM silver_events
"""


async def fill(engine: Engine) -> None:
    """Rows of both tenants in every table that a view reads; some of them newer than VERSION."""
    await engine.execute(_SILVER, {"secret": SECRET})
    for statement in (_BRONZE, _GOLD, _SESSIONS, _DAILY, _REJECTED, _REPLAYED, _PRODUCTS, _FEEDBACK):
        await engine.execute(statement)
