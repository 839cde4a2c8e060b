"""What tests of forgetting share: tenants that the same things happen to, and what their tables hold."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from penstock.pipeline.cleanup import Cleaner
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.forget import Forgetter
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import Engine, Row
from tests.pipeline import bronze
from tests.pipeline.bronze import Sent

Rows = list[str]

_KPIS = """(uniqExactMerge(orders), sum(gmv), sum(refunds), sum(purchases), sum(page_views), sum(add_to_carts),
    sum(events), uniqExactMerge(purchase_users), uniqExactMerge(view_users), uniqExactMerge(cart_users),
    uniqExactMerge(active_users))"""
# Each table as rows that can be compared between tenants. Their offsets in a commit differ.
_STORED = {
    "bronze": "SELECT * EXCEPT (tenant, offset) FROM bronze_events WHERE {mine}",
    "silver": "SELECT * EXCEPT (tenant, run), {run} FROM silver_events WHERE {mine}",
    "silver_ids": "SELECT event_id, {run} FROM silver_ids WHERE {mine}",
    "gold_kpis": f"""
        SELECT {{run}}, minute, site_id, currency, {_KPIS} FROM gold_kpis
        WHERE {{mine}} GROUP BY {{run}}, minute, site_id, currency
    """,
    "minutes": f"SELECT minute, {_KPIS} FROM gold_kpis WHERE {{mine}} GROUP BY minute",
    "gold_events": """
        SELECT {run}, minute, site_id, event_type, sum(events) FROM gold_events
        WHERE {mine} GROUP BY {run}, minute, site_id, event_type
    """,
    "gold_visits": """
        SELECT {run}, quarter, site_id, utm_source, utm_medium, utm_campaign, country, device, user_agent, currency,
            visitor, uniqExactMerge(orders), sum(gmv), sum(refunds), sum(purchases), sum(page_views),
            sum(add_to_carts), sum(events)
        FROM gold_visits WHERE {mine} GROUP BY ALL
    """,
}


def names_one(event: Sent, user: str) -> bool:
    """Whether the event is the user's."""
    return user in (event.user_id, event.visitor_id)


def without(events: Iterable[Sent], user: str, tenant: str) -> list[Sent]:
    """What a tenant has whom the user never came to."""
    return [replace(event, tenant=tenant) for event in events if not names_one(event, user)]


async def stored(engine: Engine, log: CommitLog, tenant: str, *, runs: bool = True) -> dict[str, Rows]:
    """All that the tables hold of a tenant, on disk; without `runs`, whatever run it is of. Sessions as readers see
    them."""
    run = "run" if runs else "toInt64(0)"
    found = {
        table: _sorted(await engine.rows(sql.format(mine=f"tenant = '{tenant}'", run=run)))
        for table, sql in _STORED.items()
    }
    found["sessions"] = _sorted(await sessions(engine, log, tenant))
    return found


async def sessions(engine: Engine, log: CommitLog, tenant: str) -> list[Row]:
    """The sessions as readers see them."""
    return await engine.rows(
        f"SELECT * EXCEPT (tenant, run) FROM {log.version.relation('sessions', repr(tenant))} ORDER BY actor"
    )


async def daily(engine: Engine, log: CommitLog, tenant: str) -> dict[tuple[str, str], tuple[int, str]]:
    """The newest metrics by day and site: their commit, and what they say."""
    rows = await engine.rows(f"SELECT * FROM {log.version.relation('daily_metrics', repr(tenant))}")
    return {
        (row["date"].isoformat(), row["site_id"]): (
            row["commit"],
            repr({name: value for name, value in row.items() if name not in ("tenant", "commit")}),
        )
        for row in rows
    }


def _sorted(rows: Sequence[Row]) -> Rows:
    return sorted(repr(sorted(row.items())) for row in rows)


