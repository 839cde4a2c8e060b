-- The tables of ingest and pipeline. `@name` is a table, `@engine` its engine, `@durable` its flush settings: the
-- migrator fills them in for one server, for a cluster, and for the embedded engine.

-- One row a commit: the order of everything, and what makes rows visible.
CREATE TABLE @commits
(
    commit       Int64,
    time         DateTime64(6, 'UTC'),
    operation    LowCardinality(String),          -- append, etl, daily, cleanup, purge, purged, checkpoint,
                                                  -- catalogue, feedback, experiments, forget, forgotten
    run          Int64,                           -- etl: the run whose silver and gold rows become visible
    first_commit Int64,                           -- etl: the commits of events that the run read
    last_commit  Int64,
    rows         UInt64,
    rejected     UInt64,
    epoch        Int64,                           -- the lease under which it was written
    detail       String,                          -- JSON, by operation
    streams      Nested
    (
        tenant       String,
        stream_id    String,                      -- empty: the default stream
        first_offset Int64,
        next_offset  Int64,
        accepted     UInt32,
        rejected     UInt32
    )
)
ENGINE = @engine
ORDER BY commit
SETTINGS old_parts_lifetime = 30 @durable;

-- Where streams stood at some commit, so that finding out does not read the whole log.
CREATE TABLE @stream_checkpoints
(
    tenant      String,
    stream_id   String,
    next_offset Int64,
    commit      Int64
)
ENGINE = @engine
ORDER BY (tenant, stream_id, next_offset)
SETTINGS old_parts_lifetime = 30 @durable;

-- Bronze: what was received, as received.
CREATE TABLE @bronze_events
(
    tenant         LowCardinality(String),
    commit         Int64,
    stream_id      String,
    offset         Int64,                         -- in the stream; in the default stream, in the commit
    event_id       UUID,
    event_type     LowCardinality(String),
    event_time     DateTime64(6, 'UTC'),
    user_id        String,
    visitor_id     String,
    session_id     String,
    site_id        LowCardinality(String),
    product_id     String,
    order_id       String,
    price          Nullable(Decimal(18, 6)),
    quantity       Nullable(Int32),
    currency       LowCardinality(String),
    url            String,
    path           String,
    referrer       String,
    utm_source     LowCardinality(String),
    utm_medium     LowCardinality(String),
    utm_campaign   LowCardinality(String),
    utm_term       LowCardinality(String),
    utm_content    LowCardinality(String),
    properties     Map(String, String),
    ingest_time    DateTime64(6, 'UTC'),          -- one for all rows of a commit, so a commit lies in one partition
    client_address LowCardinality(String),
    user_agent     LowCardinality(String)
)
ENGINE = @engine
PARTITION BY toYYYYMM(ingest_time)
ORDER BY (tenant, commit, stream_id, offset)
-- Commits make compact parts, one file instead of four a column: each is flushed before the commit is acknowledged.
SETTINGS min_bytes_for_wide_part = 268435456, old_parts_lifetime = 30 @durable;

-- Rows that were not taken, as they came.
CREATE TABLE @rejected_events
(
    tenant      LowCardinality(String),
    commit      Int64,
    rejected_id UUID,
    stream_id   String,
    offset      Int64,
    reason      LowCardinality(String),
    message     String,
    raw         String,
    raw_format  LowCardinality(String),           -- protobuf, json
    ingest_time DateTime64(6, 'UTC')
)
ENGINE = @engine
ORDER BY (tenant, commit, stream_id, offset)
SETTINGS old_parts_lifetime = 30 @durable;

-- Which of them were taken later.
CREATE TABLE @rejected_replays
(
    tenant      LowCardinality(String),
    commit      Int64,
    rejected_id UUID,
    time        DateTime64(6, 'UTC')
)
ENGINE = @engine
ORDER BY (tenant, rejected_id)
SETTINGS old_parts_lifetime = 30 @durable;

-- Silver: one row an event id, typed.
CREATE TABLE @silver_events
(
    tenant         LowCardinality(String),
    run            Int64,                         -- the run that made the row; visible from that run on
    commit         Int64,                         -- the commit of its bronze row
    event_id       UUID,
    event_type     LowCardinality(String),        -- canonical
    event_time     DateTime64(6, 'UTC'),
    ingest_time    DateTime64(6, 'UTC'),
    visitor        String,                        -- user_id, else visitor_id; empty: nobody known
    user_id        String,
    visitor_id     String,
    session_id     String,                        -- as given
    site_id        LowCardinality(String),
    product_id     String,
    order_id       String,
    price          Nullable(Decimal(18, 6)),
    quantity       Int32,
    amount         Decimal(38, 6),                -- price × quantity; 0 without a price
    currency       LowCardinality(String),
    path           String,
    referrer       String,
    utm_source     LowCardinality(String),
    utm_medium     LowCardinality(String),
    utm_campaign   LowCardinality(String),
    utm_term       LowCardinality(String),
    utm_content    LowCardinality(String),
    properties     Map(String, String),
    user_agent     LowCardinality(String),
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, event_time, event_id)
SETTINGS min_bytes_for_wide_part = 268435456, old_parts_lifetime = 30 @durable;

