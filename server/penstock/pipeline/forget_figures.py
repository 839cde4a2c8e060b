"""What events made, made anew without those of a user who is forgotten.

All of it is done while the user's rows of silver and sessions are still there, because they tell what is concerned; so
it may break off anywhere and be done again from the beginning. Rows keep the numbers of their runs: a version from
before shows what it would have shown had the user never been there. Two things are different there: a session that the
user shared with others is shown from the run of its last event on, and an event that had been taken for a duplicate of
one of the user's comes like a late one, with the run that the forgetting makes and the sessions that are made next.

What outlives its events stays as it is, because nothing is left to compute it from: KPI minutes that a cleanup kept as
aggregates, and daily metrics of days that lost events to a cleanup. They are sums and counts. (Sets of users in those
minutes hold hashes of 128 bits.) A session that began before a cleanup's bound and was shared begins with what is left.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day

from penstock import limits
from penstock.pipeline import gold, sessions, silver, visits
from penstock.pipeline.batch import Batch
from penstock.pipeline.cleanup import cleaned_before
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.person import Forgetting
from penstock.pipeline.runs import Trigger
from penstock.pipeline.sessionizer import last_done
from penstock.pipeline.tenants import streams_of
from penstock.pipeline.versions import Versions
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane

HOUR = timedelta(hours=1)

# A rollup's table, the column of its windows, the function that makes them, and what writes it.
_Rebuild = Callable[[Engine, str], Awaitable[None]]
_ROLLUPS: tuple[tuple[str, str, str, _Rebuild], ...] = (
    ("gold_kpis", "minute", "toStartOfMinute", gold.rebuild_kpis),
    ("gold_events", "minute", "toStartOfMinute", gold.rebuild_events),
    ("gold_visits", "quarter", "toStartOfFifteenMinutes", visits.rebuild),
)

_HOURS = (
    "SELECT toStartOfHour(event_time) AS hour, count() AS n FROM silver_events WHERE {rows} GROUP BY hour ORDER BY hour"
)

# Days whose metrics the user's events had a part in: their own, and those on which a session begins that they are no
# longer in. Behind an event that goes, what follows within the silence becomes a session of its own.
_DAYS = """
WITH
    days AS
    (
        SELECT DISTINCT arrayJoin([toDate(event_time), toDate(addSeconds(event_time, {silence}))]) AS day
        FROM silver_events
        WHERE {events}
    ),
    shared AS (SELECT actor, start_time, end_time FROM sessions WHERE {mine} AND actor IN ({actors}))
