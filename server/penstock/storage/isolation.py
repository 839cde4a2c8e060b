"""Writes share commits. Where one of them cannot be stored, a commit fails for all; here those that fail are found.

Each tenant's writes are tried by themselves. Of a tenant whose writes fail, each half is, and so on, until those that
fail are alone. That is done in the order in which they came, after all other tenants are answered, and for a bounded
time: whoever sends much that cannot be stored loses what is sent beside it, and nobody else does.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from penstock import limits


class Unstored(Exception):
    """A commit could not be made, for another reason than that storage is away; the log has nothing of it.

    `__cause__` is the reason.
    """


class Writing(Protocol):
    """One of several that go into a commit together."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def answered(self) -> bool:
        """Whether it was stored or refused."""
        ...


W = TypeVar("W", bound=Writing)
Commit: TypeAlias = Callable[[Sequence[W]], Awaitable[None]]


async def tried(writes: Sequence[W], commit: Commit[W]) -> Unstored | None:
    """None when `commit` answered all of them, else why it did not."""
    try:
        await commit(writes)
    except Unstored as error:
        return error
    return None


async def set_apart(writes: Sequence[W], commit: Commit[W], refuse: Callable[[Sequence[W], Unstored], None]) -> None:
    """Has each of the writes, which failed together, stored or refused. Raises what `commit` raises besides Unstored.

    `refuse` is given those that fail alone, or that still fail together when ISOLATION_S_MAX is over.
    """
    failing: list[tuple[Sequence[W], Unstored]] = []
    for part in _by_tenant(unanswered(writes)):
        error = await tried(part, commit)
        if error is not None:
            failing.append((unanswered(part), error))
    for left, error in failing:
        await _found(left, error, commit, refuse, time.monotonic() + limits.ISOLATION_S_MAX)


async def _found(
    writes: Sequence[W],
    error: Unstored,
    commit: Commit[W],
    refuse: Callable[[Sequence[W], Unstored], None],
    until: float,
) -> None:
    if len(writes) <= 1 or time.monotonic() > until:
        refuse(writes, error)
        return
    middle = (len(writes) + 1) // 2
    for half in (writes[:middle], writes[middle:]):
        failed = await tried(half, commit)
        if failed is not None:
            await _found(unanswered(half), failed, commit, refuse, until)


def unanswered(writes: Sequence[W]) -> list[W]:
    """Those that were neither stored nor refused yet."""
    return [each for each in writes if not each.answered]


def _by_tenant(writes: Sequence[W]) -> list[list[W]]:
    parts: dict[str, list[W]] = {}
    for each in writes:
        parts.setdefault(each.tenant, []).append(each)
    return list(parts.values())
