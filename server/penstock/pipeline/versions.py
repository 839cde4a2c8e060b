"""The versions of silver and gold: numbers for runs, their publication, and the removal of what was never published.

Readers see the rows of runs up to the log's `gold.run`. So runs are published in the order of their numbers, one at a
time, and nothing below the newest number may be written any more. The exception is sessions, which take longer and are
made beside the runs of events: such a run takes a number far ahead, which is invisible until it is published.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.errors import Unavailable
from penstock.pipeline.tenants import Counts
from penstock.storage.commit_log import BY_RUN, CommitLog, Entry
from penstock.storage.engine import Engine, Lane
from penstock.storage.version import Version as Seen

AHEAD = 100_000  # more runs than can end while one is made beside them

# Rows of this run, and rows of runs that failed: a statement that a broken connection left behind may end late.
_COUNTS = "\nUNION ALL\n".join(
    f"SELECT '{table}' AS name, tenant, countIf(run = {{run:Int64}}) AS written, countIf(run < {{run:Int64}}) AS void"
    f" FROM {table} WHERE run > {{gold:Int64}} GROUP BY tenant"
    for table in BY_RUN
)


@dataclass(frozen=True, slots=True)
class Version:
    """A number, given out for one attempt of a run."""

    run: int
    before: Seen  # what was visible when it was given out
    generation: int


class Versions:
    """Gives out numbers and publishes them. `lock` is held while a run of events is made, and to publish."""

    def __init__(self, engine: Engine, log: CommitLog) -> None:
        self._engine = engine
        self._log = log
        self._dirty = True  # rows without a log row may be there
        self._epoch = -1  # of the log when they were last removed
        self._last = 0
        self._last_ahead = 0
        self.lock = asyncio.Lock()
        self.writing_ahead = asyncio.Lock()  # held while rows of a number ahead are written
        self.generation = 0  # how often unpublished rows were removed

    async def clean(self) -> None:
        """Removes what was written and not published, if there can be any; the caller holds `lock`.

        Raises Unavailable, with NOT_LEADER where another server writes.
        """
        self._log.check_leads()
        if not self._dirty and self._epoch == self._log.epoch:
            return
        async with self.writing_ahead:
            await self._remove_unpublished()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside it there are only rows of published runs, but for what the caller, who holds `lock`, writes.

        A run ahead that is under way will not be published. Raises Unavailable, with NOT_LEADER where another server
        writes.
        """
        self._log.check_leads()
        async with self.writing_ahead:
            await self._remove_unpublished()
            try:
                yield
            except BaseException:
                self.spoil()
                raise

    async def _remove_unpublished(self) -> None:
        # The log row of the last run may have been written although the answer was lost: only the database knows.
        await self._log.open()
        await self._log.delete_void(BY_RUN, "run", self._log.gold.run)
        self.generation += 1
        self._epoch = self._log.epoch
        self._dirty = False

    def spoil(self) -> None:
        """Notes that a run failed behind its first write."""
        self._dirty = True

    def next(self) -> Version:
        """The number of the next run; the caller holds `lock` until it is published or given up."""
        self._last = max(self._last, self._log.gold.run) + 1
        return self._version(self._last)

    def ahead(self) -> Version:
        """A number for a run that is made without `lock`, while others are published."""
        self._last_ahead = max(self._last, self._last_ahead, self._log.gold.run) + AHEAD
        return self._version(self._last_ahead)

    async def written(self, version: Version) -> Mapping[str, Counts]:
        """Rows of the run, by table; one that it wrote nothing to is missing.

        Raises Unavailable when an unpublished run wrote too.
        """
        found = await self._engine.rows(_COUNTS, {"run": version.run, "gold": self._log.gold.run}, lane=Lane.PIPELINE)
        if any(row["void"] for row in found):
            raise Unavailable(
                "a statement of an earlier run ended late", reason="STORAGE_UNAVAILABLE", retry_after_s=1.0
            )
        counts: dict[str, dict[str, int]] = {}
        for row in found:
            counts.setdefault(row["name"], {})[row["tenant"]] = int(row["written"])
        return counts

    async def publish(self, version: Version, entry: Entry) -> None:
        """Makes the run visible; the caller holds `lock`.

        Raises Unavailable when its rows may have been removed, another server published meanwhile, or a cleanup removed
        rows that it may have been made of.
        """
        async with self._log.transaction() as transaction:
            moved = self._log.gold.run < version.before.gold.run or self._log.gold.run >= version.run
            cleaned = self._log.version.cuts != version.before.cuts
            if moved or cleaned or (self.generation, self._log.epoch) != (version.generation, self._epoch):
                raise Unavailable("the run was overtaken", reason="RUN_OVERTAKEN", retry_after_s=1.0)
            await transaction.append(entry)

    def _version(self, run: int) -> Version:
        return Version(run, self._log.version, self.generation)