-- The event ids in silver, ordered so that looking some up reads little.
CREATE TABLE @silver_ids
(
    tenant   LowCardinality(String),
    event_id UUID,
    run      Int64,
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
-- A UUID sorts by its second half, which is chance; as a number those of version 7 sort by time, so new ones lie together.
ORDER BY (tenant, toUInt128(event_id))
SETTINGS old_parts_lifetime = 30 @durable;

-- Sessions: each run adds the sessions that it changed; the row of the newest run counts, unless it is a tombstone.
CREATE TABLE @sessions
(
    tenant        LowCardinality(String),
    run           Int64,
    actor         String,                         -- 's:' session id as given, or 'v:' visitor
    session_id    String,                         -- as given, or made from visitor and start
    site_id       LowCardinality(String),
    visitor       String,
    start_time    DateTime64(6, 'UTC'),
    end_time      DateTime64(6, 'UTC'),
    page_views    UInt32,
    events        UInt32,
    landing_page  String,
    landing_time  DateTime64(6, 'UTC'),
    exit_page     String,
    exit_time     DateTime64(6, 'UTC'),
    utm_source    LowCardinality(String),
    utm_medium    LowCardinality(String),
    utm_campaign  LowCardinality(String),
    utm_time      DateTime64(6, 'UTC'),           -- of the event that the attribution is from; year 2299: none
    converted     UInt8,
    deleted       UInt8,                          -- 1: joined into another session
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, actor, session_id, run)
SETTINGS index_granularity = 256, old_parts_lifetime = 30 @durable;

-- Gold: KPIs by minute. Each run adds what its new silver rows contribute, as states that merge exactly; so a window as
-- of a run is the merge of the rows up to that run, and running anything twice cannot count twice.
CREATE TABLE @gold_kpis
(
    tenant            LowCardinality(String),
    minute            DateTime('UTC'),
    site_id           LowCardinality(String),
    currency          LowCardinality(String),
    run               Int64,
    orders            AggregateFunction(uniqExact, String),
    gmv               Decimal(38, 6),
    refunds           Decimal(38, 6),
    purchases         UInt64,
    page_views        UInt64,
    add_to_carts      UInt64,
    events            UInt64,
    purchase_users    AggregateFunction(uniqExact, String),
    view_users        AggregateFunction(uniqExact, String),
    cart_users        AggregateFunction(uniqExact, String),
    active_users      AggregateFunction(uniqExact, String),
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, minute, site_id, currency, run)
-- A row holds sets of users, kilobytes of them, so that a read of one minute must not parse thousands of rows.
SETTINGS index_granularity = 64, old_parts_lifetime = 30 @durable;

-- Gold: events by minute and type, likewise.
CREATE TABLE @gold_events
(
    tenant     LowCardinality(String),
    minute     DateTime('UTC'),
    site_id    LowCardinality(String),
    event_type LowCardinality(String),
    run        Int64,
    events     UInt64,
    INDEX by_run run TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, minute, site_id, event_type, run)
SETTINGS old_parts_lifetime = 30 @durable;

-- Daily metrics: the newest commit of a day and site counts.
CREATE TABLE @daily_metrics
(
    tenant                  LowCardinality(String),
    date                    Date,
    site_id                 LowCardinality(String),
    commit                  Int64,
    sessions                UInt64,
    visitors                UInt64,
    page_views              UInt64,
    bounce_rate             Nullable(Float64),
    average_session_seconds Nullable(Float64),
    orders                  UInt64,
    gmv                     Decimal(38, 6),
    currency                LowCardinality(String),
    conversion_rate         Nullable(Float64),
    top_pages               Array(Tuple(name String, count UInt64)),
    sources                 Array(Tuple(name String, count UInt64))
)
ENGINE = @engine
ORDER BY (tenant, date, site_id, commit)
SETTINGS old_parts_lifetime = 30 @durable;

-- What the pipeline's runs did, failed ones too.
CREATE TABLE @pipeline_runs
(
    run          Int64,
    start_time   DateTime64(6, 'UTC'),
    duration_ms  Float64,
    trigger      LowCardinality(String),
    state        LowCardinality(String),
    first_commit Int64,
    last_commit  Int64,
    steps        Array(Tuple(name String, rows_in UInt64, rows_out UInt64, duplicates UInt64, rejected UInt64, duration_ms Float64)),
    error        String,
    retries      UInt32
)
ENGINE = @engine
ORDER BY start_time
TTL toDateTime(start_time) + INTERVAL 30 DAY
SETTINGS old_parts_lifetime = 30;

-- Who may write: the newest epoch holds the lease until it expires.
CREATE TABLE @leases
(
    name    LowCardinality(String),
    epoch   Int64,
    holder  String,
    expires DateTime64(6, 'UTC')
)
ENGINE = @engine
ORDER BY (name, epoch)
TTL toDateTime(expires) + INTERVAL 7 DAY
SETTINGS old_parts_lifetime = 30;
