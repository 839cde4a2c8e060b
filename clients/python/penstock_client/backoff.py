"""How long to wait before the next try, and when to give up."""

import random
import time

FIRST_S = 0.1
LONGEST_S = 5.0


class Backoff:
    """Exponential with full jitter, so that clients which lost one server do not all come back at once.

    The total bound counts from the first failure since the last progress.
    """

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._failures = 0
        self._since = 0.0

    def progressed(self) -> None:
        """Something worked: the next failure is a first one."""
        self._failures = 0

    def next_s(self, at_least_s: float | None = None) -> float | None:
        """Seconds to wait, more than `at_least_s` where the server asked for that; None when the bound is passed."""
        now = time.monotonic()
        if not self._failures:
            self._since = now
        self._failures += 1
        ceiling = min(LONGEST_S, FIRST_S * 2 ** min(self._failures, 10))
        wait = (at_least_s or 0.0) + random.uniform(0, ceiling)
        return wait if now + wait - self._since <= self._total_s else None
