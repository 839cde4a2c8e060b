"""All that is stored of accounts, and how servers that share a database keep up with each other."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from penstock.accounts.bounds import FOLLOW_S
from penstock.accounts.sessions import Sessions
from penstock.accounts.stored_keys import StoredKeys
from penstock.accounts.stored_users import StoredUsers
from penstock.errors import PenstockError
from penstock.storage.engine import Engine

log = structlog.get_logger()


class AccountStore:
    """Users, keys and sessions. What a call needs to know of them is in memory."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        def now() -> datetime:
            return datetime.fromtimestamp(clock(), UTC)

        self.users = StoredUsers(engine, now)
        self.keys = StoredKeys(engine, now)
        self.sessions = Sessions(engine, now)

    async def open(self) -> None:
        """Reads what is there. Raises Unavailable, TimedOut."""
        await self.refresh()

    async def refresh(self) -> None:
        """Sees what other servers changed. Raises Unavailable, TimedOut."""
        await self.sessions.refresh()
        await self.users.refresh()
        await self.keys.refresh()

    async def follow(self) -> None:
        """Keeps up with other servers, and stores when keys were used, until cancelled."""
        while True:
            for step in (self.refresh, self.keys.write_uses):
                try:
                    await step()
                except PenstockError as error:  # what was known before still counts
                    log.warning("accounts cannot be read or written", error=error.reason)
            await asyncio.sleep(FOLLOW_S)
