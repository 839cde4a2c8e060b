"""A batch that the engine cannot take keeps no other one from being stored.

Batches of all tenants share a commit, and there are bytes that one parser of protobuf takes and another does not: a
field with another field's wire type, a group, a number beyond its type. To look for them costs what parsing costs, for
rows that are all but always good. So they are looked for only when a commit fails: then every message is written anew
as this program understands it, without what the contract does not know, and the commit is tried again. For bytes of
that kind that is enough. Tenants whose messages changed by it have theirs written anew before the commit for a while,
so that they do not make commits fail one after another. Should a commit fail all the same, the batches that make it
fail are found and refused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pyarrow as pa
import structlog
from clickhouse_connect.driver.exceptions import DatabaseError

from penstock.errors import InvalidInput
from penstock.events.batch import Batch
from penstock.events.commit import Unaccounted
from penstock.events.v1 import events_service_pb2
from penstock.storage.isolation import Unstored, set_apart, tried, unanswered

log = structlog.get_logger()

MISTRUST_S = 60.0
# CANNOT_PARSE_TEXT, CANNOT_PARSE_INPUT_ASSERTION_FAILED, ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA,
# INCORRECT_DATA, PROTOBUF_BAD_CAST, UNKNOWN_PROTOBUF_FORMAT
_UNREADABLE = frozenset({6, 27, 32, 33, 117, 436, 444})


class Isolation:
    """Settles batches by `commit`, which answers all of them or raises Unstored."""

    def __init__(self, commit: Callable[[Sequence[Batch]], Awaitable[None]]) -> None:
        self._commit = commit
        self._mistrusted: dict[str, float] = {}  # tenants, until when

    async def settle(self, batches: Sequence[Batch]) -> None:
        """Has every batch answered. Raises what `commit` raises besides Unstored."""
        if self._mistrusted:
            now = time.monotonic()
            self._mistrusted = {tenant: until for tenant, until in self._mistrusted.items() if until > now}
            await _mend(each for each in batches if each.tenant in self._mistrusted)
        error = await tried(batches, self._commit)
        if error is None:
            return
        left = unanswered(batches)
        changed = await _mend(left)
        log.warning("a commit failed", batches=len(left), rewritten=sorted(changed), error=str(error)[:500])
        self._mistrusted |= dict.fromkeys(changed, time.monotonic() + MISTRUST_S)
        if await tried(left, self._commit) is not None:
            await set_apart(left, self._commit, _refuse)


async def _mend(batches: Iterable[Batch]) -> set[str]:
    """Writes the messages anew; the tenants of those that it changed."""
    messages = [each for each in batches if each.message]
    return await asyncio.to_thread(_canonical, messages) if messages else set()


def _canonical(batches: Sequence[Batch]) -> set[str]:
    changed = set()
    for each in batches:
        request = events_service_pb2.AppendRequest.FromString(each.message)
        request.DiscardUnknownFields()
        message = request.SerializeToString()
        if message != each.message:
            each.message = message
            changed.add(each.tenant)
    return changed


def _refuse(batches: Sequence[Batch], error: Unstored) -> None:
    cause = error.__cause__
    unreadable = isinstance(cause, DatabaseError) and cause.code in _UNREADABLE
    theirs = unreadable or isinstance(cause, Unaccounted | pa.ArrowException)
    log.error(
        "batches cannot be stored",
        batches=len(batches),
        tenant=batches[0].tenant,
        streams=sorted({each.origin.stream_id for each in batches}),
        error=str(cause)[:500],
    )
    for each in batches:
        if theirs:
            text = "the rows cannot be read as the contract has them: write them with a protobuf or Arrow library"
            each.refuse(InvalidInput(text, reason="MALFORMED_MESSAGE"))
        else:  # a fault of this program
            each.refuse(cause if isinstance(cause, Exception) else error)
