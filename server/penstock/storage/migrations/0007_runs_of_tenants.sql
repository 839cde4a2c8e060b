-- What the pipeline's runs did with each tenant's rows, failed ones too; in place of pipeline_runs, which counted the rows
-- of all tenants together. A run has a row for each tenant whose events it read, so they are kept for a week.
CREATE TABLE @tenant_runs
(
    tenant       LowCardinality(String),
    run          Int64,
    start_time   DateTime64(6, 'UTC'),
    duration_ms  Float64,
    trigger      LowCardinality(String),
    state        LowCardinality(String),
    first_commit Int64,
    last_commit  Int64,
    steps        Array(Tuple(name String, rows_in UInt64, rows_out UInt64, duplicates UInt64, rejected UInt64, duration_ms Float64)),
    error        LowCardinality(String),          -- the reason alone
    retries      UInt32
)
ENGINE = @engine
ORDER BY (tenant, start_time)
TTL toDateTime(start_time) + INTERVAL 7 DAY
SETTINGS old_parts_lifetime = 30;

-- Emptied first, in case this was begun before.
TRUNCATE TABLE @tenant_runs;

-- All runs of before are of the only tenant that there was. Why they failed stands there in words, which may quote events.
INSERT INTO @tenant_runs
SELECT
    'default', run, start_time, duration_ms, trigger, state, first_commit, last_commit, steps,
    if(error = '', '', 'INTERNAL'), retries
FROM @pipeline_runs;

TRUNCATE TABLE @pipeline_runs;
