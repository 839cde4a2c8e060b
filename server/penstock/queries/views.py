"""The tables that user SQL sees. A view is data: to add one, add an entry to `_ALL`.

Left out of all of them: the tenant, which the relation fixes; runs and other marks of how rows are kept; and the
address a client sent from, which is personal and of which no figure is made. `commit` is there, as time travel speaks
of it.

Two things keep a statement from other tenants' rows, which lie in the same blocks of the same files. Rows are chosen
by the relation's own PREWHERE, before anything of the statement is computed. And texts come through `toString`: a
block of LowCardinality rows keeps its whole dictionary however few rows are left of it, and some functions compute
over all of a dictionary (`toFixedString` does, and fails by what it finds there). `toString` makes one of the rows
alone, of the same type, and takes no time that could be measured (5 million rows in 14 ms, with and without).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from string import Template

from penstock.storage.version import Version

RESERVED_PREFIX = "penstock_"  # names of ours in what runs; a statement may use none that begins so
TENANT = f"{RESERVED_PREFIX}tenant"  # the parameter that every relation binds
_TENANT_SQL = f"{{{TENANT}:String}}"

_TEXT = "LowCardinality(String)"
_TIME = "DateTime64(6, 'UTC')"
_MONEY = "Decimal(38, 6)"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view, with ClickHouse's own name of its type."""

    name: str
    type: str
    description: str


@dataclass(frozen=True, slots=True)
class View:
    """One table as user SQL sees it."""

    name: str
    description: str
    columns: tuple[Column, ...]
    reads: tuple[str, ...]  # the tables below, which `sql` names as $table
    sql: Template

    def relation(self, version: Version) -> str:
        """A subquery in parentheses with the rows of one tenant as of `version`; binds TENANT."""
        relations = {table: version.relation(table, _TENANT_SQL, walled=True) for table in self.reads}
        return f"({self.sql.substitute(relations)})"


def _view(
    name: str, description: str, table: str, columns: Iterable[tuple[str, str, str]], sql: str = "", also: str = ""
) -> View:
    made = tuple(Column(*column) for column in columns)
    select = sql or f"SELECT {', '.join(map(_own, made))} FROM ${table} AS rows"
    return View(name, description, made, (table, also) if also else (table,), Template(select))


def _own(column: Column) -> str:
    if column.type == _TEXT:
        return f"toString(rows.{column.name}) AS {column.name}"
    return f"rows.{column.name}"


_IDS = (
    ("event_id", "UUID", "Id of the event, unique in the tenant"),
    ("event_type", _TEXT, "page_view, add_to_cart, purchase, refund or any other"),
    ("event_time", _TIME, "When it happened, by the client's clock"),
    ("ingest_time", _TIME, "When it was received"),
    ("user_id", "String", "Id of a known user; empty: none"),
    ("visitor_id", "String", "Id of a browser or device; empty: none"),
    ("session_id", "String", "Session as the client gave it; empty: none, see the view sessions"),
    ("site_id", _TEXT, "The site or shop"),
    ("product_id", "String", "The product it is about; empty: none"),
    ("order_id", "String", "The order it belongs to; empty: none"),
    ("price", "Nullable(Decimal(18, 6))", "Price of one, in `currency`"),
)
_WHERE_FROM = (
    ("currency", _TEXT, "ISO 4217 code of `price`"),
    ("path", "String", "Path of the page, without the query string"),
    ("referrer", "String", "Address of the page before"),
    ("utm_source", _TEXT, "Campaign parameter"),
    ("utm_medium", _TEXT, "Campaign parameter"),
    ("utm_campaign", _TEXT, "Campaign parameter"),
    ("utm_term", _TEXT, "Campaign parameter"),
    ("utm_content", _TEXT, "Campaign parameter"),
    ("properties", "Map(String, String)", "Everything else that was sent, as properties['key']"),
    ("user_agent", _TEXT, "The client's program, as it called itself"),
    ("commit", "Int64", "The commit that stored the row"),
)

