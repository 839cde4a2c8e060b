"""A batch that the engine cannot take fails by itself: those of others in its commit are stored, exactly once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from hypothesis import given
from hypothesis import settings as hypothesis

from penstock.errors import InvalidInput
from penstock.events.append_stream import AppendStream
from penstock.events.batch import Batch, Origin, Stored
from penstock.events.committer import Committer
from penstock.events.streams import Streams
from penstock.events.v1 import events_pb2 as ev
from penstock.events.v1 import events_service_pb2 as pb
from penstock.rpc.call import Call
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.payload import Payload
from tests.events import encodings
from tests.events.conftest import reason, summary
from tests.events.encodings import GOOD, HOSTILE, request

_STORED = """
SELECT tenant, count() AS n FROM bronze_events WHERE tenant != 'default' GROUP BY tenant
UNION ALL
SELECT concat('rejected of ', tenant), count() FROM rejected_events GROUP BY tenant
"""


@dataclass(frozen=True, slots=True)
class Intake:
    """A committer over a fresh engine, and streams into it."""

    engine: ClickHouseEngine
    log: CommitLog
    streams: Streams
    committer: Committer

    async def append(self, tenant: str, *raws: bytes, stream_id: str = "") -> list[pb.AppendResponse]:
        """All frames of a stream of the tenant's to which these bytes are sent."""
        call = SimpleNamespace(tenant=tenant, client_address="192.0.2.1", user_agent="")
        stream = AppendStream(self.committer, self.streams, cast(Call, call), durable=False, draining=asyncio.Event())

        async def sending() -> AsyncIterator[bytes]:
            for number, raw in enumerate(raws):
                yield raw + (pb.AppendRequest(stream_id=stream_id).SerializeToString() if not number else b"")

        return [frame async for frame in stream.frames(sending())]

    async def together(self, *streams: tuple[str, bytes]) -> list[list[pb.AppendResponse]]:
        """The frames of streams of tenants, whose one batch each goes into the same commit."""
        async with self.log.transaction(), asyncio.timeout(10):  # for which the committer, with a batch, waits
            await self.committer.submit(batch("default"))
            while self.committer.queued_batches:  # noqa: ASYNC110 (a task of its own takes it)
                await asyncio.sleep(0)
            running = [asyncio.create_task(self.append(tenant, raw)) for tenant, raw in streams]
            while self.committer.queued_batches < len(streams):  # noqa: ASYNC110
                await asyncio.sleep(0)
        return list(await asyncio.gather(*running))

    async def stored(self) -> dict[str, int]:
        """How many rows there are of each tenant."""
        return {row["tenant"]: row["n"] for row in await self.engine.rows(_STORED)}


@pytest.fixture
async def intake(engine: ClickHouseEngine, commit_log: CommitLog) -> AsyncIterator[Intake]:
    streams = Streams(commit_log)
    made = Intake(engine, commit_log, streams, Committer(engine, commit_log, streams))
    made.committer.start()
    yield made
    await made.committer.stop()


def batch(tenant: str, *, stream_id: str = "", keep_good: bool = False, message: bytes = b"") -> Batch:
    message = message or request(GOOD)
    return Batch(Origin(tenant, stream_id, "", ""), 1, len(message), keep_good, message=message)


async def test_every_field_with_every_kind_of_value_beside_a_good_batch(intake: Intake) -> None:
    good = 0
    for number, (name, raw) in enumerate(encodings.wrong_kinds()):
        ours, theirs = await intake.together(("ours", request(GOOD)), (f"theirs-{number}", raw))
        assert summary(ours) == ["opened 0", "stored 0+1", "end 0"], name
        assert summary(theirs)[1].startswith(("stored 0+1", "ROWS_REJECTED")), name
        good += 1
    stored = await intake.stored()
    assert stored.pop("ours") == good
    assert all(tenant.startswith("theirs-") and count == 1 for tenant, count in stored.items())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("examples", [40, pytest.param(1_500, marks=pytest.mark.slow)])
