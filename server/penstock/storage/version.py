"""What readers see: one version of every table.

A version is a commit of the log. As of it, rows of bronze up to that commit are there, and rows of silver, sessions and
gold up to the run that the log had published by then. So a read that keeps to one version sees one moment of all
tables, and the same read as of the same version finds the same rows again, however much was committed meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from string import Template

# Rows that were written once and stay: by the commit or the run that made them.
_BY_COMMIT = frozenset({"bronze_events", "rejected_events", "rejected_replays", "daily_metrics"})
_BY_RUN = frozenset({"silver_events", "sessions", "gold_kpis", "gold_events"})

# Where a row replaces an older one, the newest that is visible counts.
_NEWEST: Mapping[str, Template] = {
    "sessions": Template("""(
    SELECT *
    FROM
    (
        SELECT *
        FROM sessions
        WHERE tenant = $tenant AND $visible
        ORDER BY actor, session_id, run DESC
        LIMIT 1 BY actor, session_id
    )
    WHERE NOT deleted
)"""),
    "daily_metrics": Template("""(
    SELECT *
    FROM daily_metrics
    WHERE tenant = $tenant AND $visible
    ORDER BY date, site_id, commit DESC
    LIMIT 1 BY date, site_id
)"""),
}
_ALL = Template("(SELECT * FROM $table WHERE tenant = $tenant AND $visible)")


@dataclass(frozen=True, slots=True)
class Gold:
    """The version of silver and gold that readers see."""

    run: int = 0
    last_commit: int = 0  # the newest commit of events that is in it
    commit: int = 0  # the commit that made it visible
    time: datetime | None = None  # when that was; None before the first run


@dataclass(frozen=True, slots=True)
class Version:
    """Everything up to one commit."""

    commit: int
    gold: Gold

    def visible(self, table: str, alias: str = "") -> str:
        """SQL that holds for the rows of `table` that are there; tenants apart, they are the caller's to choose.

        It binds no parameter, so it can stand in any statement. `alias` is what the statement calls the table.
        """
        prefix = f"{alias}." if alias else ""
        if table in _BY_COMMIT:
            return f"{prefix}commit <= {self.commit:d}"
        if table in _BY_RUN:
            return f"{prefix}run <= {self.gold.run:d}"
        raise KeyError(f"{table} has no versions")

    def relation(self, table: str, tenant: str = "{tenant:String}") -> str:
        """A subquery with the rows of `table` that count: those that are there and that no newer one replaces.

        `tenant` is SQL, a bound parameter as a rule.
        """
        template = _NEWEST.get(table, _ALL)
        return template.substitute(table=table, tenant=tenant, visible=self.visible(table))
