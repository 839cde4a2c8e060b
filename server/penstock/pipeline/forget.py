"""Forgets a user in everything that events made, for good.

The log says it first, in a row `forget`; then everything is made anew that the user's events had a part in, then their
rows go from disk, then every table is looked through, and a row `forgotten` ends it. What broke off in between, in a
crash say, is done again from the beginning by `resume`, from what is still there: each step leaves alone what a later
one has to know. No run is published meanwhile and no cleanup runs, so all of it is about one state of the tables; only
events go on to come, and those that come after the log row are of a new user. Where nothing names the user, nothing is
done.

Readers see the steps: for a moment a minute lacks what others did in it, see `rebuild_gold`, or figures are without the
user whose events are still there. When all is done an empty run is published, a new version of gold; so what was kept
in memory of the versions before is not given as an answer to what is now.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from penstock import failpoints
from penstock.errors import PenstockError, invalid_field
from penstock.pipeline import forget_figures as figures
from penstock.pipeline import forget_rows as rows
from penstock.pipeline.batch import Batch
from penstock.pipeline.cleanup import SERVER, Cleaner
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.forget_rows import PersonalTable
from penstock.pipeline.person import Forgetting, Person
from penstock.pipeline.runner import PipelineRunner
from penstock.pipeline.versions import Versions
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane
from penstock.storage.payload import literal
from penstock.storage.removals import parsed

log = structlog.get_logger()

LINKED_VISITORS_MAX = 1_000  # as the contract has it
FORGET_RETRY_S = 60.0  # what broke off is tried again so often

_LINKED = """
SELECT DISTINCT visitor_id
FROM bronze_events
WHERE tenant = {tenant} AND {is_user} AND visitor_id != '' AND NOT {is_visitor}
ORDER BY visitor_id
LIMIT {limit}
"""
_BEGUN = """
SELECT commit, time, run, detail
FROM commits
WHERE operation = 'forget' AND ({tenant:String} = '' OR JSONExtractString(detail, 'tenant') = {tenant:String})
    AND commit NOT IN
(
    SELECT JSONExtractInt(detail, 'forget') FROM commits WHERE operation = 'forgotten'
)
ORDER BY commit
"""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a forgetting did."""

    removed: Mapping[str, int]  # rows, by table
    remaining: Mapping[str, int]  # rows that still name the user, by table, after looking through all of them
    linked_visitor_ids: Sequence[str]  # that events named beside the user, at most LINKED_VISITORS_MAX


