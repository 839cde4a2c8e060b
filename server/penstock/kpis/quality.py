"""Whether the data can be trusted: what was received in a window, checked, and graded.

One statement over bronze counts for all checks of rows at once; the others are a statement each, beside it. The commit
log says where the window begins, so no older rows are read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from string import Template

from penstock.kpis.latency import LAG
from penstock.kpis.quality_checks import (
    DUPLICATES,
    FRESHNESS,
    INGESTION_LAG,
    LIVE,
    PIPELINE_LAG,
    REJECTED,
    ROW_CHECKS,
    Check,
    Dimension,
    RowCheck,
)
from penstock.kpis.windows import Freshness
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Gold, Version

GRADES = "ABCDEF"
# Stored as sent, and page views all the same.
ALIASES = ("pageview", "view")

_SINCE = """
SELECT commit
FROM commits
WHERE commit <= {head:Int64} AND time < {since:DateTime64(6, 'UTC')}
ORDER BY commit DESC
LIMIT 1
"""
_COUNTS = ",\n    ".join(
    f"countIf({each.of}) AS of_{number},\n    countIf(({each.of}) AND ({each.fault})) AS fault_{number}"
    for number, each in enumerate(ROW_CHECKS)
)
_ROWS = Template(f"""
SELECT
    count() AS events,
    countIf(commit <= {{processed:Int64}}) AS processed,
    toUnixTimestamp64Micro(max(ingest_time)) AS newest,
    quantileDDIf(0.005, 0.95)({LAG.format(table="")}, {LIVE}) AS lag_p95,
    countIf({LIVE}) AS live,
    {_COUNTS}
FROM bronze_events
WHERE tenant = {{tenant:String}} AND $visible AND commit > {{since:Int64}}
    AND ({{site_id:String}} = '' OR site_id = {{site_id:String}})
""")
_KEPT = Template("""
SELECT count() AS rows
FROM silver_events
WHERE tenant = {tenant:String} AND $visible AND commit > {since:Int64} AND commit <= {processed:Int64}
    AND ({site_id:String} = '' OR site_id = {site_id:String})
""")
_REJECTED = Template("""
SELECT reason, count() AS rows
FROM rejected_events
WHERE tenant = {tenant:String} AND $rejected AND commit > {since:Int64}
GROUP BY reason
UNION ALL
SELECT '' AS reason, count() AS rows
FROM bronze_events
WHERE tenant = {tenant:String} AND $bronze AND commit > {since:Int64}
""")
_NEWEST = Template("""
SELECT toUnixTimestamp64Micro(ingest_time) AS newest
FROM bronze_events
WHERE tenant = {tenant:String} AND $visible AND ({site_id:String} = '' OR site_id = {site_id:String})
ORDER BY commit DESC
LIMIT 1
""")


class Status(StrEnum):
    """What is to be thought of a measurement."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


