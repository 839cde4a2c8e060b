"""How far gold is behind the commits of events."""

from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine

_LAG = """
SELECT count() AS commits, min(time) AS oldest
FROM commits
WHERE operation = 'append' AND commit > {processed:Int64} AND commit <= {head:Int64}
    AND ({tenant:String} = '' OR has(streams.tenant, {tenant:String}))
"""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far gold is behind."""

    commits: int
    seconds: float  # age of the oldest commit that is not in gold; 0 when there is none


async def read_lag(engine: Engine, log: CommitLog, tenant: str = "") -> Lag:
    """With all events, or those of one tenant. Asks the database only when there is something to ask for."""
    processed, head = log.gold.last_commit, log.last_append
    if head <= processed:
        return Lag(0, 0.0)
    row = (await engine.rows(_LAG, {"processed": processed, "head": head, "tenant": tenant}))[0]
    if not row["commits"]:
        return Lag(0, 0.0)
    age = datetime.now(UTC) - row["oldest"].replace(tzinfo=UTC)
    return Lag(int(row["commits"]), max(0.0, age.total_seconds()))
