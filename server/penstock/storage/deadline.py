"""Until when a call wants its answer: told by the edge, kept to by every statement that the call waits for.

It goes with the task of the call, so nothing in between passes it on. What runs on when its caller went away, or for
others too, is started with `detached`.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def keep_to(deadline: float) -> None:
    """From here on statements of this task end at `deadline`, on the clock of time.monotonic."""
    _deadline.set(deadline)


def within(seconds: float) -> float:
    """`seconds`, or what is left until the deadline where that is less; never below 0."""
    deadline = _deadline.get()
    return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))


def detached(work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """A task of its own, which no call's deadline ends."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())
