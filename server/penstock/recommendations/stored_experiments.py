"""Experiments of tenants: commits of the log like everything else, and in memory for whoever recommends."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
from google.protobuf.json_format import MessageToJson, Parse

from penstock import limits
from penstock.errors import AlreadyStored, NotFound, Overloaded, PenstockError
from penstock.recommendations.v1.recommendations_pb2 import Experiment
from penstock.storage.commit_log import CommitLog, Entry, Transaction
from penstock.storage.engine import Engine, Lane
from penstock.storage.group_commit import GroupCommit, Write

_READ = "SELECT name, declaration FROM {experiments} ORDER BY name"
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("name", pa.string()),
        ("commit", pa.int64()),
        ("deleted", pa.bool_()),
        ("declaration", pa.string()),
    ]
)


@dataclass(slots=True)
class _Change:
    """What one call wants; `result` is what came of it in the last commit that was tried."""

    tenant: str
    name: str
    created: Experiment | None = None  # None: it is to end
    result: Experiment = field(default_factory=Experiment)


@dataclass(frozen=True, slots=True)
class _Known:
    """A tenant's experiments, as they were last read."""

    experiments: Mapping[str, Experiment]
    epoch: int  # of the log then
    read_at: float


class StoredExperiments:
    """Begins, lists and ends experiments."""

    def __init__(self, engine: Engine, commit_log: CommitLog) -> None:
        self._engine = engine
        self._log = commit_log
        self._known: dict[str, _Known] = {}
        self._changes = 0
        self._reading = asyncio.Lock()
        self._commits: GroupCommit[_Change] = GroupCommit(
            commit_log, name="experiments", store=self._store, landed=self._landed
        )

    def start(self) -> None:
        """Begins to commit."""
        self._commits.start()

    async def stop(self) -> None:
        """Commits what waits, and ends."""
        await self._commits.stop()

    async def of(self, tenant: str) -> list[Experiment]:
        """Those that run, by name. Where another server writes, its changes come OWN_KPIS_REFRESH_S late at most."""
        known = self._known.get(tenant)
        if known is None or not self._is_current(known):
            async with self._reading:
                known = self._known.get(tenant)
                if known is None or not self._is_current(known):
                    known = await self._read(tenant)
        return list(known.experiments.values())

    async def create(self, tenant: str, experiment: Experiment) -> Experiment:
        """Begins one; the same again is answered as it is. Raises AlreadyStored (EXPERIMENT_EXISTS), Overloaded
        (TOO_MANY_EXPERIMENTS), Unavailable."""
        change = _Change(tenant, experiment.name, experiment)
        await self._commits.write(change, 1)
        return change.result

    async def end(self, tenant: str, name: str) -> None:
        """Ends one. Raises NotFound (EXPERIMENT_NOT_FOUND), Overloaded, Unavailable."""
        await self._commits.write(_Change(tenant, name), 1)

    def _is_current(self, known: _Known) -> bool:
        if self._log.leads and known.epoch == self._log.epoch:
            return True
        return time.monotonic() - known.read_at < limits.OWN_KPIS_REFRESH_S

    async def _read(self, tenant: str) -> _Known:
        epoch, read_at, changes = self._log.epoch, time.monotonic(), self._changes
        relation = self._log.version.relation("experiments")
        rows = await self._engine.rows(_READ.format(experiments=relation), {"tenant": tenant})
        experiments = {row["name"]: Parse(row["declaration"], Experiment()) for row in rows}
        known = _Known(experiments, epoch, read_at)
        if changes == self._changes:  # else what was read may be from before
            self._known[tenant] = known
        return known

    async def _store(self, writes: Sequence[Write[_Change]], transaction: Transaction) -> Entry | None:
        running = {
            tenant: dict((await self._read(tenant)).experiments) for tenant in {write.item.tenant for write in writes}
        }
        rows: dict[tuple[str, str], Experiment | None] = {}
        for write in writes:
            change = write.item
            known = running[change.tenant]
            refusal = _refusal(change, known)
            if refusal is not None:
                write.refuse(refusal)
            elif change.created is None:
                rows[change.tenant, change.name] = None
                del known[change.name]
            elif change.name in known:
                change.result = known[change.name]
            else:
                made = Experiment()
                made.CopyFrom(change.created)
                made.create_time.FromDatetime(transaction.time)
                rows[change.tenant, change.name] = known[change.name] = change.result = made
        if not rows:
            return None
        table = [
            {
                "tenant": tenant,
                "name": name,
                "commit": transaction.commit,
                "deleted": made is None,
                "declaration": MessageToJson(made, indent=None) if made is not None else "",
            }
            for (tenant, name), made in rows.items()
        ]
        await self._engine.insert_arrow("experiments", pa.Table.from_pylist(table, _SCHEMA), lane=Lane.COMMIT)
        return Entry("experiments", rows=len(rows))

    async def _landed(self, writes: Sequence[Write[_Change]], commit: int, time: datetime) -> None:
        self._changes += 1
        for tenant in {write.item.tenant for write in writes}:
            self._known.pop(tenant, None)


def _refusal(change: _Change, known: Mapping[str, Experiment]) -> PenstockError | None:
    there = known.get(change.name)
    if change.created is None:
        if there is None:
            return NotFound(f"no experiment {change.name!r} runs", reason="EXPERIMENT_NOT_FOUND")
        return None
    if there is not None:
        same = Experiment()
        same.CopyFrom(there)
        same.ClearField("create_time")
        wanted = Experiment()
        wanted.CopyFrom(change.created)
        wanted.ClearField("create_time")
        if same == wanted:
            return None
        return AlreadyStored(
            f"experiment {change.name!r} runs already, with other variants; end it first, or choose another name",
            reason="EXPERIMENT_EXISTS",
        )
    if len(known) >= limits.EXPERIMENTS_MAX:
        return Overloaded(f"{limits.EXPERIMENTS_MAX} experiments are the most", reason="TOO_MANY_EXPERIMENTS")
    return None
