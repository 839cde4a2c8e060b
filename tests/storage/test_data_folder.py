"""The data folder: one process at a time, and whole after SIGKILL at the worst moments."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import Conflict
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.connection import scratch_folder
from penstock.storage.engine import open_engine
from tests.storage.rows import count_bronze

# Writes one whole commit, then the rows of another, then dies where it is told to.
WRITER = """
import asyncio, os, signal, sys
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import open_engine
from penstock.storage.schema import migrate
from tests.storage.rows import write_bronze

async def main(data_dir, url, place):
    settings = Settings(data_dir=data_dir, clickhouse_url=url)
    engine = open_engine(settings)
    await migrate(engine, settings)
    log = CommitLog(engine)
    await log.open()
    async with log.transaction() as transaction:
        await write_bronze(engine, transaction.commit)
        await transaction.append(Entry("append", rows=3))
    async with log.transaction() as transaction:
        await write_bronze(engine, transaction.commit, rows=5)
        if place == "before_entry":
            os.kill(os.getpid(), signal.SIGKILL)
        await transaction.append(Entry("append", rows=5))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""
HOLDER = """
import sys
from penstock.settings import Settings
from penstock.storage.engine import open_engine

engine = open_engine(Settings(data_dir=sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("place", "head", "rows"), [("before_entry", 1, 3), ("after_entry", 2, 8)])
async def test_kill_9(settings: Settings, place: str, head: int, rows: int) -> None:
    writer = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WRITER, str(settings.data_dir), settings.clickhouse_url, place],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert writer.returncode == -signal.SIGKILL, writer.stderr
    engine = open_engine(settings)
    try:
        log = CommitLog(engine)
        await log.open()
        assert (log.head, log.last_append) == (head, head)
        assert await count_bronze(engine) == rows
        async with log.transaction() as transaction:
            assert transaction.commit == head + 1
    finally:
        await engine.close()


def test_a_data_folder_is_open_once(embedded_settings: Settings) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(embedded_settings.data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(Conflict, match="another server has it open") as caught:
            open_engine(embedded_settings)
        assert caught.value.reason == "DATA_DIR_IN_USE"
        assert scratch_folder(embedded_settings.data_dir).is_dir(), "the other server's"
        holder.kill()


async def test_a_killed_process_leaves_no_scratch(embedded_settings: Settings) -> None:
    scratch = scratch_folder(embedded_settings.data_dir)
    scratch.mkdir(parents=True)
    (scratch / "payload").write_bytes(b"left behind")
    engine = open_engine(embedded_settings)
    assert list(scratch.iterdir()) == []
    await engine.close()
    assert not scratch.exists()


def test_the_scratch_folder_is_the_data_folders_own(tmp_path: Path) -> None:
    assert scratch_folder(tmp_path / "a") != scratch_folder(tmp_path / "b")
    assert scratch_folder(tmp_path / "a") == scratch_folder(tmp_path / "b" / ".." / "a")
