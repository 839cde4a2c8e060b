"""Has the answers that are asked for most computed before anybody asks again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from penstock.errors import PenstockError

log = structlog.get_logger()

LOOK_S = 2.0  # between two looks at whether answers have become old
AT_REST_LOOKS = 2  # what changes all the time is not warmed after each change
AT_ONCE = 50  # answers that are warmed after a change
PAUSE_S = 0.005  # between two of them: whoever asks now comes first


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was done."""

    computed: int = 0
    kept: int = 0  # there already


class Warm(Protocol):
    """Answers of one area."""

    def tenants(self) -> set[str]:
        """Who has answers worth warming."""
        ...

    def version(self, tenant: str) -> str | None:
        """What the tenant's answers depend on, in one word; None while that cannot be said."""
        ...

    async def warm(self, tenant: str, limit: int) -> Warmed:
        """Computes the most popular answers that are not kept, `limit` at most. Raises PenstockError."""
        ...


class Warmer:
    """Warms in the background, whenever what answers depend on has changed and come to rest."""

    def __init__(self, areas: Sequence[Warm]) -> None:
        self._areas = areas
        self._warm: dict[tuple[int, str], str] = {}  # by area and tenant: the version that was warmed,
        self._seen: dict[tuple[int, str], tuple[str, int]] = {}  # and that seen last, with how often
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._follow(), name="warm-caches")

    async def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for place, area in enumerate(self._areas):
                for tenant in area.tenants():
                    await self._look(place, area, tenant)

    async def _look(self, place: int, area: Warm, tenant: str) -> None:
        version = area.version(tenant)
        if version is None or self._warm.get((place, tenant)) == version:
            return
        seen, times = self._seen.get((place, tenant), ("", 0))
        times = times + 1 if seen == version else 1
        self._seen[(place, tenant)] = (version, times)
        if times < AT_REST_LOOKS:
            return
        try:
            done = await area.warm(tenant, AT_ONCE)
        except PenstockError as error:  # the server is busy, or stopping: answers are computed when they are asked for
            log.debug("answers were not warmed", tenant=tenant, error=error.message)
            return
        self._warm[(place, tenant)] = version
        if done.computed:
            log.debug("answers warmed", tenant=tenant, computed=done.computed)
