"""Silver → sessions: merging intervals.

An event is a session of one moment. New events and the stored sessions of the same actors are joined where they lie no
more than 30 minutes apart; under a session id of the client's, all of them. Joining is associative and commutative, and
every attribute is a sum, a maximum, or the value at the least (or greatest) time with ties broken by the value itself;
so any order of arrival, in any batches, ends in the same sessions.

A session made from a visitor is named by visitor and start, in microseconds. When an earlier event moves the start, or
two sessions become one, the old names get a tombstone. A tombstone ends when its session ended, so that a cleanup by
end time takes a session's rows oldest first and never leaves an older row to come back to life.
"""

from string import Template

from penstock import limits
from penstock.storage.engine import Engine, Lane
from penstock.storage.version import Version

_NEVER_BEFORE = "toDateTime64('2299-12-31 00:00:00', 6, 'UTC')"  # the time of a first that has not been
_NEVER_AFTER = "toDateTime64(0, 6, 'UTC')"  # the time of a last that has not been
_BETWEEN = ", '\\0', "  # between values of one text; a value that holds it itself ends there


def _stamped(time: str, *values: str) -> str:
    """Values behind the time that they are of, as a text that sorts by time and then by value.

    The least of such texts is what argMin by a tuple would find, at an eighth of its cost: 0.9 instead of 6.5 s for a
    million rows.
    """
    big_endian = f"reinterpretAsFixedString(byteSwap(toUInt64(toUnixTimestamp64Micro({time}))))"
    return f"concat({big_endian}, {_BETWEEN.join(values)})"


def _value(stamped: str) -> str:
    return f"substring({stamped}, 9)"


def _one_of(stamped: str, nth: int) -> str:
    return f"splitByChar('\\0', {_value(stamped)})[{nth}]"


# Whom an event is of: in SQL, of silver; rows that have neither are of nobody.
ACTOR = "if(session_id != '', concat('s:', session_id), concat('v:', visitor))"
# Who was shown a variant of an experiment did nothing by it: that the server noted it is no part of their session.
HAS_ACTOR = "(session_id != '' OR visitor != '') AND event_type != 'exposure'"

# An actor is known by a hash of 128 bits, as ClickHouse's own uniqExact knows strings: sorting numbers is cheaper.
_KEY = "reinterpretAsUInt128(sipHash128(tenant, actor))"

