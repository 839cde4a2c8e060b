-- Metrics that tenants declare themselves: of each name the newest row counts, unless it is a tombstone.
CREATE TABLE @own_metrics
(
    tenant      String,
    name        String,
    changed     DateTime64(6, 'UTC'),
    declaration String,                           -- JSON, as catalog.yaml would have it
    deleted     UInt8
)
ENGINE = @engine
ORDER BY (tenant, name, changed)
SETTINGS old_parts_lifetime = 30 @durable;
