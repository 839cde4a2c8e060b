"""How long events took from when they happened to when they were stored.

Read from bronze, by the minute of storing. The commit log says which commits the newest minutes hold, so only their
rows are read, however much there is.

The lag is what it is: an event of 2011 that is replayed today is fifteen years late, and a minute of such events is
critical. So each minute also says what share of its events came more than a day late, which a slow pipeline does not
make but a replay does. An event without a time of its own happened when it was stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template

from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row

# By the 95th percentile, in seconds: below it.
STATUSES = ((5.0, "excellent"), (15.0, "good"), (30.0, "warning"))
BACKFILL_SECONDS = 86_400

# Reads back from the head, and no further than the minutes reach.
_MINUTES = """
SELECT toStartOfMinute(time) AS minute, commit
FROM commits
WHERE commit <= {head:Int64} AND operation = 'append' AND has(streams.tenant, {tenant:String})
ORDER BY commit DESC
LIMIT 1 BY minute
LIMIT {minutes:UInt32}
"""

# As a double, because the engine adds up integers first and divides once, and years in microseconds overflow Int64.
LAG = "toFloat64(greatest(0, dateDiff('microsecond', {table}event_time, {table}ingest_time))) / 1e6"

# DDSketch (Masson, Rim, Lee 2019): each quantile is within 0.5 % of the exact one, in kilobytes a minute however many
# events it has, and minutes merge to the total in the same pass. Over 5 million events it took as long as the exact
# quantiles, which hold all of them in memory.
_LAGS = Template(f"""
SELECT
    grouping(minute) AS is_total,
    toUnixTimestamp(toStartOfMinute(bronze.ingest_time)) AS minute,
    count() AS events,
    avg({LAG.format(table="bronze.")}) AS mean,
    quantilesDD(0.005, 0.5, 0.95, 0.99)({LAG.format(table="bronze.")}) AS quantiles,
    countIf(bronze.event_time < bronze.ingest_time - INTERVAL {BACKFILL_SECONDS} SECOND) AS backfilled
FROM bronze_events AS bronze
WHERE bronze.tenant = {{tenant:String}} AND $visible AND bronze.commit > {{since:Int64}}
    AND ({{site_id:String}} = '' OR bronze.site_id = {{site_id:String}})
GROUP BY minute WITH ROLLUP
HAVING events > 0
ORDER BY is_total, minute
""")


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of some events, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    events: int
    backfilled_share: float  # of the events, those more than a day behind when they were stored

    @property
    def status(self) -> str:
        """What is to be thought of it."""
        return next((status for below, status in STATUSES if self.p95 < below), "critical")


@dataclass(frozen=True, slots=True)
class Latency:
    """Minutes in which events were stored, oldest first, and all of them together."""

    minutes: Sequence[tuple[datetime, Lag]]
    total: Lag | None
    reason: str  # why there are none; empty when there are


class LatencyReader:
    """Reads latency; raises Unavailable, TimedOut or Overloaded."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log

    async def latency(self, tenant: str, site_id: str, limit: int) -> Latency:
        """The newest `limit` minutes in which events of the tenant were stored.

        With a site, those of them that have events of it.
        """
        version = self._log.version
        # One more than asked for: its last commit is where the oldest minute begins.
        newest = await self._engine.rows(_MINUTES, {"tenant": tenant, "head": version.commit, "minutes": limit + 1})
        if not newest:
            return Latency([], None, "no events yet")
        since = newest[limit]["commit"] if len(newest) > limit else 0
        rows = await self._engine.rows(
            _LAGS.substitute(visible=version.visible("bronze_events", "bronze")),
            {"tenant": tenant, "site_id": site_id, "since": since},
        )
        if not rows:
            return Latency([], None, "no events of this site in these minutes" if site_id else "no events are left")
        *minutes, total = rows
        return Latency([(datetime.fromtimestamp(row["minute"], UTC), _lag(row)) for row in minutes], _lag(total), "")


def _lag(row: Row) -> Lag:
    p50, p95, p99 = row["quantiles"]
    return Lag(row["mean"], p50, p95, p99, row["events"], row["backfilled"] / row["events"])
