"""The versions of a table: which commits changed it, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock import limits
from penstock.errors import invalid_field
from penstock.pipeline.runs import Trigger
from penstock.pipeline.tenants import APPENDED, CHANGED, RAN
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.removals import parsed

_REMOVED = (
    "operation IN ('cleanup', 'forgotten') AND JSONExtractString(detail, 'tenant') = {{tenant:String}}"
    " AND JSONExtractUInt(detail, 'removed', '{table}') > 0"
)
# A run that found nothing but duplicates changes nothing; one of sessions counts no rows.
_SESSIONS = f"{RAN} AND position(detail, '\"sessions\"') > 0"
_DAY = "operation = 'daily' AND JSONExtractString(detail, 'tenant') = {tenant:String}"
_CHANGES: Mapping[str, tuple[str, str]] = {
    "bronze": (APPENDED, "bronze_events"),
    "silver": (CHANGED, "silver_events"),
    "gold": (CHANGED, "gold_kpis"),
    "sessions": (_SESSIONS, "sessions"),
    "daily": (_DAY, "daily_metrics"),
}
_PAGE = """
SELECT commit, time, operation, run, first_commit, last_commit, rows, rejected, detail,
    arrayFilter(s -> s.1 = {{tenant:String}},
        arrayZip(streams.tenant, streams.stream_id, streams.accepted, streams.rejected)) AS mine
FROM commits
WHERE commit < {{before:Int64}} AND commit >= {{oldest:Int64}} AND (({made}) OR ({removed}))
ORDER BY commit DESC
LIMIT {{limit:UInt32}}
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """How far a commit moved one stream."""

    stream_id: str
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Change:
    """One version of a table, as far as it is the tenant's."""

    version: int
    time: datetime
    operation: str
    rows: int  # added, or of a cleanup or a forgetting removed
    rejected: int
    run: int
    first_commit: int
    last_commit: int
    streams: Sequence[Moved]
    trigger: Trigger | None
    event_type: str
    cutoff: datetime | None
    date: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Versions, newest first; with an empty token the last."""

    changes: Sequence[Change]
    current: int
    oldest: int
    next_token: str


class HistoryReader:
    """Reads the commit log for people."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log

    async def page(self, tenant: str, table: str, *, limit: int = 0, page_token: str = "") -> HistoryPage:
        """Versions that changed a table. Raises InvalidInput for a token that is not ours."""
        size = limit or limits.PAGE_ROWS_DEFAULT
        before = self._log.head + 1
        if page_token:
            wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
            before = int(values_of(tenant, f"history:{table}", page_token, (int,), wrong)[0])
        oldest = self._log.oldest_version(tenant)
        made, stored = _CHANGES[table]
        rows = await self._engine.rows(
            _PAGE.format(made=made, removed=_REMOVED.format(table=stored)),
            {"tenant": tenant, "before": before, "oldest": oldest, "limit": size + 1},
        )
        next_token = token(tenant, f"history:{table}", [rows[size - 1]["commit"]]) if len(rows) > size else ""
        changes = [_change(row, stored, tenant) for row in rows[:size]]
        return HistoryPage(changes, self._log.head, oldest, next_token)


def _change(row: Row, stored: str, tenant: str) -> Change:
    detail: dict[str, Any] = parsed(row["detail"])
    streams = [Moved(stream_id, accepted, rejected) for _, stream_id, accepted, rejected in row["mine"]]
    rows, rejected = row["rows"], row["rejected"]
    if streams:  # of this tenant alone
        rows, rejected = sum(s.accepted for s in streams), sum(s.rejected for s in streams)
    if row["operation"] in ("cleanup", "forgotten"):
        rows = detail["removed"][stored]
    # A run of one type notes where the next full run begins; how far it came itself stands beside it.
    last_commit = detail["through"] if row["operation"] == "etl" and "through" in detail else row["last_commit"]
    reads = last_commit >= row["first_commit"]
    cutoff = detail.get("cutoff")
    return Change(
        version=row["commit"],
        time=row["time"].replace(tzinfo=UTC),
        operation=row["operation"],
        rows=rows,
        rejected=rejected,
        run=row["run"],
        first_commit=row["first_commit"] if reads else 0,
        last_commit=last_commit if reads else 0,
        streams=streams if row["operation"] == "append" else [],
        trigger=_trigger(detail, tenant),
        event_type=detail.get("event_type", ""),
        cutoff=datetime.strptime(cutoff, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if cutoff else None,
        date=detail.get("date", ""),
    )


def _trigger(detail: dict[str, Any], tenant: str) -> Trigger | None:
    """Who asked for a run: of another tenant's calls nobody is told, and its runs come as by themselves."""
    if "trigger" not in detail:
        return None
    called = Trigger(detail["trigger"]) is Trigger.CALL and detail.get("caller", DEFAULT_TENANT) == tenant
    return Trigger.CALL if called else Trigger.LOOP
