"""When a read is: a version, and what the clock shows as of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from penstock.storage.commit_log import CommitLog
from penstock.storage.version import Version


@dataclass(frozen=True, slots=True)
class Moment:
    """A version and its time."""

    version: Version
    now: float  # seconds since the epoch: the server's clock, or of an older version when its gold was made
    past: bool = False  # whether it was asked for, and so stays what it is

    @property
    def seen(self) -> Version:
        """What answers depend on."""
        return seen(self.version)

    @property
    def time(self) -> datetime:
        """`now` as a time."""
        return datetime.fromtimestamp(self.now, UTC)


def seen(version: Version) -> Version:
    """The same for all versions that show the same: what was only committed since then changes no answer from gold.

    Except the first commit, before which there is another reason why there is nothing.
    """
    return replace(version, commit=version.gold.commit or min(version.commit, 1))


class Moments:
    """Finds them."""

    def __init__(self, log: CommitLog, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock

    def now(self) -> Moment:
        """What is seen now."""
        return Moment(self._log.version, self._clock())

    async def of(self, tenant: str, commit: int, at: datetime | None) -> Moment:
        """As of a commit or a time; with 0 and None, now. Raises OutOfRange as CommitLog.as_of."""
        if not commit and at is None:
            return self.now()
        if at is not None:
            version = await self._log.as_of(time=at, tenant=tenant)
        else:
            version = await self._log.as_of(commit=commit, tenant=tenant)
        made = version.gold.time
        return Moment(version, made.timestamp() if made is not None else self._clock(), past=True)