class Forgetter:
    """Forgets users, one at a time."""

    def __init__(
        self,
        engine: Engine,
        log: CommitLog,
        runner: PipelineRunner,
        cleaner: Cleaner,
        daily: DailyCalculator,
        settings: Settings,
        also: Sequence[PersonalTable] = (),
        before: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`also` are tables of other areas; `before` brings to the tables what is still in memory of users."""
        self._engine = engine
        self._log = log
        self._runner = runner
        self._cleaner = cleaner
        self._daily = daily
        self._currency = settings.currency
        self._also = tuple(also)
        self._before = tuple(before)
        self._ended_epoch: int | None = None  # of the log, when all that had begun had ended
        self._loop: asyncio.Task[None] | None = None

    async def forget(self, tenant: str, user_id: str) -> Forgotten:
        """Forgets the user as whom, or as whose visitor id, `user_id` stands in events.

        Once begun it is finished, even when the caller goes away. Raises InvalidInput for an empty id; Conflict
        (RUN_IN_PROGRESS) when a cleanup or another forgetting of the tenant's is under way, TimedOut when others' took
        too long; Unavailable, TimedOut or Overloaded when it broke off, to be ended later; Unavailable (NOT_LEADER) at
        once when another server writes.
        """
        if not user_id:
            raise invalid_field("user_id", "must be set")
        self._log.check_leads()
        return await self._cleaner.alone(tenant, self._forget(tenant, user_id))

    async def resume(self) -> None:
        """Ends what began and did not end. One that fails holds up no other: it is logged, and tried again later.

        Call it where this process writes, before the pipeline starts: what that makes of the user's events meanwhile
        would be there to be seen until then. Raises Unavailable, TimedOut or Overloaded when it cannot be known what
        began.
        """
        self._log.check_leads()
        await self._cleaner.alone(SERVER, self._resume())

    def start(self) -> None:
        """Ends from now on what broke off, or what a server left that wrote before this one."""
        self._loop = asyncio.create_task(self._follow(), name="forget")

    async def stop(self) -> None:
        """Ends the loop. What is under way is the cleaner's to stop, and the next start's to end."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
            self._loop = None

    async def _follow(self) -> None:
        while True:
            try:
                if self._log.leads and self._ended_epoch != self._log.epoch:
                    await self.resume()
            except PenstockError as error:
                log.warning("a forgetting was not ended", error=error.message)
            except Exception:
                log.exception("a forgetting failed")
            await asyncio.sleep(FORGET_RETRY_S)

    @asynccontextmanager
    async def _undisturbed(self) -> AsyncIterator[Versions]:
        """Inside it nobody else writes what runs make, and no statement of before still does."""
        async with self._runner.quiet() as versions, versions.alone():
            yield versions

    async def _forget(self, tenant: str, user_id: str) -> Forgotten:
        for bring in self._before:
            await bring()
        person = await Person.named(self._engine, tenant, user_id)
        begun = await self._begun(tenant)
        if not begun and (nothing := await self._nothing(person)) is not None:
            return nothing
        ended_epoch, self._ended_epoch = self._ended_epoch, None  # until this one ended
        async with self._undisturbed() as versions:
            linked = await self._linked(person)
            for forgetting in await self._begun(tenant):
                await self._end(forgetting, versions)
            forgetting = await self._begin(person)
            failpoints.reached("forget.after_log")
            removed, remaining = await self._end(forgetting, versions)
        self._ended_epoch = ended_epoch
        return Forgotten(removed, remaining, linked)

    async def _nothing(self, person: Person) -> Forgotten | None:
        """What there is to say of a user whom nothing names; None of one whom something does.

        Only silver and what is made of it could come to name them meanwhile, and only from bronze, where they are not.
        """
        now = Forgetting(person, self._log.head, datetime.now(UTC), self._log.gold.run)
        remaining = await rows.remaining(self._engine, now)
        if any(remaining.values()):
            return None
        return Forgotten({**remaining, "silver_ids": 0, "rejected_replays": 0}, remaining, [])

    async def _resume(self) -> None:
        ended = True
        for forgetting in await self._begun():
            try:
                async with self._undisturbed() as versions:
                    await self._end(forgetting, versions)
            except Exception as error:
                ended = False
                what = error.message if isinstance(error, PenstockError) else repr(error)
                log.error("a forgetting was not ended", tenant=forgetting.person.tenant, error=what)
        self._ended_epoch = self._log.epoch if ended else None

    async def _begun(self, tenant: str = "") -> list[Forgetting]:
        """What began and did not end, of one tenant or of all."""
        found = await self._engine.rows(_BEGUN, {"tenant": tenant}, lane=Lane.PIPELINE)
        return [
            Forgetting(Person.told(parsed(row["detail"])), row["commit"], row["time"].replace(tzinfo=UTC), row["run"])
            for row in found
        ]

    async def _begin(self, person: Person) -> Forgetting:
        run = self._log.gold.run
        async with self._log.transaction() as transaction:
            await transaction.append(Entry("forget", run=run, detail=person.detail()))
        return Forgetting(person, transaction.commit, transaction.time, run)

    async def _linked(self, person: Person) -> list[str]:
        sql = _LINKED.format(
            tenant=literal(person.tenant),
            is_user=person.is_user("user_id"),
            is_visitor=person.is_user("visitor_id"),
            limit=LINKED_VISITORS_MAX,
        )
        return [row["visitor_id"] for row in await self._engine.rows(sql, lane=Lane.PIPELINE)]

    async def _end(self, forgetting: Forgetting, versions: Versions) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """All that follows the log row; what was removed, and what remains."""
        engine, tenant = self._engine, forgetting.person.tenant
        visits = await figures.count(engine, "gold_visits", forgetting.visits)
        await figures.rebuild_gold(engine, forgetting)
        failpoints.reached("forget.after_gold")
        await figures.rebuild_sessions(engine, self._log, forgetting)
        await figures.process_again(engine, self._log, versions, forgetting, self._currency)
        await figures.rebuild_days(engine, self._daily, forgetting)
        removed = {**await rows.remove(engine, forgetting, self._also), "gold_visits": visits}
        remaining = await rows.remaining(engine, forgetting)
        failpoints.reached("forget.before_done")
        await self._renew(tenant, versions)
        detail = {"tenant": tenant, "forget": forgetting.commit, "removed": removed}
        async with self._log.transaction() as transaction:
            await transaction.append(Entry("forgotten", rows=sum(removed.values()), detail=detail))
        if any(remaining.values()):
            log.error("a user is forgotten, but not everywhere", tenant=tenant, remaining=remaining)
        log.info("forgot a user", tenant=tenant, rows=sum(removed.values()))
        return removed, remaining

    async def _renew(self, tenant: str, versions: Versions) -> None:
        """Publishes an empty run, so that answers that were kept are of another version; without any run there are
        none."""
        if self._log.gold.run:
            version, last_commit = versions.next(), self._log.gold.last_commit
            batch = Batch(version.run, last_commit, last_commit + 1, last_commit, 0)
            await versions.publish(version, figures.run_entry(batch, tenant, 0))
