"""What one run of the pipeline takes on: whole commits, as many as fit."""

from dataclasses import dataclass

from penstock import limits
from penstock.storage.engine import Engine, Lane

_NEXT = """
SELECT min(commit) AS first_commit, max(commit) AS last_commit, sum(rows) AS total
FROM
(
    SELECT commit, rows, sum(rows) OVER (ORDER BY commit) AS so_far, row_number() OVER (ORDER BY commit) AS nth
    FROM commits
    WHERE operation = 'append' AND commit > {after:Int64} AND commit <= {upto:Int64}
    ORDER BY commit
    LIMIT {commits_max:UInt32}
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

    def parameters(self) -> dict[str, int | str]:
        """What the statements of a run bind."""
        return {
            "run": self.run,
            "since": self.since,
            "first_commit": self.first_commit,
            "last_commit": self.last_commit,
            "event_type": self.event_type,
        }


async def next_batch(
    engine: Engine, *, run: int, since: int, after: int, upto: int, rows_max: int, event_type: str = ""
) -> Batch | None:
    """The next commits behind `after` and up to `upto`, with about `rows_max` rows; None when there are none.

    A commit that is larger than `rows_max` is a batch of its own.
    """
    if upto <= after:
        return None
    found = await engine.rows(
        _NEXT,
        {"after": after, "upto": upto, "rows_max": rows_max, "commits_max": limits.PIPELINE_BATCH_COMMITS},
        lane=Lane.PIPELINE,
    )
    row = found[0]
    if not row["last_commit"]:
        return None
    return Batch(run, since, int(row["first_commit"]), int(row["last_commit"]), int(row["total"]), event_type)
