"""Runs of the pipeline: what they are, what a tenant may see of them, and the log of them that a person looks at.

A run is of all tenants. So whatever it counts it counts by tenant, and a tenant is shown its own rows, and only runs
that it had rows in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Self

import pyarrow as pa

from penstock.pipeline.tenants import Counts
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.storage.engine import Engine, Lane, Row


class Trigger(Enum):
    """Who asked for a run."""

    LOOP = "loop"
    CALL = "call"


class State(Enum):
    """How a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run."""

    name: str
    rows_in: int
    rows_out: int
    duplicates: int
    duration_ms: float
    rejected: int = 0  # conversions are total: what ingest let through, silver takes
    tenants: Mapping[str, "Step"] = field(default_factory=dict, compare=False)  # the same of each tenant's rows alone

    @classmethod
    def of_all(
        cls, name: str, rows_in: Counts, duration_ms: float, *, rows_out: Counts | None = None, thins: bool = False
    ) -> Self:
        """A step of all tenants. One that `thins` left out as duplicates what it read and did not write."""
        written = rows_out or {}
        steps = {
            tenant: cls(name, rows, (out := written.get(tenant, 0)), rows - out if thins else 0, duration_ms)
            for tenant, rows in rows_in.items()
        }
        return cls(
            name,
            sum(step.rows_in for step in steps.values()),
            sum(step.rows_out for step in steps.values()),
            sum(step.duplicates for step in steps.values()),
            duration_ms,
            tenants=steps,
        )

    def wrote(self, rows_out: Counts) -> "Step":
        """The same, now that it is known how many rows came of it."""
        tenants = {tenant: replace(step, rows_out=rows_out.get(tenant, 0)) for tenant, step in self.tenants.items()}
        return replace(self, rows_out=sum(step.rows_out for step in tenants.values()), tenants=tenants)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, finished or under way."""

    start_time: datetime
    trigger: Trigger
    state: State
    run: int = 0  # the version of silver and gold that it made; 0 until it has
    duration_ms: float = 0.0
    first_commit: int = 0
    last_commit: int = 0
    rows: int = 0  # of bronze, read
    steps: tuple[Step, ...] = ()
    error: str = ""  # the reason; what exactly happened may quote events, and goes to the server's log alone
    retries: int = 0
    caller: str = field(default="", compare=False)  # the tenant whose call asked for it
    tenants: Counts = field(default_factory=dict, compare=False)  # rows of each tenant that it is about; empty: unknown

    def of(self, tenant: str) -> "Run | None":
        """The run as a tenant may see it: with its own rows alone. None when it has none of its rows.

        A run that came to nobody's rows is the server's own matter, and so shown to the tenant that runs it.
        """
        if not self.tenants and tenant == DEFAULT_TENANT:
            return self
        if tenant not in self.tenants:
            return None
        return replace(
            self,
            trigger=self.trigger if self.caller == tenant else Trigger.LOOP,
            tenants={tenant: self.tenants[tenant]},
            rows=self.tenants[tenant] if self.rows else 0,  # a run of sessions reads none of bronze
            steps=tuple(step.tenants[tenant] for step in self.steps),
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a step was in some runs."""

    step: str
    rows_per_second: float
    mean_ms: float


_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("run", pa.int64()),
        ("start_time", pa.timestamp("us", tz="UTC")),
        ("duration_ms", pa.float64()),
        ("trigger", pa.string()),
        ("state", pa.string()),
        ("first_commit", pa.int64()),
        ("last_commit", pa.int64()),
        (
            "steps",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("rows_in", pa.uint64()),
                        ("rows_out", pa.uint64()),
                        ("duplicates", pa.uint64()),
                        ("rejected", pa.uint64()),
                        ("duration_ms", pa.float64()),
                    ]
                )
            ),
        ),
        ("error", pa.string()),
        ("retries", pa.uint32()),
    ]
)

_RECENT = """
SELECT run, start_time, duration_ms, trigger, state, first_commit, last_commit, steps, error, retries
FROM tenant_runs
WHERE tenant = {tenant:String}
ORDER BY start_time DESC
LIMIT {limit:UInt32}
"""


async def record(engine: Engine, run: Run) -> None:
    """Adds a finished run to the log, once for each tenant that may see it."""
    seen = {tenant: run.of(tenant) for tenant in run.tenants or (DEFAULT_TENANT,)}
    rows = [_recorded(tenant, own) for tenant, own in seen.items() if own is not None]
    await engine.insert_arrow("tenant_runs", pa.Table.from_pylist(rows, _SCHEMA), lane=Lane.PIPELINE)


async def recent(engine: Engine, tenant: str, limit: int) -> list[Run]:
    """The last finished runs that the tenant may see, newest first."""
    return [_run(row) for row in await engine.rows(_RECENT, {"tenant": tenant, "limit": limit})]


def _recorded(tenant: str, run: Run) -> Row:
    return {
        "tenant": tenant,
        "run": run.run,
        "start_time": run.start_time,
        "duration_ms": run.duration_ms,
        "trigger": run.trigger.value,
        "state": run.state.value,
        "first_commit": run.first_commit,
        "last_commit": run.last_commit,
        "steps": [
            {
                "name": step.name,
                "rows_in": step.rows_in,
                "rows_out": step.rows_out,
                "duplicates": step.duplicates,
                "rejected": step.rejected,
                "duration_ms": step.duration_ms,
            }
            for step in run.steps
        ],
        "error": run.error,
        "retries": run.retries,
    }


def rates(runs: Sequence[Run]) -> list[Rate]:
    """Each step's rate over those of `runs` that succeeded, in the order of the steps."""
    steps: dict[str, list[Step]] = {}
    for run in runs:
        if run.state is State.SUCCEEDED:
            for step in run.steps:
                steps.setdefault(step.name, []).append(step)
    return [_rate(name, taken) for name, taken in steps.items()]


def _rate(name: str, steps: Sequence[Step]) -> Rate:
    took_ms = sum(step.duration_ms for step in steps)
    rows = sum(step.rows_in for step in steps)
    return Rate(name, rows * 1e3 / took_ms if took_ms else 0.0, took_ms / len(steps))


def _run(row: Row) -> Run:
    steps = tuple(Step(**step) for step in row["steps"])
    return Run(
        start_time=row["start_time"].replace(tzinfo=UTC),
        trigger=Trigger(row["trigger"]),
        state=State(row["state"]),
        run=row["run"],
        duration_ms=row["duration_ms"],
        first_commit=row["first_commit"],
        last_commit=row["last_commit"],
        rows=sum(step.rows_in for step in steps if step.name == "silver"),
        steps=steps,
        error=row["error"],
        retries=row["retries"],
    )
