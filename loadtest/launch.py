"""Starts what a benchmark is about: a server of its own, and code in a process of its own."""

import asyncio
import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import ParamSpec, TypeVar

import psutil

from tests.process import ServerProcess

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for data, on the disk that TMPDIR names, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="penstock-loadtest-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def server(
    data_dir: Path, *, fsync: bool, pipeline: bool = True, env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[ServerProcess]:
    """`penstock serve` over `data_dir`, on the loopback alone; blocks until it is ready. `env`: more settings."""
    given = {
        "PENSTOCK_FSYNC": str(fsync).lower(),
        "PENSTOCK_PIPELINE_ENABLED": str(pipeline).lower(),
        "PENSTOCK_LOG_LEVEL": "warning",
        **env,
    }
    with ServerProcess(data_dir, env=given) as running:
        yield running


async def apart(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `work` in a fresh process, spawned because gRPC does not live through a fork."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await asyncio.wrap_future(pool.submit(work, *args, **kwargs))


def rss_bytes(pid: int) -> int:
    """What a process holds in memory."""
    return int(psutil.Process(pid).memory_info().rss)


def file_system(folder: Path) -> str:
    """The kind of file system under `folder`: on tmpfs a flush to the disk costs nothing."""
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    return next((mounts[path] for path in (folder, *folder.parents) if path in mounts), "unknown")