async def mentions(engine: Engine, name: str) -> dict[str, int]:
    """Rows of any table with `name` anywhere in a text, a list or a map, by table and column."""
    columns = await engine.rows(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase()"
        " AND (type LIKE '%String%' OR type LIKE 'Array%' OR type LIKE 'Map%') AND type NOT LIKE 'AggregateFunction%'"
    )
    assert len(columns) > 50
    found = {}
    for column in columns:
        where = f"position(toString({column['name']}), '{name}') > 0"
        n = (await engine.rows(f"SELECT count() AS n FROM {column['table']} WHERE {where}"))[0]["n"]
        if n:
            found[f"{column['table']}.{column['name']}"] = n
    return found


def forgetter(
    engine: Engine, log: CommitLog, runner: PipelineRunner, settings: Settings, cleaner: Cleaner | None = None
) -> Forgetter:
    """One over open parts."""
    cleaner = cleaner or Cleaner(engine, log, runner, settings)
    return Forgetter(engine, log, runner, cleaner, DailyCalculator(engine, log, settings), settings)


_REJECTED = pa.schema(
    [
        *(("tenant", pa.string()), ("commit", pa.int64()), ("rejected_id", pa.string()), ("stream_id", pa.string())),
        *(("offset", pa.int64()), ("reason", pa.string()), ("message", pa.string()), ("raw", pa.binary())),
        *(("raw_format", pa.string()), ("ingest_time", pa.timestamp("us", "UTC"))),
    ]
)
_REPLAYS = pa.schema(
    [
        *(("tenant", pa.string()), ("commit", pa.int64()), ("rejected_id", pa.string())),
        ("time", pa.timestamp("us", "UTC")),
    ]
)


async def reject(
    engine: Engine, log: CommitLog, tenant: str, raws: Sequence[tuple[bytes, str]], *, replayed: bool = False
) -> list[str]:
    """Keeps rejected rows in a commit, as the committer does; their ids."""
    ids = [str(uuid.uuid4()) for _ in raws]
    async with log.transaction() as transaction:
        rows = [
            {"tenant": tenant, "commit": transaction.commit, "rejected_id": each, "stream_id": "", "offset": offset}
            | {"reason": "INVALID_PRICE", "message": "", "raw": raw, "raw_format": kind}
            | {"ingest_time": transaction.time}
            for offset, (each, (raw, kind)) in enumerate(zip(ids, raws, strict=True))
        ]
        await engine.insert_arrow("rejected_events", pa.Table.from_pylist(rows, _REJECTED))
        if replayed:
            again = [
                {"tenant": tenant, "commit": transaction.commit, "rejected_id": each, "time": transaction.time}
                for each in ids
            ]
            await engine.insert_arrow("rejected_replays", pa.Table.from_pylist(again, _REPLAYS))
        advance = Advance(tenant, "", 0, len(rows), 0, len(rows))
        await transaction.append(Entry("append", rejected=len(rows), streams=[advance]))
    return ids


async def rejected_ids(engine: Engine, tenant: str, table: str = "rejected_events") -> set[str]:
    """Those that are kept."""
    rows = await engine.rows(f"SELECT rejected_id FROM {table} WHERE tenant = '{tenant}'")
    return {str(row["rejected_id"]) for row in rows}


async def cost(engine: Engine, tenant: str, sql: str) -> None:
    """Records what a statement cost."""
    await engine.execute(
        "INSERT INTO query_costs (tenant, time, query_id, sql)"
        " VALUES ({tenant:String}, now64(6) - INTERVAL 1 SECOND, generateUUIDv4(), {sql:String})",
        {"tenant": tenant, "sql": sql},
    )


async def commit_for(engine: Engine, log: CommitLog, events: Sequence[Sent], user: str) -> None:
    """One commit: the events for `default` and likewise `other`, and for `shadow`, where the user never came."""
    copies = [*events, *(replace(event, tenant="other") for event in events), *without(events, user, "shadow")]
    await bronze.commit(engine, log, copies)
