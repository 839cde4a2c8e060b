"""The bounds on what clients and load can make large, each with its unit in its name and its why beside it.

What bounds one algorithm alone stands beside that algorithm. Of a queue, `of one tenant` is what a tenant alone may
have; beside others it has less, and all of them together have twice as much at most, see `storage/shares.py`.
"""

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
QUEUE_TENANT_BYTES_MAX = 112 * 1024 * 1024  # of one tenant that is alone: a request of another one still fits
QUEUE_FULL_WAIT_S_MAX = 30.0  # a stream waits so long for room before it is told OVERLOADED
COMMIT_ROWS_MAX = 250_000  # more would make acks late without making rows faster
COMMIT_BYTES_MAX = 64 * 1024 * 1024
ISOLATION_S_MAX = 2.0  # one tenant's batches are tried apart for so long; those that still fail together are refused
COMMIT_RETRY_S_MAX = 20.0  # storage may be away so long before waiting batches are told UNAVAILABLE
GROUP_ROWS_MAX = 16_384  # rows of small batches that the engine reads as one message
STREAMS_PER_TENANT_MAX = 1_000

# --- writes that are not events: products, feedback, experiments ----------------------------------------
GROUP_ROWS_QUEUED_MAX = 50_000  # of one kind; past it a call is told OVERLOADED
GROUP_COMMIT_ROWS_MAX = 10_000  # in one commit; building its rows takes some 0.2 s

# --- catalogue ----------------------------------------
PRODUCTS_MAX = 2_000_000  # of one tenant: each takes about 1 kB of memory, and 1.5 kB for its vector
UPLOAD_PRODUCTS = 2_000  # lines of an upload that make one commit
LINE_ERRORS_SHOWN = 100  # of an upload
PRODUCTS_LOADED_ROWS = 50_000  # that one statement reads when a catalogue comes into memory

# --- search ----------------------------------------
SEARCH_THREADS = 2  # more would only take turns on the cores
SEARCHES_WAITING_MAX = 512  # of one tenant; past it a search is told OVERLOADED; the last of them waits some 0.3 s
SEARCH_BATCH = 64  # vectors' neighbours that are computed in one go
SEARCH_DEPTH_MAX = 10_000  # results that pages reach
SEARCH_RESULTS_DEFAULT = 20
NEIGHBOURS_DEFAULT = 10
FACET_VALUES_MAX = 100  # of one facet in an answer
INDEX_APPLY_PRODUCTS = 2_000  # changes that become visible together; some 0.3 s of work
INDEX_ENCODE_PRODUCTS = 64  # whose vectors become visible together; some 0.4 s of work
INDEX_TEND_S = 2.0  # between two looks at whether the index is to be rebuilt, measured or saved
INDEX_STILL_S = (
    60.0  # a catalogue in which nothing changed for so long is at rest: what is beside the base is built in,
)
INDEX_STILL_ROWS_MIN = 100  # if it is so many vectors, which cost each search 10 µs
INDEX_STILL_AGAIN_S = 900.0  # after the last build; 400 vectors added to 100,000 take 16 s of one core
INDEX_RETRY_S = 1.0  # after what keeps the index up to date failed
INDEX_SAVE_S = 300.0  # between two saves while the catalogue changes; what changed since is read again at start
INDEX_RECALL_S = 600.0  # between two checks of the recall while the catalogue changes
PAGES_S = 300.0  # for which what pages have shown stays at most, for the pages that follow
PAGES_SEARCHES_MAX = 500  # whose pages are being turned
PAGES_VERSIONS_MAX = 64  # of the index that they show; each keeps what was replaced since from being freed
PAGES_RESULTS_MAX = 500_000  # that they have shown together; each takes 8 bytes beside the product's id
FOUND_S_MAX = 0.5  # an upsert waits so long for searches to see it; then it is answered all the same
FOUND_PRODUCTS_MAX = 50  # of which it waits for the vectors; more take longer than that to encode
VECTORS_FOUND_AT_ONCE = 1_000  # by one statement; a vector is 2 kB of text in its answer
VECTORS_KEPT_AT_ONCE = 1_000  # by one insert

