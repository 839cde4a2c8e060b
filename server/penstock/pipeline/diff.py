"""What changed between two versions.

Rows are only ever added to a version or removed from it, never changed in place. So the rows that one of two versions
shows and the other does not are all there is to look at: in gold they tell which windows differ, and only those are
computed, before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template

from penstock import limits
from penstock.errors import InvalidInput, invalid_field
from penstock.pipeline.filters import micros
from penstock.pipeline.tables import FIGURES, UNIQUES, Table
from penstock.pipeline.travel import Moment, resolve
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Version

SUMMED = tuple(name for name in FIGURES if name not in UNIQUES)


def _merged(name: str, side: str) -> str:
    merge = "uniqExactMergeIf" if name in UNIQUES else "sumIf"
    return f"{merge}(g.{name}, ${side}) AS {side}_{name}"


_WINDOWS = Template(f"""
SELECT
    g.minute AS minute,
    g.site_id AS site_id,
    g.currency AS currency,
    {", ".join(_merged(name, side) for name in FIGURES for side in ("before", "after"))}
FROM gold_kpis AS g
WHERE g.tenant = {{tenant:String}} AND (($before) OR ($after)) AND (g.minute, g.site_id, g.currency) IN
(
    SELECT DISTINCT g.minute, g.site_id, g.currency
    FROM gold_kpis AS g
    WHERE g.tenant = {{tenant:String}} AND ($differs) AND $behind
    ORDER BY g.minute DESC, g.site_id DESC, g.currency DESC
    LIMIT {{limit:UInt32}}
)
GROUP BY minute, site_id, currency
ORDER BY minute DESC, site_id DESC, currency DESC
""")
_BEHIND = """(g.minute <= toDateTime({minute:UInt32}, 'UTC')
        AND (g.minute, g.site_id, g.currency)
            < (toDateTime({minute:UInt32}, 'UTC'), {site_id:String}, {currency:String}))"""
_SUMMARY = Template(f"""
SELECT
    uniqExact((g.minute, g.site_id, g.currency)) AS windows,
    {", ".join(f"sumIf(g.{name}, $after) - sumIf(g.{name}, NOT ($after)) AS {name}" for name in SUMMED)}
FROM gold_kpis AS g
WHERE g.tenant = {{tenant:String}} AND ($differs)
""")
_ROWS = Template("""
SELECT t.event_type AS event_type, countIf($after) AS added, countIf(NOT ($after)) AS removed
FROM $table AS t
WHERE t.tenant = {tenant:String} AND ($differs)
GROUP BY event_type
ORDER BY added + removed DESC, event_type
""")


@dataclass(frozen=True, slots=True)
class Window:
    """One KPI window in two versions: figures by name."""

    minute: datetime
    site_id: str
    currency: str
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of one event type that came and went."""

    event_type: str
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed from the older version to the newer one."""

    older: int
    newer: int
    windows: Sequence[Window] = ()
    windows_in_all: int = 0
    differences: Mapping[str, float] | None = None  # of gold, over all windows
    rows: Sequence[Counted] = ()
    next_token: str = ""


class DiffReader:
    """Compares versions."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log

    async def compare(
        self,
        tenant: str,
        table: Table,
        older: Moment,
        newer: Moment,
        *,
        limit: int = 0,
        page_token: str = "",
    ) -> Diff:
        """What changed; of gold a page of it.

        Raises InvalidInput where a side is named twice, or the older not at all, or they stand the wrong way round;
        OutOfRange as `resolve`.
        """
        keys: list[int | str] = []
        if page_token:
            wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
            first, second, *keys = values_of(tenant, f"diff:{table.name}", page_token, (int, int, int, str, str), wrong)
            older, newer = Moment(int(first)), Moment(int(second))
        if older.is_now:
            raise invalid_field("from_version", "or from_timestamp is required", reason="INVALID_VERSION")
        before = await resolve(self._engine, self._log, tenant, older, ("from_version", "from_timestamp"))
        after = await resolve(self._engine, self._log, tenant, newer, ("to_version", "to_timestamp"))
        if before.commit > after.commit:
            raise _wrong_way_round(before, after)
        if table.name != "gold":
            return await self._rows(tenant, table, before, after)
        return await self._windows(tenant, before, after, limit or limits.PAGE_ROWS_DEFAULT, keys)

    async def _rows(self, tenant: str, table: Table, before: Version, after: Version) -> Diff:
        differs, _, there = _conditions(table.stored, before, after, "t")
        sql = _ROWS.substitute(table=table.stored, after=there, differs=differs)
        found = await self._engine.rows(sql, {"tenant": tenant})
        return Diff(before.commit, after.commit, rows=[Counted(**row) for row in found])

    async def _windows(
        self,
        tenant: str,
        before: Version,
        after: Version,
        size: int,
        keys: list[int | str],
    ) -> Diff:
        differs, was, there = _conditions("gold_kpis", before, after, "g")
        conditions = {"before": was, "after": there, "differs": differs, "behind": _BEHIND if keys else "1"}
        bounds = dict(zip(("minute", "site_id", "currency"), keys, strict=False))
        rows = await self._engine.rows(_WINDOWS.substitute(conditions), {"tenant": tenant, "limit": size + 1, **bounds})
        summary = await self._engine.rows(_SUMMARY.substitute(conditions), {"tenant": tenant})
        next_token = ""
        if len(rows) > size:
            end = rows[size - 1]
            minute = micros(end["minute"].replace(tzinfo=UTC)) // 1_000_000
            place = [before.commit, after.commit, minute, end["site_id"], end["currency"]]
            next_token = token(tenant, "diff:gold", place)
        return Diff(
            before.commit,
            after.commit,
            windows=[_window(row) for row in rows[:size]],
            windows_in_all=int(summary[0]["windows"]),
            differences={name: float(summary[0][name]) for name in SUMMED},
            next_token=next_token,
        )


def _conditions(table: str, before: Version, after: Version, alias: str) -> tuple[str, str, str]:
    """SQL for rows that differ, and for those that the older and the newer version show."""
    was, there = before.visible(table, alias), after.visible(table, alias)
    # Either half alone is what the index by run or commit can leave parts out by.
    return f"({there} AND NOT ({was})) OR ({was} AND NOT ({there}))", was, there


def _window(row: Row) -> Window:
    return Window(
        row["minute"].replace(tzinfo=UTC),
        row["site_id"],
        row["currency"],
        {name: float(row[f"before_{name}"]) for name in FIGURES},
        {name: float(row[f"after_{name}"]) for name in FIGURES},
    )


def _wrong_way_round(before: Version, after: Version) -> InvalidInput:
    return invalid_field(
        "from_version",
        f"{before.commit} is newer than {after.commit}, which it is compared with",
        reason="INVALID_VERSION_RANGE",
    )
