"""Time that passes when everybody waits for it, and by as much as they wait: what takes seconds of it takes none here,
and a machine that stops for a while is not seen."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import looptime

P = ParamSpec("P")


def loop_time() -> float:
    """The clock of the running loop, in seconds."""
    return asyncio.get_running_loop().time()


def block(seconds: float) -> None:
    """The running loop finds itself so much later, as when something has blocked it."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test, without asynchronous fixtures, in a loop of its own that keeps virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run