# --- recommendations and feedback ----------------------------------------
TRAINING_INTERACTIONS_MAX = 2_000_000  # the newest; as columns 60 MB, and as much again where they are learnt from
TRAINING_S_MAX = 900.0
TRAINING_INTERVAL_S = 60.0  # between two looks at whether there is enough new behaviour
TRAINING_NEW_MIN = 100  # interactions, before it is worth learning anew,
TRAINING_NEW_SHARE = 0.05  # and as a share of those that were learnt from
RECOMMENDATIONS_DEFAULT = 10
RECOMMENDATION_HITS = 500  # of a search, that are ranked for a user
HISTORIES_KEPT_MAX = 20_000  # of users that came after the last training; some 10 kB each
HISTORY_ROWS_MAX = 1_000  # of one user that are read
ACTIVE_USERS_MAX = 200_000  # since the last training; past it what users did is read from the database
EXPERIMENTS_MAX = 100  # of one tenant
EXPOSURES_QUEUED_MAX = 10_000  # of one tenant; past it they are dropped, never a recommendation
EXPOSURES_KNOWN_MAX = (
    200_000  # users and experiments of which an exposure is stored already; each is stored once an hour
)
EXPOSURE_AGAIN_S = 3_600.0
POPULAR_SEARCHES_MIN = 5  # within the hour: then an answer is computed anew before it is asked for again
ACTIVE_USER_INTERACTIONS_MIN = 10  # likewise, of a user whose feed is
WARMED_DEFAULT = 200
AFFINITIES_SHOWN_MAX = 100
INTERACTIONS_SHOWN_DEFAULT = 20

# --- reading ----------------------------------------
PAGE_ROWS_DEFAULT = 50
TAIL_FETCH_ROWS = 1_000
KPI_ANSWERS_MAX = 256  # of the current gold version, kept in memory; some 5 kB each
KPI_TREND_ANSWERS_MAX = 32  # likewise; one of 10,000 windows takes 3 MB
KPI_POPULATIONS_MAX = 16  # versions whose quintiles and features of all users are kept; a few hundred bytes each
FEATURE_EXPORT_USERS = 50_000  # that one statement of an export reads; as rows in Python some 40 MB
FEATURE_EXPORT_BYTES = 1024 * 1024  # of one piece of an export
FEATURE_EXPORTS_MAX = 2  # of one tenant at a time, and one more of others; each keeps one of the handles that read
KPI_WATCHERS_MAX = 1_000  # of one tenant
KPI_QUERY_ANSWERS_MAX = 16  # of kpis:query, kept for pages and repetitions; one of as many rows as allowed takes 30 MB
KPI_QUERY_WINDOWS_MAX = 10_000  # of one kpis:query, a week of minutes
KPI_QUERY_ROWS_MAX = 50_000  # of one kpis:query, all pages together; they are put in order in memory
KPI_QUERY_PAGE_ROWS = 1_000
KPI_QUERIES_AT_ONCE = 4  # kpis:query computes so many at a time, others wait: each may take all cores and 100 MB
KPI_DEPTH_MAX = 10  # metrics made of metrics made of metrics
OWN_KPIS_MAX = 500  # of one tenant
OWN_KPIS_REFRESH_S = 2.0  # another server's changes to a tenant's metrics are seen so late at most
TAIL_WATCHERS_MAX = 500
REPLAY_ROWS_MAX = 10_000

# --- how many calls run at once ----------------------------------------
READS_AT_ONCE = 8  # calls that storage answers; more would only take turns on the handles
COMPUTED_AT_ONCE_MAX = 8  # searches and recommendations; see gatehouse.py for how many of a core
WAITING_MAX = 1_000  # for a place; see rpc/admission.py for how long
PENDING_CALLS = 8_000  # that have come and not begun, each some 10 kB: gRPC drops at random calls beyond it,
PENDING_CALLS_MAX = 16_000  # and all beyond this

# --- deadlines ----------------------------------------
UNARY_DEADLINE_S = 30.0  # when the client set none
HEAVY_DEADLINE_S = 600.0  # for rpcs of COST_CLASS_HEAVY
MIGRATION_WAIT_S = 600.0  # of a server that needs a newer schema, for the one that writes to make it or to stop

# --- SQL of users: what the parser is given, see queries/gate.py ----------------------------------------
SQL_BYTES_MAX = 32 * 1024
SQL_TOKENS_MAX = 4_000  # sqlglot reads some 100 a millisecond
SQL_DEPTH_MAX = 24  # of brackets; the parser takes some 20 calls for each
SQL_JOINS_MAX = 12  # joins without a condition cost the parser twice as much each
SQL_TREE_DEPTH_MAX = 120
SQL_PRINTED_BYTES_MAX = 128 * 1024  # half of what ClickHouse parses
SQL_PARAMETERS_MAX = 100
SQL_CHECKED_MAX = 512  # statements that the gate remembers
SQL_NAME_CHARS_MAX = 128

