"""The rows of a user who is forgotten: which they are, their deletion, and the look through all tables afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock.pipeline import forget_rejected
from penstock.pipeline.forget_figures import count, delete_found
from penstock.pipeline.person import Forgetting
from penstock.storage.engine import Engine, Lane

# What columns are called that say who it was.
NAMING = ("user_id", "visitor_id", "visitor")

# Of a cluster's tables the distributed ones, which have the rows of all.
_TABLES = f"""
SELECT table, groupArray((name, type)) AS columns
FROM system.columns
WHERE database = currentDatabase() AND NOT endsWith(table, '_local')
GROUP BY table
HAVING countIf(name = 'tenant') AND countIf(name IN {NAMING})
ORDER BY table
"""

# The texts in a statement as the gate prints it, without their quotes. Names in backticks may have quotes in them.
_TEXTS = r"'`[^`]*`|\'((?:[^\'\\\\]|\\\\.)*)\''"
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class PersonalTable:
    """A table of another area that has rows of users, with the columns `tenant` and `commit`."""

    name: str
    user_column: str


async def found(engine: Engine, forgetting: Forgetting) -> dict[str, int]:
    """Rows that name the user, by table: of every table that has a column for it, and of statements' texts."""
    tables = await engine.rows(_TABLES, lane=Lane.PIPELINE)
    counts = {
        row["table"]: await count(engine, row["table"], _naming(forgetting, dict(row["columns"]))) for row in tables
    }
    return {**counts, "query_costs": await count(engine, "query_costs", _saying(forgetting))}


async def remaining(engine: Engine, forgetting: Forgetting) -> dict[str, int]:
    """The same, and rejected rows, which must be read to know it."""
    return {
        **await found(engine, forgetting),
        "rejected_events": await forget_rejected.remaining(engine, forgetting),
    }


async def remove(engine: Engine, forgetting: Forgetting, also: Sequence[PersonalTable]) -> Mapping[str, int]:
    """Deletes all rows of the user; how many, by table.

    Silver goes last, because it tells what else is concerned if this breaks off.
    """
    ids = (
        f"{forgetting.mine} AND (event_id, run) IN (SELECT event_id, run FROM silver_events WHERE {forgetting.events})"
    )
    removed = {**await found(engine, forgetting), "silver_ids": await count(engine, "silver_ids", ids)}
    await delete_found(engine, "query_costs", _saying(forgetting))
    removed |= await forget_rejected.remove(engine, forgetting)
    for table in also:
        user = forgetting.person.is_user(table.user_column)
        await delete_found(engine, table.name, f"{forgetting.mine} AND commit <= {forgetting.commit} AND {user}")
    await delete_found(engine, "bronze_events", forgetting.events)
    await delete_found(engine, "sessions", forgetting.sessions)
    await delete_found(engine, "silver_ids", ids)
    await delete_found(engine, "silver_events", forgetting.events)
    return removed


def _naming(forgetting: Forgetting, columns: Mapping[str, str]) -> str:
    """SQL that holds for rows of a table with these columns, by name and type, that name the user."""
    person = forgetting.person
    names = (
        person.is_user(name) if "String" in columns[name] else person.is_visitor(name)
        for name in NAMING
        if name in columns
    )
    condition = f"{forgetting.mine} AND ({' OR '.join(names)})"
    if "commit" in columns:
        return f"{condition} AND commit <= {forgetting.commit}"
    return f"{condition} AND run <= {forgetting.run}" if "run" in columns else condition


def _saying(forgetting: Forgetting) -> str:
    """SQL that holds for statements of users in whose text the user's id stands, as a text of its own.

    Also for those that were cut inside of a text: it may have been this one.
    """
    person = forgetting.person
    micros = (forgetting.time - _EPOCH) // timedelta(microseconds=1)
    return (
        f"{forgetting.mine} AND time <= fromUnixTimestamp64Micro({micros}, 'UTC')"
        f" AND (arrayExists(each -> {person.hashes('each')} = unhex('{person.written}'), extractAll(sql, {_TEXTS}))"
        f" OR position(replaceRegexpAll(sql, {_TEXTS}, ''), '\\'') > 0)"
    )
