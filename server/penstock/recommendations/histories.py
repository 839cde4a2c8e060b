"""What users did before: from what was learnt, and what they did since, read where there is any."""

from collections import OrderedDict

import numpy as np

from penstock import limits
from penstock.feedback.interactions import Interactions
from penstock.feedback.profiles import touch
from penstock.recommendations.models import Learnt
from penstock.recommendations.user import NOTHING, Touched
from penstock.storage.commit_log import CommitLog


class Histories:
    """Finds a user's history."""

    def __init__(self, interactions: Interactions, commit_log: CommitLog) -> None:
        self._interactions = interactions
        self._log = commit_log
        self._kept: OrderedDict[tuple[str, str], tuple[int, Touched]] = OrderedDict()  # since a commit
        self._reading: dict[tuple[str, str], object] = {}
        self._active: OrderedDict[tuple[str, str], int] = OrderedDict()  # the log's head when a user did something
        self._unknown_through = 0  # up to here somebody may have done something who is no longer in `_active`

    async def of(self, tenant: str, user_id: str, learnt: Learnt) -> Touched:
        """What the user did. Raises Unavailable."""
        before = learnt.history(user_id)
        since = learnt.commit if before is not None else 0
        if before is not None and self._did_nothing(tenant, user_id, since):
            return before
        kept = self._kept.get((tenant, user_id))
        if kept is not None and kept[0] == since:
            self._kept.move_to_end((tenant, user_id))
            later = kept[1]
        else:
            later = await self._read_and_kept(tenant, user_id, since)
        return later if before is None else _joined(before, later)

    def changed(self, tenant: str, user_id: str) -> None:
        """The user did something, or is forgotten: what is kept of them is read again."""
        self._kept.pop((tenant, user_id), None)
        self._reading.pop((tenant, user_id), None)
        self._active[tenant, user_id] = self._log.head
        self._active.move_to_end((tenant, user_id))
        if len(self._active) > limits.ACTIVE_USERS_MAX:
            _, head = self._active.popitem(last=False)
            self._unknown_through = max(self._unknown_through, head)

    def _did_nothing(self, tenant: str, user_id: str, since: int) -> bool:
        """Whether this process knows that nothing of the user came after a commit: only one that writes can."""
        last = self._active.get((tenant, user_id), self._unknown_through)
        return self._log.leads and last <= since

    async def _read_and_kept(self, tenant: str, user_id: str, since: int) -> Touched:
        """What is read is kept unless the user did something meanwhile: it may be from before."""
        key, reading = (tenant, user_id), object()
        self._reading[key] = reading
        later = await self._read(tenant, user_id, since)
        if self._reading.get(key) is reading:
            del self._reading[key]
            self._kept[key] = (since, later)
            if len(self._kept) > limits.HISTORIES_KEPT_MAX:
                self._kept.popitem(last=False)
        return later

    async def _read(self, tenant: str, user_id: str, since: int) -> Touched:
        rows = await self._interactions.last(tenant, user_id, limits.HISTORY_ROWS_MAX, since=since)
        if not rows:
            return NOTHING
        touches = [touch(row) for row in rows]
        return Touched(
            tuple(each.product_id for each in touches),
            np.array([each.weight for each in touches], np.float64),
            np.array([each.time.timestamp() for each in touches], np.float64),
        )


def _joined(before: Touched, later: Touched) -> Touched:
    return Touched(
        before.ids + later.ids,
        np.concatenate([before.weights, later.weights]),
        np.concatenate([before.times, later.times]),
    )
