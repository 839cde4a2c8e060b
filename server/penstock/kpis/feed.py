"""Pushes KPIs to those who watch them: one computation a version of gold and scope, whoever watches.

A watcher is a loop over the reader's answers, which are shared; so there is no queue that a slow one could fill: it
gets what is newest when it comes for the next frame.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeAlias

from penstock import limits
from penstock.errors import Overloaded, PenstockError
from penstock.kpis.reader import KpiReader
from penstock.kpis.windows import Freshness, Latest, Scope, Snapshot
from penstock.storage.commit_log import CommitLog
from penstock.storage.deadline import detached
from penstock.storage.shares import Shares

HEARTBEAT_INTERVALS = 3


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing changed for HEARTBEAT_INTERVALS intervals."""

    freshness: Freshness


@dataclass(frozen=True, slots=True)
class Failed:
    """The watch ends because of this."""

    error: PenstockError


@dataclass(frozen=True, slots=True)
class Ended:
    """The watch ends because the server stops."""


Frame: TypeAlias = Snapshot | Heartbeat | Failed | Ended


class KpiFeed:
    """Feeds watchers until it is closed."""

    def __init__(self, reader: KpiReader, log: CommitLog, watchers_max: int = limits.KPI_WATCHERS_MAX) -> None:
        self._reader = reader
        self._log = log
        self._room = Shares(2 * watchers_max, watchers_max)
        self._watchers = 0
        self._moved = asyncio.Condition()
        self._closing = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return self._watchers

    async def watch(self, scope: Scope, interval_s: float) -> AsyncGenerator[Frame, None]:
        """The latest figures at once and whenever they differ, at most one frame in `interval_s`.

        The last frame is Failed or Ended. Raises Overloaded instead of the first frame when too many watch already.
        """
        if not self._room.take(scope.tenant):
            raise Overloaded("too many watches are open already", reason="TOO_MANY_WATCHERS", retry_after_s=interval_s)
        if self._follower is None and not self._closing.is_set():
            self._follower = detached(self._follow())
        self._watchers += 1
        try:
            async with contextlib.aclosing(self._frames(scope, interval_s)) as frames:
                async for frame in frames:
                    yield frame
        except PenstockError as error:
            yield Failed(error)
        finally:
            self._watchers -= 1
            self._room.give_back(scope.tenant)

    async def close(self) -> None:
        """Ends all watches: each gets Ended as soon as it comes for a frame. Later watches get only that."""
        self._closing.set()
        async with self._moved:
            self._moved.notify_all()
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def _frames(self, scope: Scope, interval_s: float) -> AsyncGenerator[Frame, None]:
        now = asyncio.get_running_loop().time
        sent: Latest | None = None
        sent_at = now()
        while not self._closing.is_set():
            snapshot = await self._reader.snapshot(scope)
            heartbeat_at = sent_at + HEARTBEAT_INTERVALS * interval_s
            frame: Frame | None = None
            if snapshot.latest != sent:
                frame = snapshot
            elif now() >= heartbeat_at:
                frame = Heartbeat(snapshot.freshness)
            if frame is not None:
                sent, sent_at = snapshot.latest, now()
                heartbeat_at = sent_at + HEARTBEAT_INTERVALS * interval_s
                yield frame
                await self._rest(sent_at + interval_s - now())
            await self._change(snapshot.latest.shown.gold.run, heartbeat_at - now())
        yield Ended()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _change(self, run: int, seconds: float) -> None:
        """Waits until gold is past `run`, the feed closes, or `seconds` went by."""
        with contextlib.suppress(TimeoutError):
            async with self._moved, asyncio.timeout(seconds):
                await self._moved.wait_for(lambda: self._log.gold.run != run or self._closing.is_set())

    async def _follow(self) -> None:
        """Wakes the watchers when gold moved; commits of events, which are many more, wake only this."""
        head, run = self._log.head, self._log.gold.run
        while True:
            await self._log.wait_beyond(head)
            head = self._log.head
            if self._log.gold.run != run:
                run = self._log.gold.run
                async with self._moved:
                    self._moved.notify_all()
