"""Reads committed events back: lists and counts."""

from dataclasses import dataclass, replace
from datetime import datetime
from string import Template

from penstock import limits
from penstock.errors import invalid_field
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row

# Silver has its own copy of this rule, in its own statement: bronze keeps the type as it came.
_AS_SENT = "bronze_events.event_type"
CANONICAL_TYPE = f"if({_AS_SENT} IN ('pageview', 'view'), 'page_view', {_AS_SENT})"
COLUMNS = f"""
commit, stream_id, offset, event_id, {CANONICAL_TYPE} AS event_type, event_time, user_id, visitor_id, session_id,
site_id, product_id, order_id, price, quantity, currency, url, path, referrer, utm_source, utm_medium, utm_campaign,
utm_term, utm_content, properties, ingest_time, client_address, user_agent
"""
_FILTER = f"""
    ({{event_type:String}} = '' OR {CANONICAL_TYPE} = {{event_type:String}})
    AND ({{site_id:String}} = '' OR site_id = {{site_id:String}})
    AND ({{session_id:String}} = '' OR session_id = {{session_id:String}})
    AND ({{user_id:String}} = '' OR user_id = {{user_id:String}})
"""
# Behind the last row of the page before, in the order of the page; the first page begins behind nothing.
_LIST = Template(f"""
SELECT {COLUMNS}
FROM bronze_events
WHERE tenant = {{tenant:String}} AND $visible
    AND (commit < {{last_commit:Int64}}
        OR (commit = {{last_commit:Int64}} AND (stream_id, offset) > ({{last_stream:String}}, {{last_offset:Int64}})))
    AND {_FILTER}
ORDER BY commit DESC, stream_id, offset
LIMIT {{limit:UInt32}}
""")
_COUNT = Template(f"""
SELECT {CANONICAL_TYPE} AS type, count() AS events
FROM bronze_events
WHERE tenant = {{tenant:String}} AND $visible AND {_FILTER}
    AND event_time >= fromUnixTimestamp64Micro({{start:Int64}}) AND event_time < fromUnixTimestamp64Micro({{end:Int64}})
GROUP BY type
""")
_END_OF_TIME = 9_000_000_000_000_000  # microseconds; the engine's DateTime64 ends in 2299


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; an empty text asks for no particular one."""

    event_type: str = ""
    site_id: str = ""
    session_id: str = ""
    user_id: str = ""

    def parameters(self) -> dict[str, str]:
        """For the statements."""
        return {name: getattr(self, name) for name in ("event_type", "site_id", "session_id", "user_id")}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of bronze, newest commit first, and where the next page begins; empty at the end."""

    rows: list[Row]
    next_token: str


class EventReader:
    """Reads bronze as of the newest commit."""

    def __init__(self, engine: Engine, commit_log: CommitLog) -> None:
        self._engine = engine
        self._log = commit_log

    async def page(self, tenant: str, which: Filter, size: int, page_token: str) -> Page:
        """A page of at most `size` rows. Raises InvalidInput for a token that is not ours."""
        size = size or limits.PAGE_ROWS_DEFAULT
        commit = self._log.head
        last: list[int | str] = [commit + 1, "", -1]
        if page_token:
            wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
            commit_then, *last = values_of(tenant, "events", page_token, (int, int, str, int), wrong)
            commit = int(commit_then)
        # Later pages keep to the commit of the first, less what was removed meanwhile.
        visible = replace(self._log.version, commit=commit).visible("bronze_events")
        rows = await self._engine.rows(
            _LIST.substitute(visible=visible),
            {
                "tenant": tenant,
                "last_commit": last[0],
                "last_stream": last[1],
                "last_offset": last[2],
                "limit": size + 1,
                **which.parameters(),
            },
        )
        if len(rows) <= size:
            return Page(rows, "")
        end = rows[size - 1]
        return Page(rows[:size], token(tenant, "events", [commit, end["commit"], end["stream_id"], end["offset"]]))

    async def counts(
        self, tenant: str, which: Filter, start: datetime | None, end: datetime | None
    ) -> tuple[dict[str, int], int]:
        """Events by type in start <= time < end, and the commit up to which was counted."""
        version = self._log.version
        parameters = {
            "tenant": tenant,
            "start": int(start.timestamp() * 1e6) if start else 0,
            "end": int(end.timestamp() * 1e6) if end else _END_OF_TIME,
            **which.parameters(),
        }
        rows = await self._engine.rows(_COUNT.substitute(visible=version.visible("bronze_events")), parameters)
        return {row["type"]: int(row["events"]) for row in rows}, version.commit