_SESSIONS = Template(f"""
INSERT INTO sessions
(
    tenant, run, actor, session_id, site_id, visitor, start_time, end_time, page_views, events,
    landing_page, landing_time, exit_page, exit_time, utm_source, utm_medium, utm_campaign, utm_time, converted, deleted
)
WITH
    added AS
    (
        SELECT
            tenant,
            $made AS made,
            {ACTOR} AS actor,
            {_KEY} AS key,
            event_time,
            site_id,
            visitor,
            event_type = 'page_view' AS is_view,
            is_view AND path != '' AS is_page,
            path,
            utm_source != '' AS is_attributed,
            utm_source,
            utm_medium,
            utm_campaign,
            event_type = 'purchase' AS is_purchase
        FROM silver_events
        WHERE run > {{since:Int64}} AND run <= {{through:Int64}} AND $events
            AND {HAS_ACTOR}
            AND key % {{parts:UInt32}} = {{part:UInt32}}
    ),
    stored AS
    (
        SELECT *
        FROM sessions
        WHERE run < {{run:Int64}} AND $sessions AND actor IN (SELECT actor FROM added)
        ORDER BY tenant, actor, session_id, run DESC
        LIMIT 1 BY tenant, actor, session_id
    ),
    candidates AS
    (
        SELECT
            tenant, made, actor, key,
            event_time AS start_time, event_time AS end_time,
            {_stamped("event_time", "site_id")} AS site,
            visitor,
            toUInt32(is_view) AS page_views, toUInt32(1) AS events,
            if(is_page, {_stamped("event_time", "path")}, '') AS landing, landing AS exit,
            if(is_page, event_time, {_NEVER_BEFORE}) AS landing_time,
            if(is_page, event_time, {_NEVER_AFTER}) AS exit_time,
            if(is_attributed, {_stamped("event_time", "utm_source", "utm_medium", "utm_campaign")}, '') AS utm,
            if(is_attributed, event_time, {_NEVER_BEFORE}) AS utm_time,
            is_purchase AS converted,
            '' AS name, 1 AS is_new
        FROM added
        UNION ALL
        SELECT
            tenant, {{run:Int64}} AS made, actor, {_KEY} AS key,
            start_time, end_time,
            {_stamped("start_time", "site_id")} AS site,
            visitor,
            page_views, events,
            if(landing_page != '', {_stamped("landing_time", "landing_page")}, '') AS landing,
            if(exit_page != '', {_stamped("exit_time", "exit_page")}, '') AS exit,
            landing_time, exit_time,
            if(utm_source != '', {_stamped("utm_time", "utm_source", "utm_medium", "utm_campaign")}, '') AS utm,
            utm_time,
            converted,
            session_id AS name, 0 AS is_new
        FROM stored
        WHERE NOT deleted
    ),
    parted AS
    (
        SELECT
            *,
            startsWith(actor, 'v:') AND start_time > addSeconds(
                max(end_time) OVER (
                    PARTITION BY key ORDER BY start_time, end_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ),
                {limits.SESSION_SILENCE_SECONDS}
            ) AS begins
        FROM candidates
    ),
    numbered AS
    (
        SELECT
            *,
            sum(begins) OVER (
                PARTITION BY key ORDER BY start_time, end_time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS nth
        FROM parted
    ),
    merged AS
    (
        SELECT
            any(tenant) AS tenant,
            max(made) AS made,
            any(actor) AS actor,
            min(start_time) AS start,
            max(end_time) AS end,
            min(site) AS first_site,
            -- An anonymous moment of a session with an id says nothing of who it was.
            minIf(visitor, visitor != '') AS who,
            sum(page_views) AS views,
            sum(events) AS moments,
            minIf(landing, landing != '') AS first_page,
            min(landing_time) AS first_page_time,
            max(exit) AS last_page,
            max(exit_time) AS last_page_time,
            minIf(utm, utm != '') AS first_utm,
            min(utm_time) AS first_utm_time,
            max(converted) AS bought,
            groupArrayIf((name, end_time, 1), NOT is_new) AS old
        FROM numbered
        GROUP BY key, nth
        HAVING max(is_new)
    )
SELECT
    tenant,
    made,
    actor,
    version.1,
    {_value("first_site")},
    who,
    start,
    version.2,
    views,
    moments,
    {_value("first_page")},
    first_page_time,
    {_value("last_page")},
    last_page_time,
    {_one_of("first_utm", 1)},
    {_one_of("first_utm", 2)},
    {_one_of("first_utm", 3)},
    first_utm_time,
    bought,
    version.3
FROM
(
    SELECT
        *,
        if(
            startsWith(actor, 's:'),
            substring(actor, 3),
            concat(substring(actor, 3), '@', toString(toUnixTimestamp64Micro(start)))
        ) AS own_name
    FROM merged
)
ARRAY JOIN arrayConcat([(own_name, end, 0)], arrayFilter(each -> each.1 != own_name, old)) AS version
SETTINGS max_threads = 1 -- it runs beside gold, which is what must be fresh
""")


async def build(engine: Engine, version: Version, *, run: int, since: int, through: int, part: int, parts: int) -> None:
    """Writes the sessions that silver rows of the runs behind `since` and up to `through` change.

    With them tombstones for those that they join into others. Only actors of part `part` of `parts` are done. No run
    below `run` may be without its sessions but these. Of what there was, `version` says what still is: an event that
    comes late for a session that a cleanup removed begins another.
    """
    parameters = {"run": run, "since": since, "through": through, "part": part, "parts": parts}
    events, stored = version.visible("silver_events"), version.visible("sessions")
    sql = _SESSIONS.substitute(made="{run:Int64}", events=events, sessions=stored)
    await engine.execute(sql, parameters, lane=Lane.PIPELINE)


async def rebuild(engine: Engine, version: Version, rows: str, *, through: int, part: int, parts: int) -> None:
    """Writes the sessions of all visible silver rows up to run `through` for which `rows`, in SQL, holds.

    There must be none of those actors. Each session takes the run of its newest row, so that every version from then on
    shows it.
    """
    parameters = {"run": 0, "since": 0, "through": through, "part": part, "parts": parts}
    events = f"{version.visible('silver_events')} AND {rows}"
    await engine.execute(_SESSIONS.substitute(made="run", events=events, sessions="0"), parameters, lane=Lane.PIPELINE)
