"""Whose a row of the commit log is, and how many rows of each tenant are in it.

The log is of all tenants, and nothing but its numbers may show one of them what another does. A commit of events says
of each stream how many rows it took; a run says in the same place how many rows of silver it made of each tenant's.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from penstock.rpc.principal import DEFAULT_TENANT
from penstock.storage.commit_log import Advance
from penstock.storage.engine import Engine

Counts: TypeAlias = Mapping[str, int]  # rows, by tenant

# A run of a server that knew one tenant does not say whose it is.
_OF_BEFORE = f"(empty(streams.tenant) AND {{tenant:String}} = '{DEFAULT_TENANT}')"
# SQL that holds for runs that read rows of the tenant, and for those that changed silver and gold of it.
RAN = f"operation = 'etl' AND run > 0 AND (has(streams.tenant, {{tenant:String}}) OR {_OF_BEFORE})"
CHANGED = (
    "operation = 'etl' AND run > 0 AND rows > 0"
    " AND (arrayExists((whose, taken) -> whose = {tenant:String} AND taken > 0, streams.tenant, streams.accepted)"
    f" OR {_OF_BEFORE})"
)
# SQL that holds for commits that took events of the tenant.
APPENDED = (
    "operation = 'append' AND rows > 0 AND has(streams.tenant, {tenant:String})"
    " AND arrayExists((whose, taken) -> whose = {tenant:String} AND taken > 0, streams.tenant, streams.accepted)"
)
# SQL that holds for rows of the log that are about the tenant in any way. What says of nobody whose it is, such as a
# note of where streams stand, is the matter of whoever runs the server.
CONCERNS = f"""(
    has(streams.tenant, {{tenant:String}}) OR JSONExtractString(detail, 'tenant') = {{tenant:String}}
    OR ({_OF_BEFORE} AND NOT JSONHas(detail, 'tenant'))
)"""
# SQL: silver rows of a run, by tenant, for `by_tenant`.
MADE = f"""sumMap(
    if(empty(streams.tenant), ['{DEFAULT_TENANT}'], streams.tenant),
    if(empty(streams.tenant), [rows], streams.accepted)
)"""

# Read back from the commit: what last concerned a tenant that is in use is not far from there.
_LAST = f"""
SELECT commit, toUnixTimestamp64Micro(time) AS micros
FROM commits
WHERE commit <= {{upto:Int64}} AND {CONCERNS}
ORDER BY commit DESC
LIMIT 1
"""
_EPOCH = datetime.fromtimestamp(0, UTC)


async def last_of(engine: Engine, tenant: str, upto: int) -> tuple[int, datetime] | None:
    """The newest commit up to `upto` that concerns the tenant, and its time; None without one.

    Commits between are others' matter, and the tenant's tables are as it left them.
    """
    found = await engine.rows(_LAST, {"tenant": tenant, "upto": upto})
    return (int(found[0]["commit"]), _EPOCH + timedelta(microseconds=int(found[0]["micros"]))) if found else None


def by_tenant(summed: tuple[Sequence[str], Sequence[int]]) -> dict[str, int]:
    """What ClickHouse's sumMap gave of tenants and their rows."""
    tenants, rows = summed
    return dict(zip(tenants, map(int, rows), strict=True))


def streams_of(rows: Counts) -> list[Advance]:
    """What the log says of a run's rows."""
    return [Advance(tenant, "", 0, count, count, 0) for tenant, count in rows.items()]