# --- computations ----------------------------------------
WORKER_CALLS_MAX = 32  # of one tenant, that wait or run; one takes up to a second or two, so the last waits a minute

# --- storage ----------------------------------------
READ_HANDLES = 4  # reads run beside each other; each handle is one thread
WRITE_HANDLES = 2  # one for commits, one for the pipeline: neither waits behind a reader
QUERY_MEMORY_BYTES_MAX = 4 * 1024 * 1024 * 1024
LEASE_S = 12.0  # with several servers on one database: so long after the writing one died may another write
LEASE_SETTLE_S = 2.5  # who takes the lease waits so long for others that tried to at the same moment
FOLLOW_INTERVAL_S = 0.25  # a server that does not write looks so often for what another one wrote
DISK_FREE_BYTES_MIN = 1024 * 1024 * 1024  # a merge needs room beside what it merges; less is refused at start

# --- SQL of users ----------------------------------------
# A statement of a user may take so much, see storage/user_sql/limits.py; past it the caller is told which limit it was.
SQL_HANDLES = 3  # statements that run at the same time; more would only take turns on the cores
SQL_STREAM_HANDLES = 3  # streams apart, because a slow reader keeps one for minutes
SQL_TENANT_HANDLES = 2  # of either, one tenant's: another one's statement finds a handle
SQL_WAITING_MAX = 64  # statements that wait for a handle; past it the caller is told OVERLOADED
SQL_SECONDS_MAX = 60
SQL_STREAM_SECONDS_MAX = 300  # the reader's own time is in it
SQL_PLAN_SECONDS_MAX = 5  # to validate or explain; what is computed in planning is small, or not worth waiting for
SQL_MEMORY_BYTES_MAX = 1024 * 1024 * 1024
SQL_ROWS_READ_MAX = 500_000_000
SQL_BYTES_READ_MAX = 64 * 1024 * 1024 * 1024
SQL_THREADS_MAX = 4
SQL_TEXT_BYTES_MAX = 1024 * 1024  # of the statement that the gate printed, views and all; a request has 64 KiB
SQL_RESULT_ROWS_MAX = 10_000
SQL_RESULT_ROWS_DEFAULT = 1_000
SQL_RESULT_BYTES_MAX = 3 * 1024 * 1024  # of an answer's rows: a response fits into gRPC's default of 4 MiB
SQL_STREAM_ROWS = 1_000  # in one frame
SQL_STREAM_BYTES = 1024 * 1024  # of Arrow in one frame
SQL_ANSWERS_MAX = 256  # kept in memory
SQL_ANSWERS_BYTES_MAX = 64 * 1024 * 1024
SQL_ANSWER_S_MAX = 60.0  # a purge takes rows of old versions, too; so long may an answer still show them
SQL_COST_MS_MIN = 100.0  # a statement is recorded from here on,
SQL_COST_ROWS_MIN = 1_000_000  # or here,
SQL_COST_BYTES_MIN = 64 * 1024 * 1024  # or here
SQL_COST_CHARS_MAX = 4_096  # of its text
SQL_COSTS_QUEUED_MAX = 10_000  # past it records are dropped, never a query
SQL_COSTS_INTERVAL_S = 2.0
SQL_SAMPLE_S = 0.1  # between two looks at how much memory statements hold
ASK_TIMEOUT_S = 30.0  # for one answer of the language model
ASK_BYTES_MAX = 1024 * 1024  # of such an answer

# --- pipeline ----------------------------------------
PIPELINE_BATCH_ROWS = 1_000_000
PIPELINE_BATCH_COMMITS = 20_000  # so many small commits at once are still planned in milliseconds
PIPELINE_RETRIES_MAX = 5
SESSION_SILENCE_SECONDS = 1_800
RETENTION_DAYS_DEFAULT = 90
DAILY_RETENTION_DAYS_DEFAULT = 730
PURGE_INTERVAL_S = 3_600.0  # how often the server looks for removed rows whose travel time is over
PURGE_RETRY_S = 60.0  # the same after it failed
OPERATIONS_KEPT_MAX = 1_000  # of all tenants together; one that is alone has three quarters of them under way at most
OPERATIONS_KEPT_S = 86_400.0
