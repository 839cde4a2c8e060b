"""Rows/s through StreamEvents: durable, checked by the engine, exactly once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

import grpc

from loadtest import engine, rows
from loadtest.launch import apart, file_system, scratch, server
from loadtest.result import Detail, Result
from loadtest.rows import Batches
from loadtest.scale import Scale
from loadtest.stream import Load, Stream, opened, run_all
from penstock.events.v1 import events_service_pb2 as pb
from penstock.events.v1.events_service_pb2_grpc import EventServiceStub
from tests.process import ServerProcess

if TYPE_CHECKING:
    from penstock.events.v1.events_service_pb2_grpc import EventServiceAsyncStub

LIMIT_ROWS, LIMIT_BATCHES = 1_000, 128  # of one statement of the limit: larger ones are no faster
DIFFERENT_ROWS = 32_000  # then the rows repeat
SETTLE_S = 0.5  # between measurements, for what the last one left to be merged


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows come in."""

    streams: int
    rows: int  # a batch


async def ingest(name: str, scale: Scale, *, shape: Shape, target: float | None, value: float | None) -> Result:
    """The server against the engine alone, measured by turns, so that a slow minute of the machine hits both."""
    batches = await _made(rows.as_messages, shape.rows)
    large = (await _made(rows.as_messages, LIMIT_ROWS)).repeated(LIMIT_BATCHES)
    limits: list[float] = []
    plain: list[float] = []
    reached: list[float] = []
    with scratch() as folder, server(folder / "server", fsync=True, pipeline=False) as running:
        async with opened(running.target, names(shape)) as streams:
            await run_all(streams, Load(batches, scale.warm_up_s))
            for _ in range(scale.rounds):
                limits.append(await _alone(engine.insert_rate, folder / "limit", large, scale))
                reached.append(await _through(streams, batches, scale))
                plain.append(await _alone(engine.plain_rate, folder / "plain", large, scale))
        stored = await check_stored(running, streams)
        kind = file_system(folder)
    return Result(
        name, median(reached), "rows/s", median(limits),
        f"the server's own INSERT, {LIMIT_BATCHES} × {LIMIT_ROWS:,} rows a statement, without gRPC or commit log",
        target=target,
        target_value=value,
        details={
            **described(shape, stored, kind),
            "plain_limit": median(plain),
            "plain_limit_is": "INSERT … FORMAT ProtobufList of the same rows into the same table, nothing checked",
            "plain_ratio": median(reached) / median(plain),
        },
    )  # fmt: skip


async def arrow(name: str, scale: Scale, *, shape: Shape) -> Result:
    """Batches of columns against batches of messages, through one server, by turns."""
    columns = await _made(rows.as_columns, shape.rows)
    messages = await _made(rows.as_messages, shape.rows)
    by_messages: list[float] = []
    by_columns: list[float] = []
    with scratch() as folder, server(folder / "server", fsync=True, pipeline=False) as running:
        async with opened(running.target, names(shape)) as streams:
            for batches in (messages, columns):
                await run_all(streams, Load(batches, scale.warm_up_s))
            for _ in range(scale.rounds):
                by_messages.append(await _through(streams, messages, scale))
                by_columns.append(await _through(streams, columns, scale))
        stored = await check_stored(running, streams)
        kind = file_system(folder)
    return Result(
        name, median(by_columns), "rows/s", median(by_messages), "the same rows as messages, through the same streams",
        target=1.0,
        details=described(shape, stored, kind),
    )  # fmt: skip


async def _made(make: Callable[..., Batches], size: int) -> Batches:
    return await asyncio.to_thread(make, size, batches=DIFFERENT_ROWS // size)


async def _through(streams: list[Stream], batches: Batches, scale: Scale) -> float:
    """Rows/s from the first send to the last ack."""
    tally = await run_all(streams, Load(batches, scale.seconds))
    await asyncio.sleep(SETTLE_S)
    return tally.rows_per_s


async def _alone(rate: Callable[..., float], data_dir: Path, batches: Batches, scale: Scale) -> float:
    """Rows/s of the engine in a process of its own."""
    reached = await apart(rate, data_dir, batches, fsync=True, seconds=scale.seconds)
    await asyncio.sleep(SETTLE_S)
    return reached


def names(shape: Shape) -> list[str]:
    """A name for each stream."""
    return [f"bench-{number}" for number in range(shape.streams)]


def described(shape: Shape, stored: int, kind: str) -> dict[str, Detail]:
    """What goes with every figure of ingest."""
    return {
        "streams": shape.streams,
        "rows_a_batch": shape.rows,
        "fsync": True,
        "pipeline": False,
        "rows_stored": stored,
        "file_system": kind,
    }


async def check_stored(running: ServerProcess, streams: list[Stream]) -> int:
    """How many rows the server has; raises where that is not what it acknowledged."""
    async with grpc.aio.insecure_channel(running.target) as channel:
        counted = await cast("EventServiceAsyncStub", EventServiceStub(channel)).CountEvents(pb.CountEventsRequest())
    acknowledged = sum(stream.offset for stream in streams)
    if counted.total != acknowledged:
        raise AssertionError(f"{acknowledged} rows were acknowledged, {counted.total:.0f} are stored")
    return acknowledged
