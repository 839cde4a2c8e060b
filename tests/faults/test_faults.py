"""Servers are killed in the middle of things; nothing acknowledged is lost, nothing is doubled, gold stays exact."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1 import events_service_pb2_grpc as stubs
from tests.faults.__main__ import ROUNDS_PER_FOLDER
from tests.faults.altered import AlteredServer
from tests.faults.driver import Report, Run, rounds_of
from tests.faults.writers import reason

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", "30"))
SEED = int(os.environ.get("PENSTOCK_FAULT_SEED", "20260101"))


def again(report: Report, rounds: int) -> str:
    """What a failure prints."""
    lines = [
        *report.wrong,
        f"journal: {report.journal}",
        f"again: python -m tests.faults --seed {report.seed} --rounds {rounds}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS_PER_FOLDER))
async def test_nothing_is_lost_or_doubled(tmp_path: Path, first: int) -> None:
    seed, rounds = SEED + first, min(ROUNDS_PER_FOLDER, ROUNDS - first)
    report = await Run(tmp_path, seed).play(rounds_of(seed, rounds))
    print(report)
    assert not report.wrong, again(report, rounds)
    assert report.rows > 0


async def test_nor_where_rare_things_happen_all_the_time(tmp_path: Path) -> None:
    run = Run(tmp_path, SEED, server=partial(AlteredServer, "small_limits"))
    report = await run.play(rounds_of(SEED, 3, ["kill", "commit.before_ack", "pipeline.before_log"]))
    print(report)
    assert not report.wrong, again(report, 3)


async def test_storage_that_is_away_is_said_and_come_back_is_used(tmp_path: Path) -> None:
    """On one connection, without anybody's hand: no acknowledgement, UNAVAILABLE with RetryInfo, then stored again."""
    switch = tmp_path / "failpoint"
    switch.write_text("commit.before_insert!")
    server = AlteredServer("impatient", tmp_path / "data", env={"PENSTOCK_FAILPOINT_FILE": str(switch)})
    requests: asyncio.Queue[pb.AppendRequest | None] = asyncio.Queue()

    async def sending() -> AsyncIterator[pb.AppendRequest]:
        while (request := await requests.get()) is not None:
            yield request

    def append(offset: int) -> pb.AppendRequest:
        made = pb.AppendRequest(stream_id="away", offset=offset)
        made.event_rows.events.add(event_type="login")
        return made

    with server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            frames = aiter(stubs.EventServiceStub(channel).StreamEvents(sending()))
            requests.put_nowait(append(0))
            requests.put_nowait(append(1))
            assert (await anext(frames)).opened.next_offset == 0
            refused, behind = (await anext(frames)).error, (await anext(frames)).error
            assert reason(refused) == "STORAGE_UNAVAILABLE"
            assert reason(behind) in ("STORAGE_UNAVAILABLE", "OFFSET_GAP")  # of the same commit, or of the next
            assert refused.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
            assert (refused.offset, refused.expected_offset) == (0, 0)
            assert retry_delay(refused) > timedelta(0)
            switch.write_text("")
            requests.put_nowait(append(1))
            requests.put_nowait(append(0))
            requests.put_nowait(append(1))
            requests.put_nowait(None)
            answers = [frame async for frame in frames]
    assert reason(answers[0].error) == "OFFSET_GAP"
    assert [answer.append_result.accepted_rows for answer in answers[1:3]] == [1, 1]
    assert answers[3].end.next_offset == 2


def retry_delay(error: pb.AppendError) -> timedelta:
    """What the RetryInfo of an error frame says."""
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in error.status.details), error
    delay: timedelta = info.retry_delay.ToTimedelta()
    return delay
