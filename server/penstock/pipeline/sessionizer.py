"""Runs that make sessions of the silver rows that have none yet.

Finding the stored sessions of a batch's visitors costs more the more sessions are stored, so under load it is done for
many runs of events at once, and beside them: gold does not wait for it, and is as fresh as without.
"""

import asyncio
import time

from penstock import limits
from penstock.pipeline import sessions
from penstock.pipeline.attempts import Attempts, since_ms
from penstock.pipeline.runs import Run, Step
from penstock.pipeline.tenants import MADE, by_tenant, streams_of
from penstock.pipeline.versions import Version, Versions
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import Engine, Lane

_DONE = """
SELECT max(JSONExtractInt(detail, 'sessions')) AS done
FROM commits
WHERE operation = 'etl' AND position(detail, '"sessions"') > 0
"""
_PENDING = f"""
SELECT max(run) AS through, sum(rows) AS total, {MADE} AS made
FROM commits
WHERE operation = 'etl' AND run > {{done:Int64}} AND run <= {{gold:Int64}} AND rows > 0
"""


class Sessionizer:
    """Makes sessions, one run at a time."""

    def __init__(self, engine: Engine, log: CommitLog, versions: Versions) -> None:
        self._engine = engine
        self._log = log
        self._versions = versions
        self._one = asyncio.Lock()
        self._done = 0  # the last run of events whose rows are in sessions
        self._generation = -1  # of the versions, when that was read
        self.seen = -1  # the version of gold for which nothing is left to do
        self.current: Attempts | None = None

    async def run(self, attempts: Attempts) -> Run | None:
        """Brings all silver rows that are visible now into sessions; None when there are none.

        Raises as `Attempts.of`.
        """
        async with self._one:
            self.current = attempts
            try:
                return await attempts.of(self._attempt)
            finally:
                self.current = None

    async def _attempt(self, attempts: Attempts) -> bool:
        async with self._versions.lock:
            await self._versions.clean()
            await self._read_done()
            version = self._versions.ahead()
        gold = version.before.gold.run
        found = await self._engine.rows(_PENDING, {"done": self._done, "gold": gold}, lane=Lane.PIPELINE)
        through, rows = int(found[0]["through"]), int(found[0]["total"])
        if not rows:
            self.seen = gold
            return False
        attempts.note(tenants=by_tenant(found[0]["made"]))
        attempts.check()
        try:
            await self._make(attempts, version, through, rows)
        except BaseException:
            self._versions.spoil()
            raise
        self._done = through
        attempts.note(run=version.run)
        return True

    async def _make(self, attempts: Attempts, version: Version, through: int, rows: int) -> None:
        started = time.perf_counter()
        async with self._versions.writing_ahead:
            # Actors do not meet, so a part of them at a time bounds the memory that it takes.
            parts = -(-rows // limits.PIPELINE_BATCH_ROWS)
            for part in range(parts):
                attempts.check()
                await sessions.build(
                    self._engine,
                    version.before,
                    run=version.run,
                    since=self._done,
                    through=through,
                    part=part,
                    parts=parts,
                )
        async with self._versions.lock:
            written = (await self._versions.written(version)).get("sessions", {})
            tenants = attempts.run.tenants
            attempts.note(steps=(Step.of_all("sessions", tenants, since_ms(started), rows_out=written),))
            gold = self._log.gold
            # It reads no commits, so the next run of events begins where it would have.
            entry = Entry(
                "etl",
                run=version.run,
                first_commit=gold.last_commit + 1,
                last_commit=gold.last_commit,
                detail={
                    "trigger": attempts.run.trigger.value,
                    "caller": attempts.run.caller,
                    "sessions": through,
                },
                streams=streams_of(dict.fromkeys(tenants, 0)),
            )
            await self._versions.publish(version, entry)

    async def _read_done(self) -> None:
        if self._generation != self._versions.generation:
            self._done = await last_done(self._engine)
            self._generation = self._versions.generation


async def last_done(engine: Engine) -> int:
    """The last run of events whose rows are in sessions."""
    return int((await engine.rows(_DONE, lane=Lane.PIPELINE))[0]["done"])
