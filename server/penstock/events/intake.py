"""Takes events that come by single calls: as batches for the default stream."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from penstock import limits
from penstock.errors import InvalidInput
from penstock.events import collect
from penstock.events.batch import BadRow, Batch, Origin, Raw, RawFormat, Stored
from penstock.events.committer import Committer
from penstock.events.v1 import events_pb2, events_service_pb2
from penstock.rest import ndjson

UPLOAD_ERRORS_SHOWN = 100


@dataclass(slots=True)
class Upload:
    """What became of an upload so far."""

    accepted: int = 0
    rejected: int = 0
    first_rejected: list[BadRow] = field(default_factory=list)
    commit: int = 0


class Intake:
    """Puts events into the committer's queue and waits for their commit."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    async def store(
        self,
        origin: Origin,
        events: Sequence[events_pb2.Event],
        *,
        keep_good: bool,
        raws: Sequence[Raw] | None = None,
        faults: Mapping[int, BadRow] | None = None,
        replays: Sequence[str] = (),
    ) -> Stored:
        """Stores the events in one commit. Raises RowsRejected without `keep_good`, and what the committer raises."""
        message = events_service_pb2.AppendRequest(event_rows=events_service_pb2.EventRows(events=events))
        # What the contract does not know is no part of a row, and the engine reads some of it otherwise or not at all.
        message.DiscardUnknownFields()
        data = message.SerializeToString()
        batch = Batch(
            origin,
            len(events),
            len(data),
            keep_good,
            message=data,
            raws=raws,
            faults=faults or {},
            replays=replays,
        )
        await self._committer.submit(batch)
        return await batch.done

    async def upload(self, origin: Origin, pieces: AsyncIterator[bytes]) -> Upload:
        """Stores newline-delimited JSON, a commit for every so many lines.

        Raises InvalidInput for a line that passes COLLECT_BYTES_MAX, saying how many lines before it are stored.
        """
        done = Upload()
        seen = 0
        lines: list[bytes] = []
        async for _, line in ndjson.lines(pieces, lambda: done.accepted):
            lines.append(line)
            if len(lines) >= limits.UPLOAD_BATCH_ROWS:
                await self._store_lines(origin, lines, seen, done)
                seen += len(lines)
                lines = []
        if lines:
            await self._store_lines(origin, lines, seen, done)
        return done

    async def _store_lines(self, origin: Origin, lines: Sequence[bytes], first: int, done: Upload) -> None:
        events, faults = await asyncio.to_thread(_parsed, lines)
        raws = [Raw(line, RawFormat.JSON) for line in lines]
        stored = await self.store(origin, events, keep_good=True, raws=raws, faults=faults)
        done.accepted += stored.accepted
        done.rejected += len(stored.rejected)
        done.commit = stored.commit if stored.accepted else done.commit
        room = UPLOAD_ERRORS_SHOWN - len(done.first_rejected)
        done.first_rejected += [BadRow(first + bad.index, bad.reason, bad.message) for bad in stored.rejected[:room]]


def _parsed(lines: Sequence[bytes]) -> tuple[list[events_pb2.Event], dict[int, BadRow]]:
    """The lines' events. In place of an unreadable one stands an empty event, which the engine rejects with the others;
    the reason that is kept is the one found here."""
    events: list[events_pb2.Event] = []
    faults: dict[int, BadRow] = {}
    for index, line in enumerate(lines):
        try:
            events.append(collect.from_json(line))
        except InvalidInput as error:
            events.append(events_pb2.Event())
            faults[index] = BadRow(index, error.reason, error.message)
    return events, faults