SELECT DISTINCT date
FROM daily_metrics
WHERE {mine} AND date IN
(
    SELECT day FROM days
    UNION ALL
    SELECT toDate(start_time) FROM sessions WHERE {sessions}
    UNION ALL
    SELECT toDate(start_time) FROM shared WHERE startsWith(actor, 's:')
    UNION ALL
    SELECT toDate(start_time)
    FROM
    (
        SELECT
            start_time,
            toUInt32(toDate(start_time)) AS first,
            toUInt32(toDate(addSeconds(end_time, {silence}))) AS last,
            arrayJoin(range(first, last + 1)) AS near
        FROM shared
        WHERE startsWith(actor, 'v:')
    )
    WHERE near IN (SELECT toUInt32(day) FROM days)
)
ORDER BY date
"""


async def rebuild_gold(engine: Engine, forgetting: Forgetting) -> None:
    """Rollups, of the runs and windows that the user's events are in.

    Between the deletion of a table's rows and their coming again, the time of two statements as a rule, readers see
    those windows without them.
    """
    for table, column, window, rebuild in _ROLLUPS:
        touched = f"SELECT DISTINCT run, {window}(event_time) FROM silver_events WHERE {forgetting.events}"
        rows = f"{forgetting.other_events} AND (run, {window}(event_time)) IN ({touched})"
        spans = await _spans(engine, rows)
        condition = f"{forgetting.mine} AND (run, {column}) IN ({touched})"
        if table == "gold_visits":  # where a cleanup kept aggregates, it alone still tells visitors apart
            condition = f"({condition}) OR {forgetting.visits}"
        await delete_found(engine, table, condition)
        for start, end in spans:
            await rebuild(engine, f"{rows} AND event_time >= {_moment(start)} AND event_time < {_moment(end)}")


async def rebuild_sessions(engine: Engine, log: CommitLog, forgetting: Forgetting) -> None:
    """Sessions of all whose events the user's are, but for the rows that name the user: they tell whose those are."""
    shared = f"{forgetting.mine} AND actor IN ({_actors(forgetting)}) AND NOT {forgetting.sessions}"
    await delete_found(engine, "sessions", shared)
    through = await last_done(engine)
    rows = f"{forgetting.other_events} AND {sessions.ACTOR} IN ({_actors(forgetting)})"
    total = await count(engine, "silver_events", f"{rows} AND run <= {through}")
    parts = -(-total // limits.PIPELINE_BATCH_ROWS)
    for part in range(parts):
        await sessions.rebuild(engine, log.version, rows, through=through, part=part, parts=parts)


async def process_again(
    engine: Engine, log: CommitLog, versions: Versions, forgetting: Forgetting, currency: str
) -> None:
    """Events that were taken for duplicates of the user's, and are none without those: a run of their own."""
    version = versions.next()
    last_commit = log.gold.last_commit
    batch = Batch(version.run, last_commit, last_commit + 1, last_commit, 0)
    made = await silver.build_again(
        engine,
        batch,
        currency,
        going=forgetting.events,
        staying=forgetting.other_events,
        rows=f"{log.version.visible('bronze_events')} AND {forgetting.other_events}",
    )
    if not made:
        return
    for build in (gold.build_kpis, gold.build_events, visits.build):
        await build(engine, batch)
    await versions.written(version)
    await versions.publish(version, run_entry(batch, forgetting.person.tenant, sum(made.values())))


async def rebuild_days(engine: Engine, daily: DailyCalculator, forgetting: Forgetting) -> None:
    """Daily metrics that were kept of the days that the user's events had a part in."""
    sql = _DAYS.format(
        silence=limits.SESSION_SILENCE_SECONDS,
        mine=forgetting.mine,
        events=forgetting.events,
        sessions=forgetting.sessions,
        actors=_actors(forgetting),
    )
    tenant = forgetting.person.tenant
    days: list[date] = [row["date"] for row in await engine.rows(sql, lane=Lane.PIPELINE)]
    cutoff = await cleaned_before(engine, tenant)
    for day in days:
        if cutoff is None or datetime.combine(day, time_of_day(), UTC) >= cutoff:
            await daily.replace(tenant, day, events=forgetting.other_events, sessions=f"NOT {forgetting.sessions}")


def run_entry(batch: Batch, tenant: str, rows: int) -> Entry:
    """The log row of a tenant's run that reads no commits: the next run of events begins where it would have."""
    return Entry(
        "etl",
        run=batch.run,
        first_commit=batch.first_commit,
        last_commit=batch.last_commit,
        rows=rows,
        detail={"trigger": Trigger.CALL.value, "caller": tenant},
        streams=streams_of({tenant: rows}),
    )


async def count(engine: Engine, table: str, condition: str) -> int:
    """Rows of `table` for which `condition`, in SQL without parameters, holds."""
    sql = f"SELECT count() AS n FROM {table} WHERE {condition}"
    return int((await engine.rows(sql, lane=Lane.PIPELINE))[0]["n"])


async def delete_found(engine: Engine, table: str, condition: str) -> None:
    """Deletes such rows, if there are any: a deletion rewrites the parts that it touches."""
    if await count(engine, table, condition):
        await engine.delete_rows(table, condition, lane=Lane.PIPELINE)


def _actors(forgetting: Forgetting) -> str:
    """SQL: whose sessions the user's events are in; with those that only a row of sessions still tells of."""
    return (
        f"SELECT {sessions.ACTOR} FROM silver_events WHERE {forgetting.events} AND {sessions.HAS_ACTOR}"
        f" UNION ALL SELECT actor FROM sessions WHERE {forgetting.sessions}"
    )


async def _spans(engine: Engine, rows: str) -> list[tuple[datetime, datetime]]:
    """Whole hours, together all of those silver rows, each with about as many as a run takes on at most."""
    spans: list[tuple[datetime, datetime]] = []
    total = limits.PIPELINE_BATCH_ROWS
    for row in await engine.rows(_HOURS.format(rows=rows), lane=Lane.PIPELINE):
        start: datetime = row["hour"]
        if total + row["n"] > limits.PIPELINE_BATCH_ROWS:
            spans.append((start, start + HOUR))
            total = row["n"]
        else:
            spans[-1] = (spans[-1][0], start + HOUR)
            total += row["n"]
    return spans


def _moment(time: datetime) -> str:
    return f"toDateTime64('{time:%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
