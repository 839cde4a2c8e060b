"""Rows that were not taken: listing them, and trying them again."""

import asyncio
import weakref
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from penstock import limits
from penstock.errors import InvalidInput, invalid_field
from penstock.events import collect
from penstock.events.batch import BadRow, Origin, RawFormat
from penstock.events.intake import Intake
from penstock.events.v1 import events_pb2
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row

# `raw` may be any bytes, which a client of ClickHouse would try to read as text.
_LIST = """
SELECT r.commit AS commit, r.rejected_id AS rejected_id, r.stream_id AS stream_id, r.offset AS offset,
    r.reason AS reason, r.message AS message, base64Encode(r.raw) AS raw, r.raw_format AS raw_format,
    r.ingest_time AS ingest_time, nullIf(p.time, toDateTime64(0, 6, 'UTC')) AS replay_time
FROM rejected_events AS r
LEFT JOIN
(
    SELECT rejected_id, min(time) AS time FROM rejected_replays
    WHERE tenant = {tenant:String} AND commit <= {head:Int64} GROUP BY rejected_id
) AS p ON p.rejected_id = r.rejected_id
WHERE r.tenant = {tenant:String} AND r.commit <= {head:Int64}
    AND (r.commit < {last_commit:Int64}
        OR (r.commit = {last_commit:Int64} AND (r.stream_id, r.offset) > ({last_stream:String}, {last_offset:Int64})))
    AND ({reason:String} = '' OR r.reason = {reason:String})
    AND ({stream_id:String} = '' OR r.stream_id = {stream_id:String})
    AND (empty({ids:Array(UUID)}) OR r.rejected_id IN {ids:Array(UUID)})
    AND ({replayed:UInt8} OR replay_time IS NULL)
ORDER BY commit DESC, stream_id, offset
LIMIT {limit:UInt32}
"""


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of rows that were tried again."""

    accepted: int
    bad: Sequence[BadRow]
    commit: int


class RejectedEvents:
    """The rejected table."""

    def __init__(self, engine: Engine, commit_log: CommitLog, intake: Intake) -> None:
        self._engine = engine
        self._log = commit_log
        self._intake = intake
        # By tenant: two calls must not both find a row waiting.
        self._replaying: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def page(
        self, tenant: str, *, reason: str, stream_id: str, replayed: bool, size: int, page_token: str
    ) -> tuple[list[Row], str]:
        """Rejected rows, newest first, and the next page's token. Raises InvalidInput for a token that is not ours."""
        size = size or limits.PAGE_ROWS_DEFAULT
        last: list[int | str] = [self._log.head + 1, "", -1]
        if page_token:
            wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
            last = values_of(tenant, "rejected", page_token, (int, str, int), wrong)
        rows = await self._rows(
            tenant, reason=reason, stream_id=stream_id, replayed=replayed, last=last, limit=size + 1
        )
        if len(rows) <= size:
            return rows, ""
        end = rows[size - 1]
        return rows[:size], token(tenant, "rejected", [end["commit"], end["stream_id"], end["offset"]])

    async def replay(
        self, origin: Origin, ids: Sequence[str], *, reason: str, stream_id: str, overrides: events_pb2.Event
    ) -> Replay:
        """Tries rows again: those of `ids`, else all that wait with the reason and stream.

        Rows that are taken are marked in the same commit, so none can be taken twice. Raises InvalidInput for an id
        that is no UUID.
        """
        try:
            wanted = [str(UUID(each)) for each in ids]
        except ValueError as error:
            raise invalid_field("rejected_ids", f"must be ids from the rejected list: {error}") from error
        async with self._replaying.setdefault(origin.tenant, asyncio.Lock()):
            rows = await self._rows(
                origin.tenant,
                reason=reason,
                stream_id=stream_id,
                replayed=False,
                last=[self._log.head + 1, "", -1],
                limit=limits.REPLAY_ROWS_MAX,
                ids=wanted,
            )
            if not rows:
                return Replay(0, (), 0)
            events, faults = _mended(rows, overrides)
            stored = await self._intake.store(
                origin,
                events,
                keep_good=True,
                faults=faults,
                replays=[str(row["rejected_id"]) for row in rows],
            )
        return Replay(stored.accepted, stored.rejected, stored.commit if stored.accepted else 0)

    async def _rows(
        self,
        tenant: str,
        *,
        reason: str,
        stream_id: str,
        replayed: bool,
        last: Sequence[int | str],
        limit: int,
        ids: Sequence[str] = (),
    ) -> list[Row]:
        return await self._engine.rows(
            _LIST,
            {
                "tenant": tenant,
                "head": self._log.head,
                "reason": reason,
                "stream_id": stream_id,
                "replayed": int(replayed),
                "last_commit": last[0],
                "last_stream": last[1],
                "last_offset": last[2],
                "ids": list(ids),
                "limit": limit,
            },
        )


def _mended(rows: Sequence[Row], overrides: events_pb2.Event) -> tuple[list[events_pb2.Event], dict[int, BadRow]]:
    """The rows as events, with `overrides` laid over them; those that still cannot be read, with why."""
    events: list[events_pb2.Event] = []
    faults: dict[int, BadRow] = {}
    for index, row in enumerate(rows):
        event = events_pb2.Event()
        try:
            raw = b64decode(row["raw"])
            protobuf = row["raw_format"] == RawFormat.PROTOBUF.value
            event = events_pb2.Event.FromString(raw) if protobuf else collect.from_json(raw)
            event.MergeFrom(overrides)
        except InvalidInput as error:
            faults[index] = BadRow(index, error.reason, error.message)
        events.append(event)
    return events, faults
