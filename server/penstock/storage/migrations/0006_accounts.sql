-- Who may call. A row of a user or key says what it changes, and NULL for the rest: of each column the newest row that
-- says something counts. So two servers that change different things of a user at once take nothing from each other.
CREATE TABLE @users
(
    tenant        LowCardinality(String),
    name          String,                         -- unique across tenants: who signs in names no tenant
    changed       DateTime64(6, 'UTC'),           -- by the clock of who changed it
    stored        DateTime64(6, 'UTC') DEFAULT now64(6), -- by the database's clock: what followers go by
    password_hash Nullable(String),               -- argon2id; empty: no password
    roles         Nullable(String),               -- names, separated by commas
    email         Nullable(String),
    subject       Nullable(String),               -- who it is to the OpenID provider; empty: never signed in there
    disabled      Nullable(UInt8),
    valid_from    Nullable(DateTime64(6, 'UTC')), -- sessions that began before do not hold
    created       Nullable(DateTime64(6, 'UTC')),
    created_by    Nullable(String),
    deleted       Nullable(UInt8)
)
ENGINE = @engine
ORDER BY (tenant, name, changed)
SETTINGS old_parts_lifetime = 30 @durable;

CREATE TABLE @api_keys
(
    tenant      LowCardinality(String),
    id          String,
    changed     DateTime64(6, 'UTC'),
    stored      DateTime64(6, 'UTC') DEFAULT now64(6),
    name        Nullable(String),                 -- what people call it
    roles       Nullable(String),
    secret_hash Nullable(String),                 -- SHA-256, in hexadecimal
    created_by  Nullable(String),
    created     Nullable(DateTime64(6, 'UTC')),
    expires     Nullable(DateTime64(6, 'UTC')),
    revoked     UInt8                             -- once 1 in any row, for good
)
ENGINE = @engine
ORDER BY (tenant, id, changed)
SETTINGS old_parts_lifetime = 30 @durable;

-- When keys were used, to the hour. A row of its own, so that writing it can undo nothing of the key.
CREATE TABLE @api_key_uses
(
    tenant LowCardinality(String),
    id     String,
    used   DateTime64(6, 'UTC'),
    stored DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = @engine
ORDER BY (tenant, id, used)
TTL toDateTime(used) + INTERVAL 1 YEAR
SETTINGS old_parts_lifetime = 30;

-- Sessions of users: a row for each refresh token that was given, and one that ends the session.
CREATE TABLE @sign_in_sessions
(
    tenant      LowCardinality(String),
    session     String,
    generation  UInt32,                           -- of the refresh token: 1, 2, …; 0: none
    user        String,
    secret_hash String,                           -- SHA-256, in hexadecimal
    started     DateTime64(6, 'UTC'),             -- when the user signed in
    expires     DateTime64(6, 'UTC'),             -- of the token
    revoked     UInt8,                            -- once 1 in any row, for good
    stored      DateTime64(6, 'UTC') DEFAULT now64(6),
    INDEX by_stored stored TYPE minmax GRANULARITY 1
)
ENGINE = @engine
ORDER BY (session, generation)
TTL toDateTime(expires) + INTERVAL 1 DAY
SETTINGS old_parts_lifetime = 30 @durable;