async def test_any_encoding_beside_a_good_batch(intake: Intake, examples: int) -> None:
    made: list[bytes] = []

    @hypothesis(max_examples=examples)
    @given(HOSTILE)
    def collect(raw: bytes) -> None:
        made.append(raw)

    collect()
    for number, raw in enumerate(made):
        before, theirs, after = await intake.together(
            ("a", request(GOOD, GOOD)), (f"theirs-{number}", raw), ("z", request(GOOD))
        )
        assert summary(before) == ["opened 0", "stored 0+2", "end 0"], raw.hex()
        assert summary(after) == ["opened 0", "stored 0+1", "end 0"], raw.hex()
        rows = encodings.rows(raw)
        answer = summary(theirs)[1]
        assert answer == f"stored 0+{rows}" or answer.startswith(("ROWS_REJECTED", "MALFORMED_MESSAGE")), raw.hex()
    stored = await intake.stored()
    assert (stored.pop("a"), stored.pop("z")) == (2 * len(made), len(made))
    assert all(tenant.startswith("theirs-") for tenant in stored)


async def test_who_sent_such_bytes_makes_no_more_commits_fail(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    inserts = []
    right = intake.engine.insert_payload

    async def counted(sql: str, payload: Payload, **more: object) -> None:
        inserts.append(payload)
        await right(sql, payload, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(intake.engine, "insert_payload", counted)
    hostile = request(GOOD + encodings.tag(5, 3) + encodings.tag(5, 4))
    for _ in range(3):
        ours, theirs = await intake.together(("ours", request(GOOD)), ("theirs", hostile))
        assert summary(ours) == summary(theirs) == ["opened 0", "stored 0+1", "end 0"]
    assert len(inserts) == 3 + 4, "that of the batch before each, and one commit that failed"


class Poisoned:
    """An engine that takes no rows of a poisoned batch, whatever they are written like."""

    def __init__(self, engine: ClickHouseEngine, code: int) -> None:
        self._right = engine.insert_payload
        self._code = code
        self.failed = 0

    async def __call__(self, sql: str, payload: Payload, **more: object) -> None:
        if any(b"POISON" in piece for pieces in payload.messages for piece in pieces):
            self.failed += 1
            raise DatabaseError("of the test", code=self._code)
        await self._right(sql, payload, **more)  # type: ignore[arg-type]


POISON = request(GOOD + encodings.text(ev.Event.DESCRIPTOR.fields_by_name["path"].number, b"POISON"))


@pytest.mark.parametrize("code", [444, 49])
async def test_what_cannot_be_mended_is_found_and_refused(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    poisoned = Poisoned(intake.engine, code)
    monkeypatch.setattr(intake.engine, "insert_payload", poisoned)
    poison = {3, 11, 12}
    theirs = [batch("theirs", stream_id="s", message=POISON if n in poison else b"") for n in range(20)]
    ours = [batch("ours", stream_id="s") for _ in range(20)]
    for pair in zip(theirs, ours, strict=True):
        for each in pair:
            await intake.committer.submit(each)
    outcomes = await asyncio.gather(*(each.done for each in (*ours, *theirs)), return_exceptions=True)
    stored = [each.offset for each in outcomes if isinstance(each, Stored)]
    assert stored == [*range(20), *range(17)], "in order, without a gap"
    refused = [each for each in outcomes[20:] if not isinstance(each, Stored)]
    kinds = {type(each) for each in refused}
    assert (len(refused), kinds) == (3, {InvalidInput if code == 444 else DatabaseError})
    assert await intake.stored() == {"ours": 20, "theirs": 17}
    assert poisoned.failed < 30
    assert (intake.committer.totals_of("ours").accepted, intake.committer.totals_of("theirs").accepted) == (20, 17)
    assert intake.committer.totals.accepted == 37
    assert intake.committer.totals_of("nobody").accepted == 0


async def test_a_batch_that_is_refused_ends_no_stream(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake.engine, "insert_payload", Poisoned(intake.engine, 444))
    frames = await intake.append("theirs", request(GOOD), POISON, request(GOOD), stream_id="s")
    assert summary(frames) == ["opened 0", "stored 0+1", "MALFORMED_MESSAGE 1", "stored 1+1", "end 2"]
    assert reason(frames[2].error) == "MALFORMED_MESSAGE"


async def test_streams_are_counted_by_tenant(intake: Intake) -> None:
    async def sending() -> AsyncIterator[bytes]:
        yield pb.AppendRequest(stream_id="s").SerializeToString()
        assert (intake.streams.open_count_of("ours"), intake.streams.open_count_of("theirs")) == (1, 0)

    call = SimpleNamespace(tenant="ours", client_address="", user_agent="")
    stream = AppendStream(intake.committer, intake.streams, cast(Call, call), durable=False, draining=asyncio.Event())
    assert [frame.WhichOneof("frame") async for frame in stream.frames(sending())] == ["opened", "end"]
    assert intake.streams.open_count_of("ours") == 0