_LOSS = {Status.UNKNOWN: 0, Status.OK: 0, Status.WARNING: 1, Status.FAILED: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check measured."""

    check: Check
    value: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class Quality:
    """All findings and the grade that they come to."""

    findings: Mapping[Dimension, Sequence[Finding]]
    events: int
    reason: str  # why nothing could be checked; empty otherwise

    def status(self, dimension: Dimension) -> Status:
        """The worst of its checks, of those that could be made."""
        known = [each.status for each in self.findings[dimension] if each.status is not Status.UNKNOWN]
        return max(known, key=_LOSS.__getitem__, default=Status.UNKNOWN)

    @property
    def grade(self) -> str:
        """A, less a grade for each dimension with a warning and two for each that failed; empty without events."""
        if not self.events:
            return ""
        loss = sum(_LOSS[self.status(dimension)] for dimension in Dimension)
        return GRADES[min(loss, len(GRADES) - 1)]


class QualityReader:
    """Checks data; raises Unavailable, TimedOut or Overloaded."""

    def __init__(
        self,
        engine: Engine,
        log: CommitLog,
        settings: Settings,
        freshness: Callable[[str, Gold], Awaitable[Freshness]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`freshness` tells how far gold is behind with a tenant's events."""
        self._engine = engine
        self._log = log
        self._freshness = freshness
        self._clock = clock
        self._bounds = {
            "price_min": settings.dq_price_min,
            "price_max": settings.dq_price_max,
            "event_types": [*settings.dq_event_types, *ALIASES],
            "currency": settings.currency,
        }

    async def quality(self, tenant: str, site_id: str, window: timedelta) -> Quality:
        """The state of what was stored in the `window` up to now."""
        version = self._log.version
        started = datetime.fromtimestamp(self._clock(), UTC) - window
        since = await self._engine.rows(
            _SINCE, {"head": version.commit, "since": started.strftime("%Y-%m-%d %H:%M:%S.%f")}
        )
        scope = {"tenant": tenant, "site_id": site_id, "since": since[0]["commit"] if since else 0}
        processed = {**scope, "processed": version.gold.last_commit}
        counted, kept, rejected, freshness = await asyncio.gather(
            self._engine.rows(
                _ROWS.substitute(visible=version.visible("bronze_events")), {**self._bounds, **processed}
            ),
            self._engine.rows(_KEPT.substitute(visible=version.visible("silver_events")), processed),
            self._engine.rows(
                _REJECTED.substitute(
                    rejected=version.visible("rejected_events"), bronze=version.visible("bronze_events")
                ),
                scope,
            ),
            self._freshness(tenant, version.gold),
        )
        row = counted[0]
        newest = row["newest"] if row["events"] else await self._newest(version, scope)
        findings = [
            *(
                _row_finding(each, row[f"of_{number}"], row[f"fault_{number}"])
                for number, each in enumerate(ROW_CHECKS)
            ),
            finding(FRESHNESS, None if newest is None else max(0.0, self._clock() - newest / 1e6) / 60),
            finding(INGESTION_LAG, row["lag_p95"] if row["live"] else None),
            finding(PIPELINE_LAG, None if newest is None else freshness.lag_seconds),
            finding(DUPLICATES, max(0.0, 1 - kept[0]["rows"] / row["processed"]) if row["processed"] else None),
            *_rejected(rejected),
        ]
        by_dimension = {each: [f for f in findings if f.check.dimension is each] for each in Dimension}
        return Quality(by_dimension, row["events"], "" if row["events"] else _reason(site_id, newest))

    async def _newest(self, version: Version, scope: Mapping[str, object]) -> int | None:
        """When the newest event of all was stored: a source that fell silent before the window must show."""
        sql = _NEWEST.substitute(visible=version.visible("bronze_events"))
        found = await self._engine.rows(sql, dict(scope))
        return found[0]["newest"] if found else None


def finding(check: Check, value: float | None) -> Finding:
    """What a value means."""
    if value is None:
        return Finding(check, None, Status.UNKNOWN)
    status = Status.FAILED if value > check.critical else Status.WARNING if value > check.warning else Status.OK
    return Finding(check, value, status)


def _row_finding(each: RowCheck, rows: int, faulty: int) -> Finding:
    if not rows:
        return finding(each.check, None)
    if each.optional and faulty == rows:
        return Finding(each.check, 1.0, Status.UNKNOWN)
    return finding(each.check, faulty / rows)


def _rejected(rows: Sequence[Row]) -> list[Finding]:
    """The share of all that was received, and of that what each reason took, the commonest first."""
    by_reason = {row["reason"]: row["rows"] for row in rows}
    accepted = by_reason.pop("")
    rejected = sum(by_reason.values())
    received = accepted + rejected
    if not received:
        return [finding(REJECTED, None)]
    ordered = sorted(by_reason.items(), key=lambda each: (-each[1], each[0]))
    return [
        finding(REJECTED, rejected / received),
        *(finding(replace(REJECTED, field=reason), count / received) for reason, count in ordered),
    ]


def _reason(site_id: str, newest: int | None) -> str:
    if newest is not None:
        return "no events were stored in the window"
    return "no events of this site yet" if site_id else "no events yet"
