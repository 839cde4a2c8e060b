"""The worker process: what comes back from it, and what becomes of calls when it is full, slow, killed or orphaned."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from penstock import limits
from penstock.errors import InvalidInput, Overloaded, TimedOut, Unavailable, invalid_field
from penstock.workers import Workers

START_S = 60.0  # a spawned interpreter on a busy machine


def whoami() -> int:
    return os.getpid()


def refuse() -> None:
    raise invalid_field("sensitivity", "must be from 0 to 1")


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


def until_there_is(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignores_interrupts() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    opened = Workers()
    yield opened
    await opened.close()


async def test_work_runs_in_one_other_process_that_is_kept(workers: Workers) -> None:
    first = await workers.run(whoami, timeout_s=START_S)
    assert first != os.getpid()
    assert await workers.run(whoami, timeout_s=START_S) == first
    assert await workers.run(ignores_interrupts, timeout_s=START_S)


async def test_errors_come_back_whole(workers: Workers) -> None:
    with pytest.raises(InvalidInput) as caught:
        await workers.run(refuse, timeout_s=START_S)
    assert (caught.value.reason, caught.value.violations[0].field) == ("INVALID_FIELD", "sensitivity")


async def test_the_loop_goes_on_meanwhile(workers: Workers, tmp_path: Path) -> None:
    await workers.run(whoami, timeout_s=START_S)
    work = asyncio.create_task(workers.run(until_there_is, tmp_path / "mark", timeout_s=START_S))
    for _ in range(6):
        await asyncio.sleep(0.01)
    assert not work.done()
    (tmp_path / "mark").touch()
    await work


async def test_late_work_is_ended_and_the_next_call_has_a_fresh_worker(workers: Workers) -> None:
    first = await workers.run(whoami, timeout_s=START_S)
    with pytest.raises(TimedOut):
        await workers.run(time.sleep, 600, timeout_s=0.2)
    assert not psutil.pid_exists(first)
    assert await workers.run(whoami, timeout_s=START_S) != first


async def test_a_call_that_waits_too_long_for_its_turn_leaves_the_running_one_alone(
    workers: Workers, tmp_path: Path
) -> None:
    first = await workers.run(whoami, timeout_s=START_S)
    running = asyncio.create_task(workers.run(until_there_is, tmp_path / "mark", timeout_s=START_S))
    await asyncio.sleep(0.05)
    with pytest.raises(TimedOut):
        await workers.run(whoami, timeout_s=0.1)
    (tmp_path / "mark").touch()
    await running
    assert await workers.run(whoami, timeout_s=START_S) == first


async def test_a_cancelled_call_gives_up_its_place(workers: Workers, tmp_path: Path) -> None:
    first = await workers.run(whoami, timeout_s=START_S)
    running = asyncio.create_task(workers.run(until_there_is, tmp_path / "mark", timeout_s=START_S))
    waiting = asyncio.create_task(workers.run(time.sleep, 600, timeout_s=START_S))
    await asyncio.sleep(0.05)
    waiting.cancel()
    running.cancel()
    (tmp_path / "mark").touch()
    ended = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError, asyncio.CancelledError]
    assert await workers.run(whoami, timeout_s=START_S) == first


@pytest.fixture
async def room_for_two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    monkeypatch.setattr(limits, "WORKER_CALLS_MAX", 2)
    opened = Workers()
    yield opened
    await opened.close()


async def test_a_full_queue_says_so_to_the_tenant_whose_it_is(room_for_two: Workers) -> None:
    workers = room_for_two
    calls = [asyncio.create_task(workers.run(whoami, timeout_s=START_S)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await workers.run(whoami, timeout_s=START_S)
    calls.append(asyncio.create_task(workers.run(whoami, timeout_s=START_S, tenant="other")))
    assert len(set(await asyncio.gather(*calls))) == 1
    await workers.run(whoami, timeout_s=START_S)


async def test_a_worker_that_dies_is_replaced_once(workers: Workers, tmp_path: Path) -> None:
    assert await workers.run(die_once, tmp_path / "mark", timeout_s=START_S) == "second time"
    with pytest.raises(Unavailable) as caught:
        await workers.run(die, timeout_s=START_S)
    assert caught.value.reason == "WORKER_DIED"
    await workers.run(whoami, timeout_s=START_S)


async def test_closing_ends_what_runs_and_what_waits() -> None:
    workers = Workers()
    await workers.close()
    with pytest.raises(Unavailable):
        await workers.run(whoami, timeout_s=START_S)
    workers = Workers()
    pid = await workers.run(whoami, timeout_s=START_S)
    calls = [asyncio.create_task(workers.run(time.sleep, 600, timeout_s=START_S)) for _ in range(2)]
    await asyncio.sleep(0.1)
    await workers.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in ended] == [Unavailable, Unavailable]
    assert not psutil.pid_exists(pid)


PARENT = """
import asyncio, time
from penstock.workers import Workers
from tests.kpis.test_workers import whoami

async def main():
    workers = Workers()
    print(await workers.run(whoami, timeout_s=60), flush=True)
    await workers.run(time.sleep, 600, timeout_s=600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_the_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([worker], timeout=10)[1] == []
