"""What one run of the pipeline takes on: whole commits, as many as fit."""

from dataclasses import dataclass, field

from penstock import limits
from penstock.pipeline.tenants import Counts, by_tenant
from penstock.storage.engine import Engine, Lane

# Of one tenant alone only its commits and rows count.
_NEXT = """
SELECT
    min(commit) AS first_commit,
    max(commit) AS last_commit,
    sum(counted) AS total,
    sumMap(tenants, accepted) AS by_tenant
FROM
(
    SELECT
        commit,
        tenants,
        accepted,
        counted,
        sum(counted) OVER (ORDER BY commit) AS so_far,
        row_number() OVER (ORDER BY commit) AS nth
    FROM
    (
        SELECT
            commit,
            streams.tenant AS tenants,
            streams.accepted AS accepted,
            if({tenant:String} = '', rows,
                arraySum((whose, taken) -> if(whose = {tenant:String}, taken, 0), tenants, accepted)) AS counted
        FROM commits
        WHERE operation = 'append' AND commit > {after:Int64} AND commit <= {upto:Int64}
            AND ({tenant:String} = '' OR has(streams.tenant, {tenant:String}))
        ORDER BY commit
        LIMIT {commits_max:UInt32}
    )
)
WHERE so_far <= {rows_max:UInt64} OR nth = 1
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Commits `first_commit` to `last_commit`, of which the run `run` makes silver and gold rows."""

    run: int
    since: int  # commits up to here are in gold; of those behind it, the first row with an event id wins
    first_commit: int
    last_commit: int
    rows: int  # of all types
    event_type: str = ""  # only this canonical type; empty: all
    tenant: str = ""  # only rows of this one; empty: of all
    tenants: Counts = field(default_factory=dict)  # rows of all types, of each tenant that has some

    def parameters(self) -> dict[str, int | str]:
        """What the statements of a run bind."""
        return {
            "run": self.run,
            "since": self.since,
            "first_commit": self.first_commit,
            "last_commit": self.last_commit,
            "event_type": self.event_type,
            "tenant": self.tenant,
        }


async def next_batch(
    engine: Engine,
    *,
    run: int,
    since: int,
    after: int,
    upto: int,
    rows_max: int,
    event_type: str = "",
    tenant: str = "",
) -> Batch | None:
    """The next commits behind `after` and up to `upto`, with about `rows_max` rows; None when there are none.

    A commit that is larger than `rows_max` is a batch of its own.
    """
    if upto <= after:
        return None
    bounds = {"after": after, "upto": upto, "rows_max": rows_max, "commits_max": limits.PIPELINE_BATCH_COMMITS}
    row = (await engine.rows(_NEXT, {**bounds, "tenant": tenant}, lane=Lane.PIPELINE))[0]
    if not row["last_commit"]:
        return None
    tenants = {each: rows for each, rows in by_tenant(row["by_tenant"]).items() if tenant in ("", each)}
    first, last, total = int(row["first_commit"]), int(row["last_commit"]), int(row["total"])
    return Batch(run, since, first, last, total, event_type, tenant, tenants)
