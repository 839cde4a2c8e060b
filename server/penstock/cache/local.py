"""The tier of answers in this process: the least recently used go when there are too many, or too many bytes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from penstock.cache.tally import Tallies

ENTRY_OVERHEAD_BYTES = 600  # of the objects around one answer: 593 measured, each in a scope of its own
SHARE_MAX = 8  # one answer may take an eighth of all bytes

ScopeKey: TypeAlias = tuple[str, str, str]  # tenant, kind, scope


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is the answer to. Whatever makes a difference to the answer must be in it."""

    kind: str
    tenant: str
    key: bytes  # the request, in one form only
    version: str  # of what it is read from: a gold commit, an index version. Another version is another answer
    scope: str = ""  # whom it is invalidated with, such as the user; empty: with its whole kind only

    @property
    def scope_key(self) -> ScopeKey:
        """Its scope among all."""
        return (self.tenant, self.kind, self.scope)


@dataclass(slots=True)
class Entry:
    """An answer that is kept."""

    value: bytes
    expires: float  # on the clock
    token: bytes  # that Redis had for its scope when it was computed; empty: Redis was not asked
    verified: float  # when Redis said last that the token is the scope's, on the clock


class LocalTier:
    """Answers by what was asked."""

    def __init__(
        self,
        *,
        entries_max: int,
        bytes_max: int,
        tallies: Tallies,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tallies = tallies
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._clock = clock
        self._entries: OrderedDict[Asked, Entry] = OrderedDict()
        self._by_scope: dict[ScopeKey, set[Asked]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Answers that are kept."""
        return len(self._entries)

    def count(self, tenant: str) -> int:
        """Answers of one tenant that are kept; looks through all scopes."""
        return sum(len(kept) for scope, kept in self._by_scope.items() if scope[0] == tenant)

    @property
    def bytes(self) -> int:
        """What they take, about."""
        return self._bytes

    def get(self, asked: Asked) -> Entry | None:
        """The answer, if it is kept and young enough."""
        entry = self._entries.get(asked)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self.drop(asked)
            return None
        self._entries.move_to_end(asked)
        return entry

    def put(self, asked: Asked, entry: Entry) -> None:
        """Keeps an answer, unless it is so large that it would push out too many others."""
        self.drop(asked)
        size = _size(asked, entry)
        if size > self._bytes_max // SHARE_MAX:
            return
        self._entries[asked] = entry
        self._by_scope.setdefault(asked.scope_key, set()).add(asked)
        self._bytes += size
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            oldest = next(iter(self._entries))
            self._tallies.of(oldest.tenant, oldest.kind).evictions += 1  # for room, not for age
            self.drop(oldest)

    def drop(self, asked: Asked) -> None:
        """Forgets an answer, if it is kept."""
        entry = self._entries.pop(asked, None)
        if entry is None:
            return
        self._bytes -= _size(asked, entry)
        scope = self._by_scope[asked.scope_key]
        scope.discard(asked)
        if not scope:
            del self._by_scope[asked.scope_key]

    def drop_scope(self, tenant: str, kind: str, scope: str) -> None:
        """Forgets the answers of a scope."""
        for asked in list(self._by_scope.get((tenant, kind, scope), ())):
            self.drop(asked)

    def drop_kind(self, tenant: str, kind: str) -> None:
        """Forgets a tenant's answers of a kind; looks through all scopes, a millisecond for ten thousand."""
        for scope_key in [each for each in self._by_scope if each[:2] == (tenant, kind)]:
            self.drop_scope(*scope_key)


def _size(asked: Asked, entry: Entry) -> int:
    return len(entry.value) + len(asked.key) + ENTRY_OVERHEAD_BYTES
