"""Rejected rows of a user who is forgotten: found by reading each as what it is, an event that did not come so far.

A JSON row names whom its fields name, in any spelling that is taken. One that is no JSON object names whoever stands in
it as a whole JSON text.
"""

import asyncio
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Sequence

import orjson
from google.protobuf.message import DecodeError

from penstock.errors import InvalidInput
from penstock.events import collect
from penstock.events.batch import RawFormat
from penstock.events.v1 import events_pb2
from penstock.pipeline.forget_figures import count
from penstock.pipeline.person import Forgetting, Person
from penstock.rest.json_values import json_object
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.payload import literal

REJECTED_ROWS_READ = 200  # at once: a row may have a megabyte
REJECTED_IDS_DELETED = 5_000  # by one statement, which may have 256 KiB

_PAGE = """
SELECT commit, stream_id, offset, toString(rejected_id) AS id, base64Encode(raw) AS raw, raw_format
FROM rejected_events
WHERE {mine} AND commit <= {through} AND (commit, stream_id, offset, toString(rejected_id)) >
    ({{commit:Int64}}, {{stream_id:String}}, {{offset:Int64}}, {{id:String}})
ORDER BY tenant, commit, stream_id, offset, id
LIMIT {limit}
"""
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


async def remove(engine: Engine, forgetting: Forgetting) -> dict[str, int]:
    """Deletes the rows and what says that they were taken later; how many, by table."""
    removed = {"rejected_replays": 0, "rejected_events": 0}
    waiting: list[str] = []
    async for ids in _found(engine, forgetting):
        waiting += ids
        if len(waiting) >= REJECTED_IDS_DELETED:
            await _delete(engine, forgetting, waiting, removed)
            waiting = []
    if waiting:
        await _delete(engine, forgetting, waiting, removed)
    return removed


async def remaining(engine: Engine, forgetting: Forgetting) -> int:
    """How many rows there are."""
    return sum([len(ids) async for ids in _found(engine, forgetting)])


async def _delete(engine: Engine, forgetting: Forgetting, ids: Sequence[str], removed: dict[str, int]) -> None:
    condition = f"{forgetting.mine} AND rejected_id IN ({', '.join(map(literal, ids))})"
    for table in removed:  # the rows themselves last, because they tell which ids go
        rows = await count(engine, table, condition)
        if rows:
            await engine.delete_rows(table, condition, lane=Lane.PIPELINE)
        removed[table] += rows


async def _found(engine: Engine, forgetting: Forgetting) -> AsyncIterator[list[str]]:
    """The ids of the user's rows, page by page."""
    sql = _PAGE.format(mine=forgetting.mine, through=forgetting.commit, limit=REJECTED_ROWS_READ)
    last: Row = {"commit": -1, "stream_id": "", "offset": -1, "id": ""}
    while True:
        bounds = {name: last[name] for name in ("commit", "stream_id", "offset", "id")}
        rows = await engine.rows(sql, bounds, lane=Lane.PIPELINE)
        if not rows:
            return
        yield await asyncio.to_thread(_of, forgetting.person, rows)
        last = rows[-1]


def _of(person: Person, rows: Sequence[Row]) -> list[str]:
    return [row["id"] for row in rows if any(map(person.is_raw, _names(b64decode(row["raw"]), row["raw_format"])))]


def _names(raw: bytes, raw_format: str) -> Iterator[str]:
    """Whom a rejected row names."""
    if raw_format == RawFormat.PROTOBUF.value:
        try:
            event = events_pb2.Event.FromString(raw)
        except DecodeError:
            return
        yield from (event.user_id, event.visitor_id)
        return
    try:
        fields = json_object(raw)
    except InvalidInput:
        yield from _texts(raw)
        return
    for spelled, value in fields.items():
        try:
            event = collect.from_fields({"event_type": "any", spelled: value})
        except InvalidInput:
            continue
        yield from (event.user_id, event.visitor_id)


def _texts(raw: bytes) -> Iterator[str]:
    for found in _TEXT.findall(raw):
        try:
            yield orjson.loads(found)
        except orjson.JSONDecodeError:
            yield found[1:-1].decode(errors="replace")
