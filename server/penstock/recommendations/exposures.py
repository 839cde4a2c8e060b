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
from penstock.storage.shares import Shares

log = structlog.get_logger()

EVENT_TYPE = "exposure"
BATCH_EVENTS = 1_000
_Shown: TypeAlias = tuple[str, str, str]  # a user, an experiment and a variant
Store: TypeAlias = Callable[[str, Sequence[Event]], Awaitable[None]]


class Exposures:
    """The queue of exposures, and the task that stores them."""

    def __init__(self, store: Store) -> None:
        """`store(tenant, events)` stores events."""
        self._store = store
        self._queue: asyncio.Queue[tuple[str, Event]] = asyncio.Queue()  # `_room` bounds it
        self._room = Shares(2 * limits.EXPOSURES_QUEUED_MAX, limits.EXPOSURES_QUEUED_MAX)
        self._known: dict[str, OrderedDict[_Shown, float]] = {}  # by tenant
        self._known_count = 0
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
        known = self._known.setdefault(tenant, OrderedDict())
        for each in assignments:
            shown = (user_id, each.experiment, each.variant)
            if now - known.get(shown, -limits.EXPOSURE_AGAIN_S) < limits.EXPOSURE_AGAIN_S:
                continue
            if not self._room.take(tenant):
                self.dropped += 1
                continue
            self._know(known, shown, now)
            event = Event(
                event_type=EVENT_TYPE,
                user_id=user_id,
                properties={"experiment": each.experiment, "variant": each.variant},
            )
            event.timestamp.GetCurrentTime()
            self._queue.put_nowait((tenant, event))

    def forget(self, tenant: str, user_id: str) -> None:
        """Knows nothing of the user any more."""
        known = self._known.get(tenant, OrderedDict())
        for shown in [shown for shown in known if shown[0] == user_id]:
            del known[shown]
            self._known_count -= 1

    def _know(self, known: OrderedDict[_Shown, float], shown: _Shown, now: float) -> None:
        """Notes an exposure. Of too many the oldest goes of the tenant that has most, so none takes another's room."""
        self._known_count += shown not in known
        known[shown] = now
        known.move_to_end(shown)
        if self._known_count > limits.EXPOSURES_KNOWN_MAX:
            max(self._known.values(), key=len).popitem(last=False)
            self._known_count -= 1

    async def _run(self) -> None:
        while True:
            await self._store_some(await self._queue.get())

    async def _store_some(self, first: tuple[str, Event]) -> None:
        by_tenant: dict[str, list[Event]] = {first[0]: [first[1]]}
        for _ in range(min(self._queue.qsize(), BATCH_EVENTS)):
            tenant, event = self._queue.get_nowait()
            by_tenant.setdefault(tenant, []).append(event)
        for tenant, events in by_tenant.items():
            self._room.give_back(tenant, len(events))
            try:
                await self._store(tenant, events)
            except PenstockError as error:
                self.dropped += len(events)
                log.warning("exposures were not stored", tenant=tenant, events=len(events), error=error.message)
