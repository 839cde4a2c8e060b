-- Gold: what each visitor did in a quarter of an hour, by where they came from and what they used. Each run adds what its
-- new silver rows contribute; counts and sums add up over runs.
CREATE TABLE @gold_visits
(
    tenant       LowCardinality(String),
    quarter      DateTime('UTC'),
    site_id      LowCardinality(String),
    utm_source   LowCardinality(String),
    utm_medium   LowCardinality(String),
    utm_campaign LowCardinality(String),
    country      LowCardinality(String),          -- the property of that name
    device       LowCardinality(String),          -- likewise
    user_agent   LowCardinality(String),
    currency     LowCardinality(String),
    visitor      UInt64,                          -- sipHash64; 0: nobody known
    run          Int64,
    orders       AggregateFunction(uniqExact, String),
    gmv          Decimal(38, 6),
    refunds      Decimal(38, 6),
    purchases    UInt32,
    page_views   UInt32,
    add_to_carts UInt32,
    events       UInt32,
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, quarter, site_id, run)
SETTINGS old_parts_lifetime = 30 @durable;

-- A database from before has runs whose visits were never made. Emptied first, in case this was begun before.
TRUNCATE TABLE @gold_visits;

INSERT INTO @gold_visits
SELECT
    tenant, toStartOfFifteenMinutes(event_time) AS quarter, site_id, utm_source, utm_medium, utm_campaign,
    properties['country'] AS country, properties['device'] AS device, user_agent, currency,
    if(visitor = '', 0, sipHash64(visitor)) AS visitor_key, run,
    uniqExactStateIf(if(order_id != '', order_id, toString(event_id)), event_type = 'purchase'),
    sumIf(amount, event_type = 'purchase'), sumIf(amount, event_type = 'refund'), countIf(event_type = 'purchase'),
    countIf(event_type = 'page_view'), countIf(event_type = 'add_to_cart'), count()
FROM @silver_events
GROUP BY tenant, quarter, site_id, utm_source, utm_medium, utm_campaign, country, device, user_agent, currency,
    visitor_key, run;

-- Who looks for one visitor reads the granules that may have them; parts from before get it when they merge.
ALTER TABLE @silver_events ADD INDEX IF NOT EXISTS by_visitor visitor TYPE bloom_filter(0.01) GRANULARITY 1;
