"""What one call tells of itself while it runs: whether its answer came from a cache, and what it spent its time on.

It goes with the task of the call and with the tasks that it starts, so nothing in between passes it on. The edge begins
it, and reads it when the call has ended. A computation that runs `detached`, because it belongs to all who wait for it,
tells nothing here; whoever waits for it can.
"""

import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

STAGES_MAX = 16  # names of one call; the time of further ones is kept under OTHER, so that none is lost
OTHER = "other"


@dataclass(slots=True)
class Observation:
    """What is known of a call."""

    cache: bool | None = None  # whether nothing had to be computed; None: it looked into no cache
    cache_s: float = 0.0  # that looking into caches took, seconds
    stages: dict[str, float] = field(default_factory=dict)  # milliseconds by name; what runs at once adds up to more


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


def begin() -> Observation:
    """From here on this task tells of itself in what is returned. Each rpc is a task of its own: nothing to reset."""
    observation = Observation()
    _current.set(observation)
    return observation


def note_cache(hit: bool, seconds: float) -> None:
    """An answer, or a part of one, was looked for in a cache for so long, and found or not.

    Of many parts one that was missing makes it a miss.
    """
    observation = _current.get()
    if observation is not None:
        observation.cache = hit and observation.cache is not False
        observation.cache_s += seconds


def note_stage(name: str, ms: float) -> None:
    """So many milliseconds went into `name`; what goes into the same name again is added."""
    observation = _current.get()
    if observation is not None:
        stages = observation.stages
        if name not in stages and len(stages) >= STAGES_MAX:
            name = OTHER
        stages[name] = stages.get(name, 0.0) + ms


def stage(name: str) -> AbstractContextManager[None]:
    """Notes how long its block took, however it ends."""
    return _Stage(name)


class _Stage:
    """A class, because a generator's context manager costs three times as much."""

    __slots__ = ("_began", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        note_stage(self._name, (time.perf_counter() - self._began) * 1e3)
