"""What is asked of the pipeline's runner."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.pipeline.batch import Batch
from penstock.pipeline.runs import Run, Trigger
from penstock.pipeline.tenants import Counts, streams_of
from penstock.rpc.principal import DEFAULT_TENANT
from penstock.storage.commit_log import Entry


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the runner: what it asks for, and how to end it early."""

    trigger: Trigger
    caller: str  # the tenant that asks; empty: the loop
    rows_max: int
    event_type: str
    tenant: str
    upto: int
    on_progress: Callable[[Run], None]
    stop: asyncio.Event

    @property
    def may_stop_inside(self) -> bool:
        """Whether it may be ended between two steps of a run.

        That gives up work on rows of all tenants, so only who runs the server may; others end theirs between runs.
        """
        return self.caller in ("", DEFAULT_TENANT)

    def entry(self, batch: Batch, made: Counts) -> Entry:
        """The log row of a run that was asked for."""
        detail: dict[str, Any] = {"trigger": self.trigger.value, "caller": self.caller}
        last_commit = batch.last_commit
        if batch.event_type:
            # One type done ahead does not move the place where the next full run begins.
            detail |= {"event_type": batch.event_type, "through": batch.last_commit}
            last_commit = batch.since
        return Entry(
            "etl",
            run=batch.run,
            first_commit=batch.first_commit,
            last_commit=last_commit,
            rows=sum(made.values()),
            detail=detail,
            streams=streams_of({tenant: made.get(tenant, 0) for tenant in batch.tenants}),
        )
