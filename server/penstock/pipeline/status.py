"""How the pipeline stands, and the sessions that it made last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template

from penstock.pipeline import runs
from penstock.pipeline.cleanup import Cleaner
from penstock.pipeline.lag import Lag
from penstock.pipeline.purge import Progress
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.runs import Rate, Run
from penstock.pipeline.silver import CANONICAL_TYPE
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row

TABLES = (
    *("bronze_events", "rejected_events", "silver_events", "sessions"),
    *("gold_kpis", "gold_events", "gold_visits", "daily_metrics"),
)

# Both read back from where they may be: a tenant that sends has its newest commit near there.
_NEWEST = """
SELECT commit
FROM commits
WHERE operation = 'append' AND commit <= {upto:Int64} AND has(streams.tenant, {tenant:String})
ORDER BY commit DESC
LIMIT 1
"""

# Silver rows of commits that are not in gold are of runs that did one type ahead, and so of runs behind the last full
# one: a full run's log row ends at or behind the commit where it begins, the row of one type does not.
_UNPROCESSED = f"""
SELECT {CANONICAL_TYPE} AS type, count() AS n
FROM bronze_events
WHERE tenant = {{tenant:String}} AND commit > {{processed:Int64}} AND commit <= {{head:Int64}}
    AND event_id NOT IN
    (
        SELECT event_id
        FROM silver_events
        WHERE tenant = {{tenant:String}} AND run <= {{run:Int64}} AND run >
        (
            SELECT max(commits.run) FROM commits WHERE operation = 'etl' AND last_commit >= first_commit
        )
    )
GROUP BY type
ORDER BY type
"""

_ROWS = Template("SELECT '$table' AS name, count() AS n FROM $table WHERE tenant = {tenant:String} AND $visible")

_BYTES = """
SELECT replaceRegexpOne(table, '_local$', '') AS name, sum(bytes_on_disk) AS bytes
FROM system.parts
WHERE active AND database = currentDatabase()
GROUP BY name
"""

# The newest row of a session ends last among its rows, and of rows that end together has the highest run; so reading
# back from the latest end meets each session's newest row first. A read of the end times alone finds out how far back
# is far enough, and the wide columns are read only from there.
_RECENT_SESSIONS = Template("""
SELECT *
FROM
(
    SELECT
        actor, session_id, site_id, visitor, start_time, end_time, page_views, events, landing_page, exit_page,
        utm_source, utm_medium, utm_campaign, converted, deleted
    FROM sessions
    WHERE tenant = {tenant:String} AND $visible AND end_time >=
    (
        SELECT min(end_time)
        FROM
        (
            SELECT end_time
            FROM sessions
            WHERE tenant = {tenant:String} AND $visible
                AND ({site_id:String} = '' OR site_id = {site_id:String})
            ORDER BY end_time DESC
            LIMIT {rows:UInt64}
        )
    )
    ORDER BY end_time DESC, run DESC
    LIMIT 1 BY actor, session_id
)
WHERE NOT deleted AND ({site_id:String} = '' OR site_id = {site_id:String})
ORDER BY end_time DESC, session_id, actor
LIMIT {limit:UInt32}
""")
_ROWS_A_SESSION = 50  # how many rows of sessions to go back for each that is asked for, at first
_ALL_ROWS = 2**62


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as of gold."""

    session_id: str
    site_id: str
    visitor: str
    start_time: datetime
    end_time: datetime
    page_views: int
    events: int
    landing_page: str
    exit_page: str
    source: str
    medium: str
    campaign: str
    converted: bool


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is."""

    name: str
    rows: int  # of the tenant, as readers see them
    bytes: int  # of all tenants, on disk; known to the tenant that runs the server, 0 to others


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """How the pipeline stands with the events of one tenant."""

    last_commit: int  # of the tenant's
    processed_commit: int  # likewise, the newest that is in gold
    lag: Lag
    unprocessed: Mapping[str, int]  # rows not in silver, by canonical type
    rates: Sequence[Rate]
    tables: Sequence[TableSize]
    current_run: Run | None
    recent_runs: Sequence[Run]
    current_cleanup: Progress | None


class StatusReader:
    """Reads how the pipeline stands."""

    def __init__(self, engine: Engine, log: CommitLog, runner: PipelineRunner, cleaner: Cleaner) -> None:
        self._engine = engine
        self._log = log
        self._runner = runner
        self._cleaner = cleaner

    async def read(self, tenant: str, run_limit: int) -> PipelineStatus:
        """All of it, with the last `run_limit` runs."""
        processed, head = self._log.gold.last_commit, self._log.last_append
        last = await runs.recent(self._engine, tenant, run_limit)
        cleanup = self._cleaner.progress
        return PipelineStatus(
            last_commit=await self._newest(tenant, head),
            processed_commit=await self._newest(tenant, processed),
            lag=await self._runner.lag(tenant),
            unprocessed=await self._unprocessed(tenant),
            rates=runs.rates(last),
            tables=await self._tables(tenant),
            current_run=self._runner.current(tenant),
            recent_runs=last,
            current_cleanup=cleanup if cleanup is not None and cleanup.tenant == tenant else None,
        )

    async def recent_sessions(self, tenant: str, limit: int, site_id: str) -> list[Session]:
        """The sessions that ended last, newest first; of one site when `site_id` is given."""
        sql = _RECENT_SESSIONS.substitute(visible=self._log.version.visible("sessions"))
        parameters = {"tenant": tenant, "site_id": site_id, "limit": limit}
        found = await self._engine.rows(sql, {**parameters, "rows": limit * _ROWS_A_SESSION})
        if len(found) < limit:
            found = await self._engine.rows(sql, {**parameters, "rows": _ALL_ROWS})
        return [_session(row) for row in found]

    async def _newest(self, tenant: str, upto: int) -> int:
        """The tenant's newest commit of events up to `upto`; 0 without one."""
        found = await self._engine.rows(_NEWEST, {"tenant": tenant, "upto": upto})
        return int(found[0]["commit"]) if found else 0

    async def _unprocessed(self, tenant: str) -> dict[str, int]:
        gold, head = self._log.gold, self._log.last_append
        if head <= gold.last_commit:
            return {}
        found = await self._engine.rows(
            _UNPROCESSED, {"tenant": tenant, "processed": gold.last_commit, "head": head, "run": gold.run}
        )
        return {row["type"]: int(row["n"]) for row in found}

    async def _tables(self, tenant: str) -> list[TableSize]:
        version = self._log.version
        counts = (_ROWS.substitute(table=table, visible=version.visible(table)) for table in TABLES)
        found = await self._engine.rows("\nUNION ALL\n".join(counts), {"tenant": tenant})
        rows = {row["name"]: int(row["n"]) for row in found}
        sizes: dict[str, int] = {}
        if tenant == DEFAULT_TENANT:
            sizes = {row["name"]: int(row["bytes"]) for row in await self._engine.rows(_BYTES)}
        return [TableSize(name, rows[name], sizes.get(name, 0)) for name in TABLES]


def _session(row: Row) -> Session:
    return Session(
        session_id=row["session_id"],
        site_id=row["site_id"],
        visitor=row["visitor"],
        start_time=row["start_time"].replace(tzinfo=UTC),
        end_time=row["end_time"].replace(tzinfo=UTC),
        page_views=row["page_views"],
        events=row["events"],
        landing_page=row["landing_page"],
        exit_page=row["exit_page"],
        source=row["utm_source"],
        medium=row["utm_medium"],
        campaign=row["utm_campaign"],
        converted=bool(row["converted"]),
    )