_ALL = (
    _view(
        "events",
        "One row an event, without repetitions and with one spelling of each type: what most questions are about.",
        "silver_events",
        (
            *_IDS,
            ("visitor", "String", "The user of the KPIs: user_id, else visitor_id; empty: nobody known"),
            ("quantity", "Int32", "How many; 1 unless sent"),
            ("amount", _MONEY, "price × quantity, in `currency`; 0 without a price"),
            *_WHERE_FROM,
        ),
    ),
    _view(
        "bronze_events",
        "Events as they were received, repetitions among them.",
        "bronze_events",
        (
            *_IDS,
            ("quantity", "Nullable(Int32)", "How many"),
            ("url", "String", "Address of the page, as sent"),
            ("stream_id", "String", "The stream that brought it; empty: the default one"),
            ("offset", "Int64", "Its offset in the stream"),
            *_WHERE_FROM,
        ),
    ),
    _view(
        "gold_kpis",
        "KPIs by minute, site and currency. Amounts and counts add up over rows; distinct counts do not, because who"
        " came in two minutes is one user: count those from events.",
        "gold_kpis",
        (
            ("minute", "DateTime('UTC')", "Start of the minute"),
            ("site_id", _TEXT, "The site or shop"),
            ("currency", _TEXT, "ISO 4217 code of the amounts"),
            ("orders", "UInt64", "Distinct orders"),
            ("gmv", _MONEY, "Value of the purchases"),
            ("refunds", _MONEY, "Value of the refunds, as sent"),
            ("purchases", "UInt64", "Purchase events"),
            ("page_views", "UInt64", "Page views"),
            ("add_to_carts", "UInt64", "add_to_cart events"),
            ("events", "UInt64", "Events of any type"),
            ("purchase_users", "UInt64", "Distinct buyers"),
            ("view_users", "UInt64", "Distinct viewers"),
            ("cart_users", "UInt64", "Distinct users who put something into a cart"),
            ("active_users", "UInt64", "Distinct users with any event"),
        ),
        """
SELECT
    rows.minute AS minute,
    toString(rows.site_id) AS site_id,
    toString(rows.currency) AS currency,
    uniqExactMerge(rows.orders) AS orders,
    sum(rows.gmv) AS gmv,
    sum(rows.refunds) AS refunds,
    sum(rows.purchases) AS purchases,
    sum(rows.page_views) AS page_views,
    sum(rows.add_to_carts) AS add_to_carts,
    sum(rows.events) AS events,
    uniqExactMerge(rows.purchase_users) AS purchase_users,
    uniqExactMerge(rows.view_users) AS view_users,
    uniqExactMerge(rows.cart_users) AS cart_users,
    uniqExactMerge(rows.active_users) AS active_users
FROM $gold_kpis AS rows
GROUP BY rows.minute, toString(rows.site_id), toString(rows.currency)
""",
    ),
    _view(
        "sessions",
        "One row a session: as given, else a visitor's events with at most 30 minutes between two of them.",
        "sessions",
        (
            ("session_id", "String", "As given, or made from visitor and start"),
            ("site_id", _TEXT, "The site or shop"),
            ("visitor", "String", "user_id, else visitor_id"),
            ("start_time", _TIME, "Time of the first event"),
            ("end_time", _TIME, "Time of the last event"),
            ("page_views", "UInt32", "Page views in it"),
            ("events", "UInt32", "Events in it"),
            ("landing_page", "String", "Path of its first page"),
            ("exit_page", "String", "Path of its last page"),
            ("utm_source", _TEXT, "Campaign parameter of its first event that had any"),
            ("utm_medium", _TEXT, "Campaign parameter"),
            ("utm_campaign", _TEXT, "Campaign parameter"),
            ("converted", "UInt8", "1: with a purchase"),
        ),
    ),
    _view(
        "daily_metrics",
        "Metrics of whole days by site, as they were last calculated.",
        "daily_metrics",
        (
            ("date", "Date", "The day, in UTC"),
            ("site_id", _TEXT, "The site or shop"),
            ("sessions", "UInt64", "Sessions that began on the day"),
            ("visitors", "UInt64", "Distinct visitors"),
            ("page_views", "UInt64", "Page views"),
            ("bounce_rate", "Nullable(Float64)", "Sessions with at most one page view and no purchase, in all"),
            ("average_session_seconds", "Nullable(Float64)", "Mean length of a session"),
            ("orders", "UInt64", "Distinct orders"),
            ("gmv", _MONEY, "Value of the purchases in `currency`"),
            ("currency", _TEXT, "ISO 4217 code of most purchases"),
            ("conversion_rate", "Nullable(Float64)", "Buyers by viewers"),
            ("top_pages", "Array(Tuple(name String, count UInt64))", "The most viewed pages"),
            ("sources", "Array(Tuple(name String, count UInt64))", "The commonest utm_source of sessions"),
            ("commit", "Int64", "The commit that calculated it"),
        ),
    ),
    _view(
        "rejected_events",
        "Rows that were not taken, as they came.",
        "rejected_events",
        (
            ("rejected_id", "UUID", "Id of the rejected row"),
            ("stream_id", "String", "The stream that brought it; empty: the default one"),
            ("offset", "Int64", "Its offset in the stream"),
            ("reason", _TEXT, "Why, as a code"),
            ("message", "String", "Why, in words"),
            ("raw", "String", "The row as it came"),
            ("raw_format", _TEXT, "protobuf or json"),
            ("ingest_time", _TIME, "When it was received"),
            ("replayed", "UInt8", "1: it was mended and taken later"),
            ("commit", "Int64", "The commit that stored the row"),
        ),
        """
SELECT
    rows.rejected_id, rows.stream_id, rows.offset, toString(rows.reason) AS reason, rows.message, rows.raw,
    toString(rows.raw_format) AS raw_format, rows.ingest_time,
    rows.rejected_id IN (SELECT replays.rejected_id FROM $rejected_replays AS replays) AS replayed,
    rows.commit
FROM $rejected_events AS rows
""",
        also="rejected_replays",
    ),
    _view(
        "products",
        "One row a product, as it is in the catalogue.",
        "products",
        (
            ("product_id", "String", "Id of the product; events name it by this"),
            ("name", "String", "What it is called"),
            ("description", "String", "What is said of it"),
            ("brand", _TEXT, "The brand's name"),
            ("brand_id", _TEXT, "Id of the brand"),
            ("merchant_id", _TEXT, "Id of who sells it"),
            ("merchant_name", _TEXT, "Who sells it"),
            ("category_id", _TEXT, "Id of the category"),
            ("category_path", f"Array({_TEXT})", "The category from the root down"),
            ("price", "Nullable(Decimal(18, 6))", "What it costs, in `currency`"),
            ("rrp_price", "Nullable(Decimal(18, 6))", "The recommended retail price"),
            ("currency", _TEXT, "ISO 4217 code of the prices"),
            ("in_stock", "UInt8", "1: it can be bought"),
            ("stock_quantity", "Nullable(Int32)", "How many there are"),
            ("image_url", "String", "A picture"),
            ("product_url", "String", "Where it is sold"),
            ("colour", _TEXT, "Its colour"),
            ("size", _TEXT, "Its size"),
            ("quality_score", "Nullable(Float64)", "How good its data are, 0 to 1"),
            ("average_rating", "Nullable(Float64)", "The mean of its ratings, 0 to 5"),
            ("review_count", "Int32", "How many ratings that is the mean of"),
            ("is_active", "UInt8", "1: it is shown"),
            ("attributes", "Map(String, String)", "Everything else, as attributes['key']; of clothes 'fashion.NAME'"),
            ("sku", "String", "The stock keeping unit"),
            ("model", "String", "The maker's name of the model"),
            ("create_time", _TIME, "When it was first stored"),
            ("update_time", _TIME, "When it was last stored"),
            ("commit", "Int64", "The commit that stored it"),
        ),
    ),
    _view(
        "feedback",
        "One row an interaction of a user with a product.",
        "feedback",
        (
            ("user_id", "String", "Id of the user"),
            ("product_id", "String", "Id of the product"),
            ("interaction_type", _TEXT, "VIEW, CLICK, LIKE, SHARE, ADD_TO_CART, PURCHASE or RATING"),
            ("context", _TEXT, "Where it was shown: FEED, SEARCH, SIMILAR or CATEGORY; empty: not said"),
            ("position", "Nullable(Int32)", "At which place of the list"),
            ("query", "String", "What was searched for"),
            ("rating", "Nullable(Float64)", "Of RATING, 1 to 5"),
            ("request_id", "String", "The client's name of the interaction"),
            ("event_time", _TIME, "When it was"),
            ("ingest_time", _TIME, "When it was received"),
            ("commit", "Int64", "The commit that stored it"),
        ),
    ),
)

VIEWS = {view.name: view for view in _ALL}
