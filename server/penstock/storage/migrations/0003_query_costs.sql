-- What slow and heavy statements of users cost.
CREATE TABLE @query_costs
(
    tenant         LowCardinality(String),
    time           DateTime64(6, 'UTC'),          -- when it ended
    query_id       String,
    user           String,                        -- empty: no accounts
    request_id     String,
    client_address String,
    method         LowCardinality(String),
    sql            String,                        -- as the gate understood it, cut
    views          Array(LowCardinality(String)),
    version        Int64,
    outcome        LowCardinality(String),        -- DONE, CANCELLED, or the reason of its error
    result_rows    UInt64,
    rows_read      UInt64,
    bytes_read     UInt64,
    elapsed_ms     Float64,
    memory_bytes   Nullable(UInt64)               -- the most that was seen; NULL: it ended before anybody looked
)
ENGINE = @engine
ORDER BY (tenant, time, query_id)
TTL toDateTime(time) + INTERVAL 30 DAY
SETTINGS old_parts_lifetime = 30;
