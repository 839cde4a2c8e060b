"""Every bound of the server, with its unit in its name and its why beside it."""

# --- one request ----------------------------------------
REQUEST_BYTES_MAX = 16 * 1024 * 1024  # gRPC and Envoy alike; 50,000 wide rows fit
RESPONSE_BYTES_MAX = 16 * 1024 * 1024
REQUEST_ROWS_MAX = 50_000  # a commit of one such batch still takes well under a second
COLLECT_BYTES_MAX = 1024 * 1024  # one event, one NDJSON line
JSON_DEPTH_MAX = 32
METADATA_BYTES_MAX = 128 * 1024  # gRPC's own bound is 8 kB, less than a long query string, which comes as metadata
HTTP_CONNECTIONS_MAX = 10_000  # to Envoy; past it new ones are refused
UPLOAD_BATCH_ROWS = 5_000  # an upload commits in steps of so many lines

# --- one event (the engine checks these, see events/bronze.py) ----------------------------------------
EVENT_TYPE_CHARS_MAX = 64
ID_CHARS_MAX = 256
URL_BYTES_MAX = 4096
PROPERTIES_MAX = 128
PROPERTY_KEY_BYTES_MAX = 128
PROPERTY_VALUE_BYTES_MAX = 8192
PRICE_MAGNITUDE_MAX = 1_000_000_000  # keeps price × 1e6 exact in a double
EVENT_TIME_SECONDS_MIN = 946_684_800  # 2000-01-01: older stamps are clocks that were never set
EVENT_FUTURE_SECONDS_MAX = 86_400

# --- ingest queue and flow control ----------------------------------------
STREAM_OUTSTANDING_REQUESTS_MAX = 256
STREAM_OUTSTANDING_BYTES_MAX = 8 * 1024 * 1024
QUEUE_BYTES_MAX = 128 * 1024 * 1024  # all streams together; past it a stream is not read further
QUEUE_FULL_WAIT_S_MAX = 30.0  # a stream waits so long for room before it is told OVERLOADED
COMMIT_ROWS_MAX = 250_000  # more would make acks late without making rows faster
COMMIT_BYTES_MAX = 64 * 1024 * 1024
COMMIT_RETRY_S_MAX = 20.0  # storage may be away so long before waiting batches are told UNAVAILABLE
GROUP_ROWS_MAX = 16_384  # rows of small batches that the engine reads as one message
STREAMS_PER_TENANT_MAX = 1_000

# --- reading ----------------------------------------
PAGE_ROWS_DEFAULT = 50
TAIL_FETCH_ROWS = 1_000
KPI_ANSWERS_MAX = 256  # of the current gold version, kept in memory; some 5 kB each
KPI_TREND_ANSWERS_MAX = 32  # likewise; one of 10,000 windows takes 3 MB
KPI_WATCHERS_MAX = 1_000
TAIL_WATCHERS_MAX = 500
REPLAY_ROWS_MAX = 10_000

# --- deadlines ----------------------------------------
UNARY_DEADLINE_S = 30.0  # when the client set none
HEAVY_DEADLINE_S = 600.0  # for rpcs of COST_CLASS_HEAVY

# --- storage ----------------------------------------
READ_HANDLES = 4  # reads run beside each other; each handle is one thread
WRITE_HANDLES = 2  # one for commits, one for the pipeline: neither waits behind a reader
QUERY_MEMORY_BYTES_MAX = 4 * 1024 * 1024 * 1024
LEASE_S = 12.0  # with several servers on one database: so long after the writing one died may another write
LEASE_SETTLE_S = 2.5  # who takes the lease waits so long for others that tried to at the same moment
FOLLOW_INTERVAL_S = 0.25  # a server that does not write looks so often for what another one wrote
DISK_FREE_BYTES_MIN = 1024 * 1024 * 1024  # a merge needs room beside what it merges; less is refused at start

# --- pipeline ----------------------------------------
PIPELINE_BATCH_ROWS = 1_000_000
PIPELINE_BATCH_COMMITS = 20_000  # so many small commits at once are still planned in milliseconds
PIPELINE_RETRIES_MAX = 5
SESSION_SILENCE_SECONDS = 1_800
RETENTION_DAYS_DEFAULT = 90
DAILY_RETENTION_DAYS_DEFAULT = 730
OPERATIONS_KEPT_MAX = 1_000
OPERATIONS_KEPT_S = 86_400.0
