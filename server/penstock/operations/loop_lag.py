"""How late the event loop runs what is due: the time that every call in this process may have to wait for nothing."""

import asyncio
from collections import deque

SAMPLE_EVERY_S = 0.1
WINDOW_S = 60


class LoopLag:
    """Measures by asking to be woken and looking how late that came."""

    def __init__(self) -> None:
        self._worst: deque[tuple[int, float]] = deque()  # (second on the loop's clock, worst lag in it in seconds)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to measure the running loop."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + SAMPLE_EVERY_S
        self._timer = loop.call_at(self._due, self._woken, loop)

    def stop(self) -> None:
        """Ends measuring."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def max_ms(self) -> float:
        """The worst of the last minute, in milliseconds; 0 before the first sample. For any thread."""
        return max((lag for _, lag in list(self._worst)), default=0.0) * 1e3

    def _woken(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        second, lag = int(now), max(0.0, now - self._due)
        if self._worst and self._worst[-1][0] == second:
            lag = max(lag, self._worst.pop()[1])
        self._worst.append((second, lag))
        while self._worst[0][0] <= second - WINDOW_S:
            self._worst.popleft()
        self._due = now + SAMPLE_EVERY_S
        self._timer = loop.call_at(self._due, self._woken, loop)
