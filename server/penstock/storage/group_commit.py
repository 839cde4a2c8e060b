"""Commits of small writes that come all the time: whatever waits while one commit is made goes into the next.

A commit costs about the same for one row as for a thousand, so concurrent calls share them. One task writes; a call
waits until the commit that its write is in is durable. A write that cannot be stored fails by itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import structlog

from penstock import limits
from penstock.errors import Overloaded, PenstockError, TimedOut, Unavailable
from penstock.storage.commit_log import CommitLog, Entry, Transaction
from penstock.storage.isolation import Unstored, set_apart, tried
from penstock.storage.shares import Shares

log = structlog.get_logger()


class Item(Protocol):
    """What is to be written."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...


T = TypeVar("T", bound=Item)


@dataclass(slots=True)
class Write(Generic[T]):
    """One call's write, in the queue and in its commit."""

    item: T
    rows: int
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.item.tenant

    @property
    def answered(self) -> bool:
        """Whether it was stored or refused."""
        return self.done.done()

    def refuse(self, error: Exception) -> None:
        """Has this write fail and leaves the commit to the others; for the one who stores, before it does."""
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit(Generic[T]):
    """The queue of one kind of writes, and the task that commits them.

    `store(writes, transaction)` puts the rows of the writes into their table under the transaction's commit, refuses
    those that cannot be stored, and returns what the log is to say; None when nothing is to be written. It may be
    called again with the same writes, after a commit that did not come about. `landed(writes, commit, time)` is told of
    a commit that is durable, before those who wait for it.
    """

    def __init__(
        self,
        commit_log: CommitLog,
        *,
        name: str,
        store: Callable[[Sequence[Write[T]], Transaction], Awaitable[Entry | None]],
        landed: Callable[[Sequence[Write[T]], int, datetime], Awaitable[None]],
    ) -> None:
        self._log = commit_log
        self._name = name
        self._store = store
        self._landed = landed
        self._queue: deque[Write[T]] = deque()
        self._rows = Shares(limits.GROUP_ROWS_QUEUED_MAX)
        self._filled = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a commit or are in the one under way."""
        return self._rows.taken

    def start(self) -> None:
        """Begins to commit."""
        self._task = asyncio.create_task(self._run(), name=f"commit-{self._name}")

    async def stop(self) -> None:
        """Commits what is queued, takes nothing more, and ends."""
        self._closing = True
        self._filled.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def write(self, item: T, rows: int) -> int:
        """Returns the commit that `item` is in once it is durable; 0 when nothing had to be written.

        Raises Overloaded when too much of its tenant, or of all, waits; Unavailable when the server stops, another one
        writes or storage stays away; and what `store` refuses the write with.
        """
        self._log.check_leads()
        if self._closing:
            raise Unavailable("this server is stopping; ask another", reason="DRAINING", retry_after_s=0.5)
        if not self._rows.take(item.tenant, rows):
            raise Overloaded("too many writes wait for their commit", reason="OVERLOADED", retry_after_s=1.0)
        write = Write(item, rows)
        self._queue.append(write)
        self._filled.set()
        # A caller that goes away leaves its write in the commit: taking it out would not be told from a lost answer.
        return await asyncio.shield(write.done)

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._filled.clear()
                await self._filled.wait()
                continue
            writes = self._take()
            try:
                if await tried(writes, self._settle) is not None:
                    await set_apart(writes, self._settle, self._refuse)
            except Exception as error:
                log.exception("commit failed", kind=self._name, writes=len(writes))
                for write in writes:
                    write.refuse(error)
            finally:
                for write in writes:
                    self._rows.give_back(write.tenant, write.rows)
                    if write.done.done() and not write.done.cancelled():
                        write.done.exception()  # whose caller went away is not to be warned of

    def _take(self) -> list[Write[T]]:
        taken = [self._queue.popleft()]
        rows = taken[0].rows
        while self._queue and rows + self._queue[0].rows <= limits.GROUP_COMMIT_ROWS_MAX:
            rows += self._queue[0].rows
            taken.append(self._queue.popleft())
        return taken

    async def _settle(self, writes: Sequence[Write[T]]) -> None:
        """Tries until every write is answered: stored, refused, or given up because storage stays away.

        Raises Unstored with those that are not, none of which is stored.
        """
        deadline = time.monotonic() + limits.COMMIT_RETRY_S_MAX
        wait_s = 0.05
        unsure: tuple[list[Write[T]], int, datetime] | None = None  # whose log row may have been written
        while left := [write for write in writes if not write.done.done()]:
            try:
                async with self._log.transaction() as transaction:
                    if unsure is not None and await self._log.contains(unsure[1], unsure[2]):
                        await self._answer(*unsure)
                        return
                    unsure = None
                    entry = await self._put(left, transaction)
                    stored = [write for write in left if not write.done.done()]
                    if entry is not None:
                        unsure = (stored, transaction.commit, transaction.time)
                        await transaction.append(entry)
                await self._answer(stored, transaction.commit if entry is not None else 0, transaction.time)
                return
            except (Unavailable, Overloaded, TimedOut) as error:
                if time.monotonic() > deadline or self._closing or not self._log.leads:
                    self._give_up(left, error)
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 1.0)

    async def _put(self, writes: Sequence[Write[T]], transaction: Transaction) -> Entry | None:
        try:
            return await self._store(writes, transaction)
        except (Unavailable, Overloaded, TimedOut):
            raise
        except Exception as error:
            raise Unstored(str(error)) from error

    def _refuse(self, writes: Sequence[Write[T]], error: Unstored) -> None:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if not isinstance(cause, PenstockError):
            log.error("writes cannot be stored", kind=self._name, writes=len(writes), exc_info=cause)
        for write in writes:
            write.refuse(cause)

    async def _answer(self, stored: Sequence[Write[T]], commit: int, time: datetime) -> None:
        if commit:
            await self._landed(stored, commit, time)
        for write in stored:
            if not write.done.done():
                write.done.set_result(commit)

    def _give_up(self, writes: Sequence[Write[T]], error: PenstockError) -> None:
        for write in writes:
            write.refuse(error)
