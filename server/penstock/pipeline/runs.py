"""Runs of the pipeline: what they are, and the log of them that a person looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import pyarrow as pa

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
    error: str = ""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a step was in some runs."""

    step: str
    rows_per_second: float
    mean_ms: float


_SCHEMA = pa.schema(
    [
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
FROM pipeline_runs
ORDER BY start_time DESC
LIMIT {limit:UInt32}
"""


async def record(engine: Engine, run: Run) -> None:
    """Adds a finished run to the log."""
    row = {
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
    await engine.insert_arrow("pipeline_runs", pa.Table.from_pylist([row], _SCHEMA), lane=Lane.PIPELINE)


async def recent(engine: Engine, limit: int) -> list[Run]:
    """The last finished runs, newest first."""
    return [_run(row) for row in await engine.rows(_RECENT, {"limit": limit})]


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
