"""Records who was shown which variant of an experiment, as events like any other, beside the recommendation.

A recommendation does not wait for it, nor fail with it. Of a user and experiment one exposure an hour is stored: the
first is what results are computed from.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog

from penstock import limits
from penstock.errors import PenstockError
from penstock.events.v1.events_pb2 import Event
from penstock.recommendations.experiments import Assignment

log = structlog.get_logger()

EVENT_TYPE = "exposure"
BATCH_EVENTS = 1_000
Store: TypeAlias = Callable[[str, Sequence[Event]], Awaitable[None]]


class Exposures:
    """The queue of exposures, and the task that stores them."""

    def __init__(self, store: Store) -> None:
        """`store(tenant, events)` stores events."""
        self._store = store
        self._queue: asyncio.Queue[tuple[str, Event]] = asyncio.Queue(limits.EXPOSURES_QUEUED_MAX)
        self._known: OrderedDict[tuple[str, str, str, str], float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def start(self) -> None:
        """Begins to store."""
        self._task = asyncio.create_task(self._run(), name="exposures")

    async def stop(self) -> None:
        """Stores what waits, and ends."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            await self._store_some(self._queue.get_nowait())

    def note(self, tenant: str, user_id: str, assignments: Sequence[Assignment]) -> None:
        """The user was shown these."""
        now = time.monotonic()
        for each in assignments:
            key = (tenant, user_id, each.experiment, each.variant)
            if now - self._known.get(key, -limits.EXPOSURE_AGAIN_S) < limits.EXPOSURE_AGAIN_S:
                continue
            self._known[key] = now
            self._known.move_to_end(key)
            if len(self._known) > limits.EXPOSURES_KNOWN_MAX:
                self._known.popitem(last=False)
            event = Event(
                event_type=EVENT_TYPE,
                user_id=user_id,
                properties={"experiment": each.experiment, "variant": each.variant},
            )
            event.timestamp.GetCurrentTime()
            try:
                self._queue.put_nowait((tenant, event))
            except asyncio.QueueFull:
                self.dropped += 1
                del self._known[key]

    def forget(self, tenant: str, user_id: str) -> None:
        """Knows nothing of the user any more."""
        for key in [key for key in self._known if key[:2] == (tenant, user_id)]:
            del self._known[key]

    async def _run(self) -> None:
        while True:
            await self._store_some(await self._queue.get())

    async def _store_some(self, first: tuple[str, Event]) -> None:
        by_tenant: dict[str, list[Event]] = {first[0]: [first[1]]}
        for _ in range(min(self._queue.qsize(), BATCH_EVENTS)):
            tenant, event = self._queue.get_nowait()
            by_tenant.setdefault(tenant, []).append(event)
        for tenant, events in by_tenant.items():
            try:
                await self._store(tenant, events)
            except PenstockError as error:
                self.dropped += len(events)
                log.warning("exposures were not stored", tenant=tenant, events=len(events), error=error.message)
