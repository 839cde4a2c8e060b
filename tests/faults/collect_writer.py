"""A client of single calls, which has no offsets to come back by, only event ids."""

import asyncio
import random

import grpc

from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1 import events_service_pb2_grpc as stubs
from tests.faults.journal import Journal
from tests.faults.plan import Batch, Plan
from tests.faults.writers import ANSWER_S, OPTIONS, Record, nobody_there, rows_of, short


class CollectWriter:
    """Writes to the default stream in single calls, at least once: what failed is sent again with the same ids."""

    def __init__(self, plan: Plan, target: str, journal: Journal, seed: int) -> None:
        self.record = Record(plan)
        self.connected = False
        self._target = target
        self._journal = journal
        self._random = random.Random(f"{seed}/{plan.stream_id}/writer")
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Lets it settle what it has sent, and then end."""
        self._closing.set()

    async def run(self) -> None:
        """Writes until it is closed and all is settled. Raises PromiseBroken."""
        record = self.record
        async with grpc.aio.insecure_channel(self._target, options=OPTIONS) as channel:
            events: stubs.EventServiceAsyncStub = stubs.EventServiceStub(channel)  # type: ignore[assignment]
            while not self._closing.is_set() or record.answered < record.sent:
                batch = record.plan.batch(record.answered)
                record.sent = record.answered + 1
                try:
                    await self._collect(events, batch)
                except grpc.aio.AioRpcError as error:
                    if not nobody_there(error):
                        self._journal.note(record.plan.stream_id, "broken", batch=batch.index, error=short(error))
                    if "a fault in the server" in short(error):
                        raise self._journal.broken(record.plan.stream_id, short(error)) from error
                await asyncio.sleep(self._random.uniform(0.01, 0.06))
        record.finished = True

    async def _collect(self, events: "stubs.EventServiceAsyncStub", batch: Batch) -> None:
        request = pb.BatchCollectRequest(events=rows_of(batch).events)
        answer = await events.BatchCollect(request, timeout=ANSWER_S)
        self._journal.note(self.record.plan.stream_id, "stored", batch=batch.index, commit=answer.commit)
        bad = [(place, result.reason) for place, result in enumerate(answer.results) if not result.accepted]
        if bad != batch.bad or answer.accepted_rows != len(batch.rows) - len(bad):
            raise self._journal.broken(self.record.plan.stream_id, f"batch {batch.index}: {bad} instead of {batch.bad}")
        self.record.commits[batch.index] = answer.commit
        self.record.answered += 1
