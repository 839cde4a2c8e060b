"""How fresh gold is for each tenant: of its own commits and the runs that had rows of it, whatever others send.

One statement over what the log added since the version before answers for all tenants. So a version of gold costs one,
however many ask; the rest is in memory: two numbers for each tenant, and a third while it waits.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from penstock.kpis.answers import Answers
from penstock.kpis.windows import Freshness
from penstock.pipeline.tenants import RAN
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Gold, Version

VERSIONS_KEPT = 4  # answers of the version before may still be on their way
LOOK_S = 0.25  # so late at most it shows that a tenant waits whose commits were all in gold
_EPOCH = datetime.fromtimestamp(0, UTC)

# A run of a server that knew one tenant does not say whose it is.
_SINCE = f"""
SELECT
    whose AS tenant,
    maxIf(commit, operation = 'append' AND commit <= {{processed:Int64}}) AS newest,
    maxIf(toUnixTimestamp64Micro(time), operation = 'etl' AND commit <= {{gold:Int64}}) AS updated,
    minIf(toUnixTimestamp64Micro(time), operation = 'append' AND commit > {{processed:Int64}}) AS waiting
FROM
(
    SELECT commit, time, operation, streams.tenant AS tenants
    FROM commits
    WHERE commit > {{since:Int64}} AND commit <= {{head:Int64}} AND operation IN ('append', 'etl')
)
ARRAY JOIN if(empty(tenants), ['{DEFAULT_TENANT}'], tenants) AS whose
GROUP BY whose
"""
# Each part reads from where it begins to where it finds something.
_THEN = f"""
SELECT * FROM
(
    SELECT 'commit' AS what, commit, toUnixTimestamp64Micro(time) AS micros
    FROM commits
    WHERE operation = 'append' AND commit <= {{processed:Int64}} AND has(streams.tenant, {{tenant:String}})
    ORDER BY commit DESC
    LIMIT 1
)
UNION ALL
SELECT * FROM
(
    SELECT 'updated' AS what, commit, toUnixTimestamp64Micro(time) AS micros
    FROM commits
    WHERE {RAN} AND commit <= {{gold:Int64}}
    ORDER BY commit DESC
    LIMIT 1
)
UNION ALL
SELECT * FROM
(
    SELECT 'waiting' AS what, commit, toUnixTimestamp64Micro(time) AS micros
    FROM commits
    WHERE operation = 'append' AND commit > {{processed:Int64}} AND commit <= {{head:Int64}}
        AND has(streams.tenant, {{tenant:String}})
    ORDER BY commit
    LIMIT 1
)
"""


@dataclass(slots=True)
class _Standing:
    """How a version of gold stands with the commits up to `through`; times in microseconds since the epoch."""

    gold: Gold
    through: int = 0
    commits: dict[str, int] = field(default_factory=dict)  # by tenant: the newest that is in gold
    updated: dict[str, int] = field(default_factory=dict)  # when gold last changed for it
    waiting: dict[str, int] = field(default_factory=dict)  # when the oldest that is not in gold was committed

    def freshness(self, tenant: str, now: float) -> Freshness:
        waiting = self.waiting.get(tenant)
        lag_s = 0.0 if waiting is None else max(0.0, now - waiting / 1e6)
        return Freshness(_time(self.updated.get(tenant)), lag_s, self.commits.get(tenant, 0))

    def add(self, rows: list[Row], through: int) -> None:
        for row in rows:
            tenant = row["tenant"]
            if row["newest"]:
                self.commits[tenant] = int(row["newest"])
            if row["updated"]:
                self.updated[tenant] = int(row["updated"])
            if row["waiting"]:
                self.waiting.setdefault(tenant, int(row["waiting"]))
        self.through = through


class FreshnessReader:
    """Tells how fresh versions of gold are; may raise Unavailable, TimedOut or Overloaded."""

    def __init__(self, engine: Engine, log: CommitLog, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._log = log
        self._clock = clock
        self._newest: _Standing | None = None
        self._standings: Answers[_Standing] = Answers(VERSIONS_KEPT)
        self._looks: Answers[None] = Answers(VERSIONS_KEPT)
        self._look_again = 0.0  # on the clock of time.monotonic

    async def now(self, tenant: str, gold: Gold) -> Freshness:
        """How fresh `gold` is for the tenant at this moment; from memory as a rule."""
        standing = self._newest
        if standing is None or standing.gold.commit != gold.commit:
            standing = await self._standings.get(gold.commit, None, lambda: self._read(gold))
        behind = self._log.last_append > standing.through and tenant not in standing.waiting
        if behind and time.monotonic() >= self._look_again:
            known = standing
            await self._looks.get(gold.commit, known.through, lambda: self._look(known))
        return standing.freshness(tenant, self._clock())

    def settled(self, tenant: str, gold: Gold) -> Freshness | None:
        """How fresh `gold` is, where it has all of a tenant and nothing has to be read to know that."""
        standing = self._newest
        if standing is None or standing.gold.commit != gold.commit or self._log.last_append > standing.through:
            return None
        return None if tenant in standing.waiting else standing.freshness(tenant, self._clock())

    async def then(self, tenant: str, version: Version) -> Freshness:
        """How fresh gold was for the tenant when the runs of a version had last changed it."""
        bounds = {
            "tenant": tenant,
            "processed": version.gold.last_commit,
            "gold": version.gold.commit,
            "head": version.commit,
        }
        found = {row["what"]: row for row in await self._engine.rows(_THEN, bounds)}
        updated, waiting = (int(found[what]["micros"]) if what in found else None for what in ("updated", "waiting"))
        lag_s = max(0.0, (updated - waiting) / 1e6) if updated is not None and waiting is not None else 0.0
        return Freshness(_time(updated), lag_s, int(found["commit"]["commit"]) if "commit" in found else 0)

    async def _read(self, gold: Gold) -> _Standing:
        before = self._newest
        if before is None or before.gold.commit > gold.commit:
            before = _Standing(Gold())
        made = _Standing(gold, commits=before.commits.copy(), updated=before.updated.copy())
        # What waited in the version before may be in this one.
        await self._add(made, since=before.gold.last_commit)
        if self._newest is None or self._newest.gold.commit < gold.commit:
            self._newest = made
        return made

    async def _look(self, standing: _Standing) -> None:
        await self._add(standing, since=standing.through)
        self._look_again = time.monotonic() + LOOK_S

    async def _add(self, standing: _Standing, since: int) -> None:
        gold, head = standing.gold, self._log.head
        bounds = {"processed": gold.last_commit, "gold": gold.commit, "since": since, "head": head}
        standing.add(await self._engine.rows(_SINCE, bounds), head)


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
