"""The same through the Python SDK, whose own way of coming back is thereby tested."""

import asyncio
import contextlib

import penstock_client
from penstock_client.writer import Writer
from tests.faults.journal import Journal
from tests.faults.plan import Plan
from tests.faults.writers import Record

RETRY_S = 1_800.0


class SdkWriter:
    """Writes a named stream row by row; the SDK makes batches of its own of them."""

    def __init__(self, plan: Plan, target: str, journal: Journal, seed: int) -> None:
        self.record = Record(plan)
        self._target = target
        self._journal = journal
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Lets it settle what it has sent, and then end."""
        self._closing.set()

    async def run(self) -> None:
        """Writes until it is closed and all is settled. Raises PromiseBroken, and what the SDK raises."""
        record = self.record
        # Most servers here live for a second or two, less than the SDK waits between two tries.
        async with penstock_client.Client(self._target, timeout_s=RETRY_S, retry_total_s=RETRY_S) as client:
            writer = client.events.writer(
                record.plan.stream_id, row_policy="keep_good", batch_rows=100, batch_delay_s=0.01
            )
            async with writer:
                reading = asyncio.create_task(self._read(writer))
                try:
                    while not self._closing.is_set():
                        batch = record.plan.batch(record.sent)
                        record.sent += 1
                        for row in batch.rows:
                            await writer.send(row.event)
                        await asyncio.sleep(0.03)
                    await writer.flush()
                finally:
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading
            if writer.stored_offset != record.sent_end:
                raise self._journal.broken(
                    "sdk", f"{record.sent_end} rows were sent, {writer.stored_offset} are settled"
                )
            self._journal.note("sdk", "end", stats=writer.stats)
            record.finished = True

    async def _read(self, writer: Writer) -> None:
        async for ack in writer.acks():
            self._journal.note("sdk", "ack", offset=ack.offset, rows=ack.rows, commit=ack.commit)
            if ack.error is not None:
                raise self._journal.broken("sdk", f"a batch was refused: {ack.error}")
            self.record.promised = (ack.offset or 0) + ack.rows
