"""Follows committed events: each once, in commit order."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from string import Template

from penstock import limits
from penstock.errors import OutOfRange, Overloaded, invalid_field
from penstock.events.reader import CANONICAL_TYPE, COLUMNS, Filter
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.shares import Shares
from penstock.storage.version import Version

_NEXT = Template(f"""
SELECT {COLUMNS}
FROM bronze_events
WHERE tenant = {{tenant:String}} AND $visible
    AND (commit, stream_id, offset) > ({{commit:Int64}}, {{stream_id:String}}, {{offset:Int64}})
    AND commit >= {{commit:Int64}}
    AND ({{event_type:String}} = '' OR {CANONICAL_TYPE} = {{event_type:String}})
    AND ({{site_id:String}} = '' OR site_id = {{site_id:String}})
ORDER BY commit, stream_id, offset
LIMIT {{limit:UInt32}}
""")
# What a cleanup removed can no longer be followed.
_CLEANED = """
SELECT max(commit) AS cleaned
FROM commits
WHERE operation = 'cleanup' AND commit > {commit:Int64} AND JSONExtractString(detail, 'tenant') = {tenant:String}
"""
_LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Position:
    """Behind one row, or with the last values behind a whole commit."""

    commit: int
    stream_id: str = _LAST_CHARACTER
    offset: int = 0

    def is_behind(self, other: "Position") -> bool:
        """Whether there may be rows behind `other` and up to here."""
        return (self.commit, self.stream_id, self.offset) > (other.commit, other.stream_id, other.offset)

    def token(self, tenant: str) -> str:
        """The resume token."""
        return token(tenant, "tail", [self.commit, self.stream_id, self.offset])


class Tails:
    """All tails of this server."""

    def __init__(self, engine: Engine, commit_log: CommitLog, draining: asyncio.Event) -> None:
        self._engine = engine
        self._log = commit_log
        self._draining = draining
        self._room = Shares(limits.TAIL_WATCHERS_MAX)

    async def follow(
        self, tenant: str, which: Filter, resume_token: str, heartbeat_s: float
    ) -> AsyncIterator[tuple[Row | None, Position]]:
        """Rows with the position behind each; (None, position) for a heartbeat. Ends when the server drains.

        Raises InvalidInput for a token that is not ours, OutOfRange for one whose rows were cleaned up, Overloaded
        at the bound of watchers.
        """
        position = await self._start(tenant, resume_token)
        if not self._room.take(tenant):
            raise Overloaded("too many tails are open", reason="OVERLOADED", retry_after_s=5.0)
        try:
            said = time.monotonic()  # when the last frame was sent: commits of other tenants also end a wait
            yield None, position  # at once, so that a reader that breaks off early knows where to resume
            while not self._draining.is_set():
                version = self._log.version
                head = version.commit
                rows = await self._rows(tenant, which, position, version) if Position(head).is_behind(position) else []
                for row in rows:
                    position = Position(row["commit"], row["stream_id"], row["offset"])
                    said = time.monotonic()
                    yield row, position
                if len(rows) == limits.TAIL_FETCH_ROWS:
                    continue
                position = Position(max(head, position.commit))
                await self._moved(head, said + heartbeat_s - time.monotonic())
                if time.monotonic() >= said + heartbeat_s and not self._draining.is_set():
                    said = time.monotonic()
                    yield None, position
        finally:
            self._room.give_back(tenant)

    async def _moved(self, head: int, timeout_s: float) -> None:
        """Waits for a commit, for the server to drain, or for the time to go by."""
        moved = asyncio.ensure_future(self._log.wait_beyond(head, max(0.0, timeout_s)))
        drained = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((moved, drained), return_when=asyncio.FIRST_COMPLETED)
        finally:
            moved.cancel()
            drained.cancel()

    async def _start(self, tenant: str, resume_token: str) -> Position:
        if not resume_token:
            return Position(self._log.head)
        wrong = invalid_field("resume_token", "is not one that this method gave", reason="INVALID_RESUME_TOKEN")
        commit, stream_id, offset = values_of(tenant, "tail", resume_token, (int, str, int), wrong)
        position = Position(int(commit), str(stream_id), int(offset))
        if position.commit > self._log.head:
            raise wrong
        cleaned = await self._engine.rows(_CLEANED, {"tenant": tenant, "commit": position.commit})
        if cleaned[0]["cleaned"]:
            raise OutOfRange(
                f"rows behind the token may have been cleaned up in commit {cleaned[0]['cleaned']}; begin anew",
                reason="RESUME_TOKEN_EXPIRED",
            )
        return position

    async def _rows(self, tenant: str, which: Filter, position: Position, version: Version) -> list[Row]:
        return await self._engine.rows(
            _NEXT.substitute(visible=version.visible("bronze_events")),
            {
                "tenant": tenant,
                "commit": position.commit,
                "stream_id": position.stream_id,
                "offset": position.offset,
                "event_type": which.event_type,
                "site_id": which.site_id,
                "limit": limits.TAIL_FETCH_ROWS,
            },
        )
