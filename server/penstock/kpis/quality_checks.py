"""What is checked of the data: every check with its rows, its fault and its thresholds, as data.

A field is required by what it is used for: a KPI that counts users needs to know who it was, one that counts orders
needs their ids. What ingest refuses an event without (its type) or makes up (its id) is never missing here; what it
refused is counted by `rejected_rate`.

Conditions are SQL over rows of bronze, what was received in the window. They may bind `price_min`, `price_max`,
`event_types` and `currency`.
"""

from dataclasses import dataclass
from enum import StrEnum

from penstock import limits


class Dimension(StrEnum):
    """The sides of quality."""

    COMPLETENESS = "completeness"
    VALIDITY = "validity"
    TIMELINESS = "timeliness"
    CONSISTENCY = "consistency"


@dataclass(frozen=True, slots=True)
class Check:
    """One measurement and what is to be thought of it."""

    dimension: Dimension
    name: str
    field: str  # empty: about all
    unit: str
    warning: float  # above it
    critical: float  # above it
    description: str


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A check that is the share of faulty rows among those that it is about."""

    check: Check
    of: str  # SQL: the rows that it is about
    fault: str  # SQL: what is wrong with one
    optional: bool = False  # where no row at all has the field it is not in use, and nothing is missing


_PRODUCT = "event_type IN ('add_to_cart', 'remove_from_cart', 'purchase', 'refund')"
_PURCHASE = "event_type = 'purchase'"
# What clients send when they mean nothing, in small letters.
_WORDS = "(' ', '-', 'null', 'nil', 'none', 'undefined', 'nan', 'n/a', '(not set)')"
_SAID = "where it is a word for nothing, such as 'null'"
_BACKFILL_DAYS = 1
_RETENTION_DAYS = limits.RETENTION_DAYS_DEFAULT

# Lags that the pipeline answers for; those behind it a replay makes, or a client that kept its events.
LIVE = f"event_time >= ingest_time - INTERVAL {_BACKFILL_DAYS} DAY"


def _missing(field: str, warning: float, critical: float, description: str) -> Check:
    return Check(Dimension.COMPLETENESS, "null_rate", field, "ratio", warning, critical, description)


def _empty(field: str, warning: float, critical: float, description: str) -> Check:
    return Check(Dimension.COMPLETENESS, "empty_rate", field, "ratio", warning, critical, description)


def _invalid(name: str, field: str, warning: float, critical: float, description: str) -> Check:
    return Check(Dimension.VALIDITY, name, field, "ratio", warning, critical, description)


ROW_CHECKS: tuple[RowCheck, ...] = (
    RowCheck(
        _missing("user", 0.05, 0.25, "Events with neither a user_id nor a visitor_id, which no count of users has"),
        of="true",
        fault="user_id = '' AND visitor_id = ''",
    ),
    RowCheck(
        _missing("timestamp", 0.25, 0.75, "Events without a time, which count for when they were stored"),
        of="true",
        fault="event_time = ingest_time",
        optional=True,
    ),
    RowCheck(
        _missing("site_id", 0.01, 0.1, "Events without a site"),
        of="true",
        fault="site_id = ''",
        optional=True,
    ),
    RowCheck(
        _missing("product_id", 0.01, 0.1, "Events of carts, purchases and refunds without a product"),
        of=_PRODUCT,
        fault="product_id = ''",
    ),
    RowCheck(
        _missing("price", 0.01, 0.05, "Purchases without a price, which add nothing to GMV"),
        of=_PURCHASE,
        fault="price IS NULL",
    ),
    RowCheck(
        _missing("order_id", 0.05, 0.5, "Purchases without an order, each of which counts as one"),
        of=_PURCHASE,
        fault="order_id = ''",
        optional=True,
    ),
    RowCheck(
        _empty("user", 0.001, 0.01, f"Events with a user {_SAID}"),
        of="true",
        fault=f"lower(if(user_id != '', user_id, visitor_id)) IN {_WORDS}",
    ),
    RowCheck(
        _empty("site_id", 0.001, 0.01, f"Events with a site {_SAID}"), of="true", fault=f"lower(site_id) IN {_WORDS}"
    ),
    RowCheck(
        _empty("product_id", 0.001, 0.01, f"Events of carts, purchases and refunds with a product {_SAID}"),
        of=_PRODUCT,
        fault=f"lower(product_id) IN {_WORDS}",
    ),
    RowCheck(
        _empty("order_id", 0.001, 0.01, f"Purchases with an order {_SAID}"),
        of=_PURCHASE,
        fault=f"lower(order_id) IN {_WORDS}",
    ),
    RowCheck(_empty("price", 0.05, 0.25, "Purchases at a price of 0"), of=_PURCHASE, fault="ifNull(price = 0, false)"),
    RowCheck(
        _invalid("out_of_range_rate", "price", 0.001, 0.01, "Prices outside of DQ_PRICE_MIN to DQ_PRICE_MAX"),
        of="price IS NOT NULL",
        # A refund may be written with its sign.
        fault="if(event_type = 'refund', abs(price), price) NOT BETWEEN {price_min:Float64} AND {price_max:Float64}",
    ),
    RowCheck(
        _invalid("out_of_range_rate", "quantity", 0.001, 0.01, "Purchases of less than one piece"),
        of=f"{_PURCHASE} AND quantity IS NOT NULL",
        fault="quantity < 1",
    ),
    RowCheck(
        _invalid("unknown_rate", "event_type", 0.01, 0.1, "Events of a type that DQ_EVENT_TYPES does not list"),
        of="true",
        fault="event_type NOT IN {event_types:Array(String)}",
    ),
    RowCheck(
        _invalid("foreign_rate", "currency", 0.01, 0.25, "Purchases in another currency, which GMV leaves out"),
        of=_PURCHASE,
        fault="currency NOT IN ('', {currency:String})",
    ),
    RowCheck(
        _invalid("future_rate", "timestamp", 0.001, 0.01, "Events more than a minute ahead of when they were stored"),
        of="true",
        fault="event_time > ingest_time + INTERVAL 1 MINUTE",
    ),
    RowCheck(
        _invalid("backfilled_rate", "timestamp", 0.05, 0.5, "Events more than a day behind when they were stored"),
        of="true",
        fault=f"NOT ({LIVE})",
    ),
    RowCheck(
        _invalid(
            *("expired_rate", "timestamp", 0.01, 0.25),
            f"Events more than {_RETENTION_DAYS} days behind when they were stored, which a cleanup removes",
        ),
        of="true",
        fault=f"event_time < ingest_time - INTERVAL {_RETENTION_DAYS} DAY",
    ),
)

FRESHNESS = Check(Dimension.TIMELINESS, "freshness", "", "minutes", 10, 60, "Since the newest event was stored")
INGESTION_LAG = Check(
    *(Dimension.TIMELINESS, "ingestion_lag_p95", "timestamp", "seconds", 15, 30),
    "From an event's time to when it was stored, 95th percentile, backfilled events (see their own check) apart",
)
PIPELINE_LAG = Check(
    Dimension.TIMELINESS, "pipeline_lag", "", "seconds", 10, 120, "Age of the oldest commit that is not in the KPIs yet"
)
DUPLICATES = Check(
    *(Dimension.CONSISTENCY, "duplicate_rate", "event_id", "ratio", 0.01, 0.1),
    "Processed events that were dropped because one with their id was there",
)
REJECTED = Check(
    *(Dimension.CONSISTENCY, "rejected_rate", "", "ratio", 0.01, 0.05),
    "Rows received that broke the contract, of any site; with a reason as the field, those of that reason",
)
