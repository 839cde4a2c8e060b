"""How often one may fail to sign in: by user name, and by client address.

Counted in this process. Several servers each count their own, so that guesses go at most so many times faster; each of
them costs a hash of argon2 all the same.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from penstock.accounts.bounds import (
    ATTEMPTS_KNOWN_MAX,
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_PER_NAME_MAX,
    ATTEMPTS_S,
)
from penstock.errors import Overloaded

NAME_CHARS = 256  # of what is asked for; no user has a longer name
_IPV6_NETWORK_BITS = 64  # a client has at least so many addresses to itself


class Attempts:
    """Counts attempts that did not succeed; alike for names that exist and those that do not."""

    def __init__(
        self,
        *,
        per_name: int = ATTEMPTS_PER_NAME_MAX,
        per_address: int = ATTEMPTS_PER_ADDRESS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = {"name": per_name, "address": per_address}
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def begin(self, name: str, address: str) -> "Attempt":
        """Counts an attempt as failed until it is known better: many at once shall not slip past the bound.

        Raises Overloaded (TOO_MANY_ATTEMPTS).
        """
        now = self._clock()
        keys = [("name", name[:NAME_CHARS]), *([("address", _network(address))] if address else [])]
        waits = [self._wait_s(key, now) for key in keys]
        if any(waits):
            raise Overloaded(
                "too many failed attempts to sign in", reason="TOO_MANY_ATTEMPTS", retry_after_s=max(waits)
            )
        for key in keys:
            self._known.setdefault(key, deque()).append(now)
            self._known.move_to_end(key)
        while len(self._known) > ATTEMPTS_KNOWN_MAX:
            self._known.popitem(last=False)
        return Attempt(self, keys, now)

    def take_back(self, keys: list[tuple[str, str]], moment: float) -> None:
        """Counts an attempt no more."""
        for key in keys:
            times = self._known.get(key)
            if times and moment in times:
                times.remove(moment)
            if not times:
                self._known.pop(key, None)

    def forget_name(self, name: str) -> None:
        """Counts nothing of a name any more."""
        self._known.pop(("name", name), None)

    def _wait_s(self, key: tuple[str, str], now: float) -> float:
        """Seconds until there may be another attempt; 0: now."""
        times = self._known.get(key)
        while times and times[0] <= now - ATTEMPTS_S:
            times.popleft()
        if times is None or len(times) < self._bounds[key[0]]:
            return 0.0
        return max(times[-self._bounds[key[0]]] + ATTEMPTS_S - now, 1.0)


class Attempt:
    """One attempt to sign in, under way."""

    def __init__(self, attempts: Attempts, keys: list[tuple[str, str]], moment: float) -> None:
        self._attempts = attempts
        self._keys = keys
        self._moment = moment

    def succeeded(self) -> None:
        """The user is who it says: its name starts afresh. Its address does not, or who has one account could use it
        to go on guessing at others."""
        self._attempts.take_back(self._keys, self._moment)
        self._attempts.forget_name(self._keys[0][1])

    def did_not_happen(self) -> None:
        """Nothing was learnt of the password."""
        self._attempts.take_back(self._keys, self._moment)


def _network(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(int(found) >> (128 - _IPV6_NETWORK_BITS))
    return address
