"""What was written to a table of accounts since one last looked, by whichever server."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.accounts.bounds import FOLLOW_OVERLAP_S
from penstock.storage.engine import Engine, Row

T = TypeVar("T")

_SEEN = "SELECT count() AS rows, toUnixTimestamp64Micro(max(stored)) AS newest FROM {table}"


class Changes:
    """Follows one append-only table."""

    def __init__(self, engine: Engine, table: str, sql: str) -> None:
        """`sql` selects each thing as it is now, of which a row was stored at `{since:Int64}` microseconds or later."""
        self._engine = engine
        self._seen = _SEEN.format(table=table)
        self._sql = sql
        self._rows = 0
        self._newest = 0

    async def read(self) -> list[Row]:
        """What changed since the last call, as it is now; everything the first time. Raises Unavailable, TimedOut.

        Whether there are more rows tells without a doubt that there is something new, whatever the clocks say; only
        which it is goes by time, and there with much to spare.
        """
        seen = (await self._engine.rows(self._seen))[0]
        if int(seen["rows"]) == self._rows:
            return []
        since = max(0, self._newest - int(FOLLOW_OVERLAP_S * 1e6))
        rows = await self._engine.rows(self._sql, {"since": since})
        self._rows, self._newest = int(seen["rows"]), int(seen["newest"])
        return rows


async def finished(change: Coroutine[Any, Any, T]) -> T:
    """Makes a change to its end, even when who asked for it goes away: what is in memory is to be what is stored."""
    return await asyncio.shield(change)
