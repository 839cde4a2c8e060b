"""How a run is tried, tried again, and recorded, whatever it does."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_any, stop_when_event_set
from tenacity.wait import wait_exponential_jitter

from penstock import limits
from penstock.errors import Overloaded, PenstockError, TimedOut, Unavailable
from penstock.pipeline import runs
from penstock.pipeline.runs import Run, State, Trigger
from penstock.storage.engine import Engine

log = structlog.get_logger()

INTERNAL = "INTERNAL"  # the reason of what is a fault of this program


class Attempts:
    """One run under way: what is known of it so far, and whether it should stop."""

    def __init__(
        self,
        engine: Engine,
        trigger: Trigger,
        *,
        stop: asyncio.Event,
        last_try: asyncio.Event,
        on_progress: Callable[[Run], None],
        caller: str = "",
    ) -> None:
        """`stop` ends the run at its next check; once `last_try` is set, it is not tried again."""
        self._engine = engine
        self._stop = stop
        self._last_try = last_try
        self._on_progress = on_progress
        self.run = Run(start_time=datetime.now(UTC), trigger=trigger, state=State.RUNNING, caller=caller)

    def note(self, **changes: object) -> None:
        """Brings what is known up to date."""
        self.run = replace(self.run, **changes)  # type: ignore[arg-type]
        self._on_progress(self.run)

    def check(self) -> None:
        """Ends the run here when it was asked to stop: call it where nothing is under way."""
        if self._stop.is_set():
            raise _StoppedError

    async def of(self, attempt: Callable[["Attempts"], Awaitable[bool]]) -> Run | None:
        """Runs `attempt`, again while its failures look passing, and records how it ended; None: nothing to do.

        Raises Unavailable (RUN_STOPPED) when the run was stopped, and what the last attempt raised.
        """
        started = time.perf_counter()
        try:
            found = await self._tried(attempt)
        except _StoppedError:
            await self._finish(started, State.CANCELLED)
            raise Unavailable("the run was stopped", reason="RUN_STOPPED", retry_after_s=1.0) from None
        except Exception as error:
            reason = error.reason if isinstance(error, PenstockError) else INTERNAL
            log.warning("a run failed", reason=reason, error=str(error) or type(error).__name__)
            await self._finish(started, State.FAILED, reason)
            raise
        return await self._finish(started, State.SUCCEEDED) if found else None

    async def _tried(self, attempt: Callable[["Attempts"], Awaitable[bool]]) -> bool:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Unavailable, TimedOut, Overloaded)),
            stop=stop_any(
                stop_after_attempt(1 + limits.PIPELINE_RETRIES_MAX),
                # Of an event they ask nothing but is_set().
                stop_when_event_set(self._stop),  # type: ignore[arg-type]
                stop_when_event_set(self._last_try),  # type: ignore[arg-type]
            ),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
            reraise=True,
        )
        found = False
        async for each in retrying:
            with each:
                self.run = replace(self.run, steps=(), retries=each.retry_state.attempt_number - 1)
                found = await attempt(self)
        return found

    async def _finish(self, started: float, state: State, error: str = "") -> Run:
        self.note(state=state, error=error, duration_ms=since_ms(started))
        try:
            await runs.record(self._engine, self.run)
        except PenstockError as failure:
            # The run stands in the commit log, or did not happen; this record is for people.
            log.warning("a run could not be recorded", state=state.value, error=failure.message)
        return self.run


class _StoppedError(Exception):
    """The run was asked to stop."""


def since_ms(started: float) -> float:
    """Milliseconds since `started`, of time.perf_counter."""
    return (time.perf_counter() - started) * 1e3
