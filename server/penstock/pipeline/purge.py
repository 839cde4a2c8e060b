"""Deletes from disk what cleanups removed, once its travel time is over.

The log says it first, so that nobody reads a version any more that shows those rows, and says it again when they are
gone. What began and did not end, in a crash say, is done again: the rows are still left out by every reader, and
deleting them twice deletes nothing more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane
from penstock.storage.payload import literal
from penstock.storage.removals import Removal
from penstock.storage.version import Cut, without_covered

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a purge is."""

    tenant: str
    table: str
    done: int  # tables
    total: int


class Purger:
    """Deletes the rows of removals; its caller sees to it that one purge runs at a time."""

    def __init__(self, engine: Engine, log: CommitLog, travel: timedelta, clock: Callable[[], datetime]) -> None:
        """`travel` is how long removed rows stay for older versions."""
        self._engine = engine
        self._log = log
        self._travel = travel
        self._clock = clock
        self.progress: Progress | None = None  # of the purge under way

    def due_time(self, removal: Removal) -> datetime:
        """When the rows of a removal are to go."""
        return removal.time + self._travel

    async def purge_due(self) -> None:
        """Ends what began, and deletes what is due, of every tenant.

        One of which it fails does not hold up the others; it raises afterwards what failed last.
        """
        now = self._clock()
        failure: Exception | None = None
        for tenant in dict.fromkeys(each.tenant for each in self._log.removals.on_disk):
            try:
                await self._end_begun(tenant)
                removals = self._log.removals.on_disk
                due = [each.commit for each in removals if each.tenant == tenant and self.due_time(each) <= now]
                if due:
                    await self._purge(tenant, due[-1])
            except Exception as error:
                log.warning("a purge failed", tenant=tenant, error=str(error) or type(error).__name__)
                failure = error
        if failure is not None:
            raise failure

    async def purge_all(self, tenant: str) -> None:
        """Deletes all that was removed of one tenant, due or not."""
        await self._end_begun(tenant)
        removed = [each.commit for each in self._log.removals.on_disk if each.tenant == tenant]
        if removed:
            await self._purge(tenant, removed[-1])

    async def _purge(self, tenant: str, through: int) -> None:
        async with self._log.transaction() as transaction:
            await transaction.append(Entry("purge", detail={"tenant": tenant, "through": through}))
        await self._end_begun(tenant)

    async def _end_begun(self, tenant: str) -> None:
        removals = [each for each in self._log.removals.begun() if each.tenant == tenant]
        if not removals:
            return
        through = removals[-1].commit
        rows = await self._delete(tenant, (cut for removal in removals for cut in removal.cuts))
        log.info("deleted what cleanups removed", tenant=tenant, through=through, rows=rows)
        async with self._log.transaction() as transaction:
            await transaction.append(Entry("purged", rows=rows, detail={"tenant": tenant, "through": through}))

    async def _delete(self, tenant: str, cuts: Iterable[Cut]) -> int:
        deleted = 0
        conditions = conditions_of(without_covered(cuts))
        try:
            for done, (table, condition) in enumerate(conditions.items()):
                self.progress = Progress(tenant, table, done, len(conditions))
                count = f"SELECT count() AS n FROM {table} WHERE {condition}"
                rows = int((await self._engine.rows(count, lane=Lane.PIPELINE))[0]["n"])
                # A deletion rewrites the parts that it touches.
                if rows:
                    await self._engine.delete_rows(table, condition, lane=Lane.PIPELINE)
                deleted += rows
        finally:
            self.progress = None
        return deleted


def conditions_of(cuts: Iterable[Cut]) -> Mapping[str, str]:
    """What goes, by table, in the order of deletion: silver last, because it says which ids go."""
    by_table: dict[str, list[Cut]] = {}
    for cut in sorted(cuts, key=lambda cut: cut.table == "silver_events"):
        by_table.setdefault(cut.table, []).append(cut)
    conditions = {table: " OR ".join(f"({cut.condition()})" for cut in of) for table, of in by_table.items()}
    silver = by_table.get("silver_events")
    if silver is None:
        return conditions
    # An id is free again from here on; of one that came again the row is of a later run.
    tenants = ", ".join(literal(tenant) for tenant in sorted({cut.tenant for cut in silver}))
    ids = (
        f"tenant IN ({tenants}) AND run <= {max(cut.through for cut in silver)}"
        f" AND event_id IN (SELECT event_id FROM silver_events WHERE {conditions['silver_events']})"
    )
    return {"silver_ids": ids, **conditions}
