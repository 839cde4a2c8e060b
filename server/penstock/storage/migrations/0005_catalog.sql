-- Products: each commit adds the rows that it changed; of a product the row of the newest commit counts, unless it is a
-- tombstone. So the catalogue as of a version is there like everything else.
CREATE TABLE @products
(
    tenant          LowCardinality(String),
    product_id      String,
    commit          Int64,
    deleted         UInt8,                        -- 1: removed by this commit
    name            String,
    description     String,
    brand           LowCardinality(String),
    brand_id        LowCardinality(String),
    merchant_id     LowCardinality(String),
    merchant_name   LowCardinality(String),
    category_id     LowCardinality(String),
    category_path   Array(LowCardinality(String)),
    price           Nullable(Decimal(18, 6)),
    rrp_price       Nullable(Decimal(18, 6)),
    currency        LowCardinality(String),
    in_stock        UInt8,
    stock_quantity  Nullable(Int32),
    image_url       String,
    product_url     String,
    colour          LowCardinality(String),
    size            LowCardinality(String),
    quality_score   Nullable(Float64),
    average_rating  Nullable(Float64),
    review_count    Int32,
    is_active       UInt8,
    attributes      Map(String, String),          -- those of clothes as fashion.NAME
    sku             String,
    model           String,
    create_time     DateTime64(6, 'UTC'),
    update_time     DateTime64(6, 'UTC'),
    message         String,                       -- the penstock.catalog.v1.Product itself: reading 100,000 takes 0.5 s
    INDEX by_commit commit TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, product_id, commit)
SETTINGS index_granularity = 1024, old_parts_lifetime = 30 @durable;

-- Vectors of texts, so that a restart encodes nothing again: by the encoder and the hash of what was encoded.
CREATE TABLE @text_vectors
(
    tenant  LowCardinality(String),
    encoder LowCardinality(String),
    text    FixedString(16),                      -- the first half of the SHA-256 of the text
    vector  String                                -- little-endian 32-bit floats
)
ENGINE = @engine
ORDER BY (tenant, encoder, text)
SETTINGS old_parts_lifetime = 30;

-- What users did with products.
CREATE TABLE @feedback
(
    tenant           LowCardinality(String),
    commit           Int64,
    user_id          String,
    product_id       String,
    interaction_type LowCardinality(String),      -- VIEW, CLICK, LIKE, SHARE, ADD_TO_CART, PURCHASE, RATING
    context          LowCardinality(String),      -- FEED, SEARCH, SIMILAR, CATEGORY; empty: not said
    position         Nullable(Int32),
    query            String,
    rating           Nullable(Float64),
    request_id       String,                      -- unique in the tenant and user
    event_time       DateTime64(6, 'UTC'),
    ingest_time      DateTime64(6, 'UTC'),
    INDEX by_commit commit TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (tenant, user_id, event_time, request_id)
SETTINGS index_granularity = 1024, old_parts_lifetime = 30 @durable;

-- Experiments: of each name the row of the newest commit counts, unless it is a tombstone.
CREATE TABLE @experiments
(
    tenant      LowCardinality(String),
    name        String,
    commit      Int64,
    deleted     UInt8,
    declaration String                            -- JSON, as the contract has it
)
ENGINE = @engine
ORDER BY (tenant, name, commit)
SETTINGS old_parts_lifetime = 30 @durable;
