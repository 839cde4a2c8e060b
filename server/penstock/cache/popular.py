"""What is asked for most: counted over about an hour, in bounded memory."""

import time
from collections import Counter
from collections.abc import Callable

HOUR_S = 3_600.0
KEYS_MAX = 5_000  # of one tenant and half an hour; some 300 bytes each with its count
KEY_BYTES_MAX = 1_024  # what is longer was hardly asked twice


class Popular:
    """Counts keys for each tenant.

    Two counters take turns: one counts the present half hour, the other still knows the last. So a count is of the last
    30 to 60 minutes. When a counter is full, the half of its keys with the fewest counts is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: dict[str, Counter[bytes]] = {}
        self._before: dict[str, Counter[bytes]] = {}
        self._turn = clock()

    def note(self, tenant: str, key: bytes, times: int = 1) -> None:
        """It is asked for once more, or so many times."""
        if len(key) > KEY_BYTES_MAX:
            return
        self._take_turns()
        counter = self._now.get(tenant)
        if counter is None:
            counter = self._now[tenant] = Counter()
        counter[key] += times
        if len(counter) > KEYS_MAX:
            self._now[tenant] = Counter(dict(counter.most_common(KEYS_MAX // 2)))

    def most(self, tenant: str, *, at_least: int, limit: int) -> list[bytes]:
        """The keys that were asked for so often, most often first."""
        self._take_turns()
        counts = self._now.get(tenant, Counter()) + self._before.get(tenant, Counter())
        return [key for key, count in counts.most_common(limit) if count >= at_least]

    def tenants(self) -> set[str]:
        """Those of whom anything is counted."""
        self._take_turns()
        return {*self._now, *self._before}

    def forget(self, tenant: str, key: bytes) -> None:
        """Drops a key, such as a person's."""
        for counters in (self._now, self._before):
            counters.get(tenant, Counter()).pop(key, None)

    def _take_turns(self) -> None:
        now = self._clock()
        if now - self._turn < HOUR_S / 2:
            return
        self._before = self._now if now - self._turn < HOUR_S else {}
        self._now = {}
        self._turn = now
