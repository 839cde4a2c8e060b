"""What was learnt from behaviour, of every tenant: kept in memory and on disk, learnt anew when enough has happened."""

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog

from penstock import limits
from penstock.catalog.products import Catalogue
from penstock.errors import Conflict, PenstockError
from penstock.recommendations.behaviour import Behaviour
from penstock.recommendations.interactions import Floats, Interactions
from penstock.recommendations.model import EMPTY, BehaviourModel
from penstock.recommendations.model_files import ModelUnreadable, load, save
from penstock.recommendations.text_map import TextMap, fit
from penstock.recommendations.training import train
from penstock.recommendations.user import Touched
from penstock.search.indexes import Indexes
from penstock.storage.commit_log import CommitLog
from penstock.workers import Workers

log = structlog.get_logger()

# Not made by `Interactions.of`: to make its first array of a list, pyarrow imports pandas.
_NO_INTERACTIONS = Interactions(
    (), (), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float64)
)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is known of a tenant's users and products, as of one training."""

    version: int = 0  # 0: nothing was learnt yet
    model: BehaviourModel = EMPTY
    text_map: TextMap | None = None
    interactions: Interactions = field(default=_NO_INTERACTIONS)
    commit: int = 0  # of the log: what came after it is not in `interactions`

    def history(self, user_id: str) -> Touched | None:
        """What the user had done by then; None when they were not known."""
        known = self.interactions
        place = bisect_left(known.users, user_id)
        if place == len(known.users) or known.users[place] != user_id:
            return None
        # Of the codes' own type: for other numbers all of them are converted first, on the event loop.
        first, last = np.searchsorted(known.user, np.array([place, place + 1], known.user.dtype))
        rows = slice(int(first), int(last))
        ids = tuple(known.products[code] for code in known.product[rows].tolist())
        return Touched(ids, known.weight[rows].astype(np.float64), known.time[rows])

    def without(self, user_id: str) -> "Learnt":
        """The same, without what the user did."""
        if self.history(user_id) is None:
            return self
        known = self.interactions
        place = bisect_left(known.users, user_id)
        others = known.where(known.user != place)
        users = (*known.users[:place], *known.users[place + 1 :])
        return replace(self, interactions=replace(others, users=users, user=others.user - (others.user > place)))


NOTHING_LEARNT = Learnt()


@dataclass(slots=True)
class _Tenant:
    """What is kept of one tenant."""

    learnt: Learnt = NOTHING_LEARNT
    seen: int = 0  # interactions there were when it was last learnt
    training: bool = False
    forgotten: set[str] = field(default_factory=set)  # users, while what they did may be on its way from the database


class Models:
    """Learns, and keeps what was learnt."""

    def __init__(
        self,
        behaviour: Behaviour,
        catalogue: Catalogue,
        indexes: Indexes,
        commit_log: CommitLog,
        workers: Workers,
        folder: Path,
    ) -> None:
        """`workers` train, so that neither the loop nor a forecast waits for it. Models are kept in `folder`."""
        self._behaviour = behaviour
        self._catalogue = catalogue
        self._indexes = indexes
        self._log = commit_log
        self._workers = workers
        self._folder = folder
        self._tenants: dict[str, _Tenant] = {}
        self._task: asyncio.Task[None] | None = None

    def learnt(self, tenant: str) -> Learnt:
        """What is known now."""
        kept = self._tenants.get(tenant)
        return kept.learnt if kept is not None else NOTHING_LEARNT

    def forget(self, tenant: str, user_id: str) -> None:
        """Knows nothing of what the user did any more. What was learnt of products stays: it names nobody."""
        kept = self._tenants.get(tenant)
        if kept is not None:
            kept.forgotten.add(user_id)
            kept.learnt = kept.learnt.without(user_id)

    def start(self) -> None:
        """Takes up what was learnt before, and begins to learn by itself."""
        self._task = asyncio.create_task(self._live(), name="recommendation-models")

    async def stop(self) -> None:
        """Ends; a training under way is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._workers.close()

    async def train(self, tenant: str) -> Learnt:
        """Learns anew from all that is stored.

        Raises Conflict (TRAINING_IN_PROGRESS), Unavailable, TimedOut, Overloaded.
        """
        kept = self._tenants.setdefault(tenant, _Tenant())
        if kept.training:
            raise Conflict("a training is under way", reason="TRAINING_IN_PROGRESS")
        kept.training = True
        kept.forgotten.clear()
        try:
            seen = await self._behaviour.count(tenant)
            commit, interactions = self._log.head, await self._behaviour.read(tenant)
            model = await self._workers.run(train, interactions, timeout_s=limits.TRAINING_S_MAX, tenant=tenant)
            version = kept.learnt.version + 1
            text_map = await self._text_map(tenant, model)
            await asyncio.to_thread(save, model, self._place(tenant), version)
            self._set(kept, Learnt(version, model, text_map, interactions, commit))
            kept.seen = seen
        finally:
            kept.training = False
        log.info("learnt from behaviour", tenant=tenant, version=version, interactions=len(interactions))
        return kept.learnt

    async def _live(self) -> None:
        while True:
            head = self._log.head
            try:
                tenants = await self._catalogue.tenants()
            except PenstockError as error:
                log.warning("nothing could be learnt now", error=error.message)
                tenants = []
            for tenant in tenants:
                await self._tend_to(tenant)
            await asyncio.sleep(limits.TRAINING_INTERVAL_S)
            await self._log.wait_beyond(head)

    async def _tend_to(self, tenant: str) -> None:
        """Learns where there is enough new; what fails holds up no other tenant."""
        try:
            await self._tend(tenant)
        except PenstockError as error:
            log.warning("nothing could be learnt now", tenant=tenant, error=error.message)
        except Exception:
            log.exception("learning from behaviour failed", tenant=tenant)

    async def _tend(self, tenant: str) -> None:
        kept = self._tenants.get(tenant)
        if kept is None:
            kept = self._tenants[tenant] = _Tenant()
            await self._take_up(tenant, kept)
        count = await self._behaviour.count(tenant)
        new = count - kept.seen
        if not kept.training and new >= max(limits.TRAINING_NEW_MIN, kept.seen * limits.TRAINING_NEW_SHARE):
            await self.train(tenant)

    async def _take_up(self, tenant: str, kept: _Tenant) -> None:
        """What was learnt before the last stop, with what users have done since."""
        try:
            model, version = await asyncio.to_thread(load, self._place(tenant))
        except ModelUnreadable as unreadable:
            log.info("there is no model to take up", tenant=tenant, why=str(unreadable))
            return
        commit, interactions = self._log.head, await self._behaviour.read(tenant)
        text_map = await self._text_map(tenant, model)
        self._set(kept, Learnt(version, model, text_map, interactions, commit))
        kept.seen = model.interactions

    def _set(self, kept: _Tenant, learnt: Learnt) -> None:
        for user_id in kept.forgotten:
            learnt = learnt.without(user_id)
        kept.learnt = learnt

    async def _text_map(self, tenant: str, model: BehaviourModel) -> TextMap | None:
        try:
            version = (await self._indexes.of(tenant)).view.version
        except PenstockError as error:  # products without behaviour are then compared by their texts alone
            log.info("texts are not compared with behaviour", tenant=tenant, why=error.message)
            return None

        def texts(ids: Sequence[str]) -> Floats:
            vectors, has = version.vectors_of(ids)
            return np.where(has[:, None], vectors, np.float32(0))

        return await asyncio.to_thread(fit, model, texts)

    def _place(self, tenant: str) -> Path:
        return self._folder / hashlib.sha256(tenant.encode()).hexdigest()[:16]
