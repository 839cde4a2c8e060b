"""What is in the data folder once the server is gone, read with statements of the test's own."""

import asyncio
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path

from penstock.events.v1.events_pb2 import Event
from penstock.settings import Settings
from penstock.storage.engine import Row, open_engine
from tests.faults.plan import NAME

COMMITS = """
SELECT commit, toUnixTimestamp64Micro(time) AS time, operation, run, first_commit, last_commit, rows, rejected,
    arrayZip(
        streams.stream_id, streams.first_offset, streams.next_offset, streams.accepted, streams.rejected
    ) AS streams
FROM commits
ORDER BY commit
"""
BRONZE = f"""
SELECT tenant, commit, stream_id, offset, toString(event_id) AS event_id, event_type,
    toUnixTimestamp64Micro(event_time) AS time, toUnixTimestamp64Micro(ingest_time) AS received,
    user_id, visitor_id, session_id, site_id, order_id, price, quantity, currency, path, properties['{NAME}'] AS name
FROM bronze_events
ORDER BY tenant, commit, stream_id, offset
"""
REJECTED = """
SELECT commit, stream_id, offset, reason, base64Encode(raw) AS raw
FROM rejected_events
ORDER BY commit, stream_id, offset
"""
SILVER = f"""
SELECT toString(event_id) AS event_id, run, commit, event_type, toUnixTimestamp64Micro(event_time) AS time, visitor,
    session_id, site_id, order_id, amount, currency, path, properties['{NAME}'] AS name
FROM silver_events
ORDER BY event_id
"""
SILVER_IDS = "SELECT toString(event_id) AS event_id, run FROM silver_ids ORDER BY event_id"
GOLD_KPIS = """
SELECT toUnixTimestamp(minute) AS minute, site_id, currency, max(run) AS run,
    uniqExactMerge(orders) AS orders, sum(gmv) AS gmv, sum(refunds) AS refunds,
    sum(purchases) AS purchases, sum(page_views) AS page_views,
    sum(add_to_carts) AS add_to_carts, sum(events) AS events, uniqExactMerge(purchase_users) AS purchase_users,
    uniqExactMerge(view_users) AS view_users, uniqExactMerge(cart_users) AS cart_users,
    uniqExactMerge(active_users) AS active_users
FROM gold_kpis AS g
GROUP BY g.minute, site_id, currency
"""
GOLD_TOTALS = """
SELECT currency, uniqExactMerge(orders) AS orders, sum(gmv) AS gmv, sum(refunds) AS refunds,
    uniqExactMerge(purchase_users) AS purchase_users, uniqExactMerge(view_users) AS view_users,
    uniqExactMerge(cart_users) AS cart_users, uniqExactMerge(active_users) AS active_users
FROM gold_kpis
GROUP BY currency
"""
VISIT_TOTALS = """
SELECT currency, max(run) AS run, uniqExactMerge(v.orders) AS orders, sum(v.gmv) AS gmv, sum(v.refunds) AS refunds,
    uniqExactIf(visitor, purchases > 0 AND visitor != 0) AS purchase_users,
    uniqExactIf(visitor, page_views > 0 AND visitor != 0) AS view_users,
    uniqExactIf(visitor, add_to_carts > 0 AND visitor != 0) AS cart_users,
    uniqExactIf(visitor, visitor != 0) AS active_users
FROM gold_visits AS v
GROUP BY currency
"""
GOLD_EVENTS = """
SELECT toUnixTimestamp(minute) AS minute, site_id, event_type, max(run) AS run, sum(events) AS events
FROM gold_events AS g
GROUP BY g.minute, site_id, event_type
"""
SESSIONS = """
SELECT actor, toUnixTimestamp64Micro(start_time) AS start, toUnixTimestamp64Micro(end_time) AS end, events, page_views,
    converted, run
FROM
(
    SELECT * FROM sessions ORDER BY tenant, actor, session_id, run DESC LIMIT 1 BY tenant, actor, session_id
)
WHERE NOT deleted
ORDER BY actor, start
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """The tables, each as its rows by column name; times in microseconds, minutes in seconds since 1970."""

    commits: list[Row]
    bronze: list[Row]
    rejected: list[Row]  # `name` is the row's own, from its raw bytes
    silver: list[Row]
    silver_ids: list[Row]
    gold_kpis: list[Row]
    gold_totals: list[Row]
    visit_totals: list[Row]
    gold_events: list[Row]
    sessions: list[Row]


async def read(data_dir: Path) -> Stored:
    """Reads a data folder that no server has open."""
    engine = open_engine(Settings(data_dir=data_dir, fsync=False))
    try:
        statements = (COMMITS, BRONZE, REJECTED, SILVER, SILVER_IDS, GOLD_KPIS, GOLD_TOTALS, VISIT_TOTALS)
        stored = Stored(*[await engine.rows(sql) for sql in (*statements, GOLD_EVENTS, SESSIONS)])
    finally:
        await engine.close()
    await asyncio.to_thread(_name_rejected, stored.rejected)
    return stored


def _name_rejected(rows: list[Row]) -> None:
    for row in rows:
        row["name"] = Event.FromString(b64decode(row["raw"])).properties[NAME]
