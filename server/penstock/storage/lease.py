"""Who may write, where several servers look at one database: the holder of the newest epoch, until it expires.

A row of `leases` says that a holder has an epoch until a time by the database's clock. A server that finds the newest
epoch expired adds the next one, waits until every such statement that began before must have ended, and reads back: of
several holders of one epoch the lowest has it. The holder adds rows with later times as long as it lives, and stops
writing by its own clock before its last known time comes.

A clock that stood still for a while is not trusted with that: whoever takes over ends the statements of those before,
and statements carry the lease's condition themselves (the fence), so one that begins too late has no effect.

With the embedded engine there is no lease: the lock of the data folder is one.
"""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator

import structlog

from penstock import limits
from penstock.errors import PenstockError, Unavailable
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.payload import literal

log = structlog.get_logger()

NAME = "commits"

# The newest epoch and its holder; `left_ms` is by the database's clock, so the servers' own need not agree.
_NEWEST = """
SELECT epoch, holder, dateDiff('millisecond', now64(6, 'UTC'), max(expires)) AS left_ms
FROM leases
WHERE name = {name:String} AND epoch = (SELECT max(epoch) FROM leases WHERE name = {name:String})
GROUP BY epoch, holder
ORDER BY holder
LIMIT 1
"""
_LAST_EPOCH = "SELECT max(epoch) AS epoch FROM commits"
# Adds a row only if nobody was faster.
_ADD = """
INSERT INTO leases (name, epoch, holder, expires)
SELECT {name:String}, {epoch:Int64}, {holder:String}, now64(6, 'UTC') + toIntervalMillisecond({valid_ms:Int64})
WHERE (SELECT max(epoch) FROM leases WHERE name = {name:String}) <= {seen:Int64}
"""


class Lease:
    """This server's part in who writes. `keep` runs as long as the server; `held` may be asked at any time."""

    def __init__(
        self,
        engine: Engine,
        *,
        holder: str = "",
        valid_s: float = limits.LEASE_S,
        settle_s: float = limits.LEASE_SETTLE_S,
    ) -> None:
        """`holder` is unique to this server's process."""
        self._engine = engine
        self._valid_s = valid_s
        self._settle_s = settle_s
        self._lock = asyncio.Lock()
        self._until = 0.0  # on the clock of time.monotonic
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.epoch = 0  # the newest that this server had
        self.seen = ""  # who had it when this server last looked; empty: nobody

    @property
    def held(self) -> bool:
        """Whether this server may write. False a fifth of the lease's time before another may."""
        return time.monotonic() < self._until

    @property
    def retry_after_s(self) -> float:
        """When another server will have it at the latest, if this one's holder is gone."""
        return self._valid_s / 2

    def condition(self, epoch: int) -> str:
        """In SQL: `epoch` is this server's, and still the newest."""
        newest = f"SELECT epoch, holder FROM leases WHERE name = {literal(NAME)} ORDER BY epoch DESC, holder LIMIT 1"
        return f"(SELECT tuple(epoch, holder) FROM ({newest})) = tuple({epoch}, {literal(self.holder)})"

    async def keep(self) -> None:
        """Takes the lease when it is free and renews it, until cancelled; then gives it back."""
        try:
            await self._keep_renewing()
        finally:
            with contextlib.suppress(PenstockError):
                await self.release()

    @contextlib.asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renews the lease, which is held, while the context lasts. Afterwards it is still held, for `keep` to go on;
        only where the context fails is it given back."""
        renewing = asyncio.create_task(self._keep_renewing(), name="lease")
        try:
            try:
                yield
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
        except BaseException:
            with contextlib.suppress(PenstockError):
                await self.release()
            raise

    async def _keep_renewing(self) -> None:
        while True:
            try:
                await self.renew()
            except PenstockError as error:
                log.warning("lease not renewed", reason=error.reason, held=self.held)
            await asyncio.sleep(self._valid_s / 4)

    async def renew(self) -> bool:
        """One step of `keep`: renews or tries to take the lease. Returns `held`. Raises what the engine raises."""
        async with self._lock:
            began = time.monotonic()
            newest = await self._newest()
            if newest is not None and newest["holder"] == self.holder:
                # Perhaps an epoch that this server added without learning so; it is this server's all the same.
                await self._add(newest["epoch"], seen=newest["epoch"])
                await self._confirm(newest["epoch"], began)
            elif newest is None or newest["left_ms"] <= 0:
                await self._take(newest)
            else:
                self._lose()
            return self.held

    async def advance(self) -> None:
        """Moves to a new epoch, so that what this server's earlier statements may yet do is fenced off.

        Raises Unavailable (NOT_LEADER) when the lease went to another server meanwhile.
        """
        async with self._lock:
            began = time.monotonic()
            epoch = self.epoch + 1
            if self.held:
                await self._add(epoch, seen=self.epoch)
                await self._confirm(epoch, began)
            self.check()

    def check(self) -> None:
        """Raises Unavailable (NOT_LEADER) unless the lease is held."""
        if not self.held:
            raise Unavailable(
                "another server writes; this one only reads", reason="NOT_LEADER", retry_after_s=self.retry_after_s
            )

    async def release(self) -> None:
        """Gives the lease back, so that another server need not wait until it expires."""
        async with self._lock:
            if self.held:
                self._lose()
                # An epoch of nobody's, already over.
                await self._add(self.epoch + 1, seen=self.epoch, holder="", valid_s=0.0)

    async def _take(self, newest: Row | None) -> None:
        began = time.monotonic()
        seen = int(newest["epoch"]) if newest else 0
        # Rows of old epochs go in time, and an epoch must not come again.
        logged = int((await self._engine.rows(_LAST_EPOCH))[0]["epoch"])
        epoch = max(seen, logged) + 1
        await self._add(epoch, seen=seen)
        await asyncio.sleep(self._settle_s)
        await self._confirm(epoch, began)

    async def _confirm(self, epoch: int, began: float) -> None:
        newest = await self._newest()
        if newest is None or (newest["epoch"], newest["holder"]) != (epoch, self.holder):
            self._lose()
            return
        if not self.held or epoch != self.epoch:
            log.info("this server writes", epoch=epoch, holder=self.holder)
        self.epoch = epoch
        self._until = began + self._valid_s * 0.8

    def _lose(self) -> None:
        if self.held:
            log.warning("this server writes no longer", epoch=self.epoch, holder=self.holder)
        self._until = 0.0

    async def _newest(self) -> Row | None:
        found = await self._engine.rows(_NEWEST, {"name": NAME}, timeout_s=self._settle_s * 0.8)
        self.seen = str(found[0]["holder"]) if found else ""
        return found[0] if found else None

    async def _add(self, epoch: int, *, seen: int, holder: str | None = None, valid_s: float | None = None) -> None:
        # Bounded in time, so that after the settling none of these can still be under way.
        await self._engine.execute(
            _ADD,
            {
                "name": NAME,
                "epoch": epoch,
                "seen": seen,
                "holder": self.holder if holder is None else holder,
                "valid_ms": int((self._valid_s if valid_s is None else valid_s) * 1000),
            },
            lane=Lane.READ,
            timeout_s=self._settle_s * 0.8,
        )
