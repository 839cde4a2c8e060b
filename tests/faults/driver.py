"""One run: writers write without pause to one data folder while its servers die, one a round; then all is checked.

A seed decides what is sent, how each server ends, and what the network and the storage do until then. Only the timing
is the machine's, so a seed that failed once fails again soon, not always.
"""

import asyncio
import contextlib
import itertools
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TypeAlias

import grpc

from penstock import failpoints
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from penstock.pipeline.v1 import pipeline_service_pb2_grpc as pipeline_stubs
from tests.faults.check import check
from tests.faults.collect_writer import CollectWriter
from tests.faults.journal import Journal, PromiseBroken
from tests.faults.plan import Plan
from tests.faults.proxy import Proxy
from tests.faults.sdk_writer import SdkWriter
from tests.faults.stored import read
from tests.faults.writers import WINDOW, StreamWriter
from tests.process import ServerProcess

REACHED_S_MAX = 60.0  # a failpoint under load is passed within so long
READ_S_MAX = 10.0  # what a server sent last is read within so long
SETTLED_S_MAX = 90.0  # after the last start writers settle what they sent within so long
RECOVERED_S_MAX = 45.0  # after storage came back batches are stored again within so long
# Those that events and runs of the pipeline pass by; of what else writes to the log nothing is sent here.
FAILPOINTS = tuple(name for name in failpoints.NAMES if name.startswith(("commit.", "pipeline.")))


class Weather(Enum):
    """What happens before a server ends."""

    CALM = "calm"
    CUTS = "connections are cut"
    STORAGE_AWAY = "storage refuses commits"
    PIPELINE_AWAY = "storage refuses runs of the pipeline"


@dataclass(frozen=True, slots=True)
class End:
    """How a server ends: "kill", "kill while starting", "drain", or by a failpoint, for the `nth` time."""

    how: str
    nth: int = 1
    running: bool = False  # the failpoint is switched on in the running server, not at its start


@dataclass(frozen=True, slots=True)
class Round:
    """One life of a server."""

    weather: Weather
    end: End
    load_s: float  # until the end begins


Writer: TypeAlias = StreamWriter | CollectWriter | SdkWriter


@dataclass(slots=True)
class Report:
    """What a run did; `wrong` is empty when every promise was kept."""

    seed: int
    journal: Path
    wrong: list[str] = field(default_factory=list)
    rounds: Counter[str] = field(default_factory=Counter)
    rows: int = 0  # stored
    commits: int = 0
    acknowledged: int = 0  # batches
    cuts: int = 0

    def __str__(self) -> str:
        ends = ", ".join(f"{times} × {how}" for how, times in sorted(self.rounds.items()))
        return (
            f"seed {self.seed}: {self.rounds.total()} rounds ({ends}); {self.cuts} connections cut, "
            f"{self.acknowledged} batches acknowledged, {self.rows} rows in {self.commits} commits"
        )


def rounds_of(seed: int, count: int, ends: Sequence[str] = ()) -> list[Round]:
    """The rounds of a seed. Every kind of end, and of weather, comes before any end comes twice."""
    chance = random.Random(f"{seed}/rounds")
    kinds = list(ends) or ["kill", "kill", "kill while starting", "drain", *FAILPOINTS]
    weathers = [*Weather, Weather.CUTS, Weather.CALM, Weather.CALM]
    made: list[Round] = []
    while len(made) < count:
        chance.shuffle(kinds)
        chance.shuffle(weathers)
        made += [_round(chance, kind, weather) for kind, weather in zip(kinds, itertools.cycle(weathers), strict=False)]
    return made[:count]


def _round(chance: random.Random, how: str, weather: Weather) -> Round:
    end = End(how)
    if how == "kill while starting":
        weather = Weather.CALM  # nothing is open yet
    if how in failpoints.NAMES:
        reach = 8 if how.startswith("commit.") else 3
        end = End(how, chance.randint(1, reach), running=weather is not Weather.CALM or chance.random() < 0.5)
    return Round(weather, end, chance.uniform(0.1, 0.6))


class Run:
    """The servers, the writers and the wire between them."""

    def __init__(
        self, folder: Path, seed: int, *, server: Callable[..., ServerProcess] = ServerProcess, sdk: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.report = Report(seed, folder / "journal.jsonl")
        self.journal = Journal(self.report.journal)
        self.proxy = Proxy(seed)
        self._random = random.Random(f"{seed}/timing")
        self._failpoint = folder / "failpoint"
        self._failpoint.touch()
        self._with_sdk = sdk
        self.server = server(
            self.data_dir,
            env={"PENSTOCK_FAILPOINT_FILE": str(self._failpoint), "PENSTOCK_PIPELINE_INTERVAL_S": "0.05"},
        )
        self.writers: list[Writer] = []

    async def play(self, rounds: Sequence[Round]) -> Report:
        """Plays the rounds and checks what is left."""
        report = self.report
        try:
            async with self.proxy:
                self.writers = self._make_writers()
                tasks = [asyncio.create_task(writer.run()) for writer in self.writers]
                try:
                    for number, each in enumerate(rounds):
                        self.journal.note("run", "round", number=number, weather=each.weather.value, end=each.end)
                        await self._live(each)
                        report.rounds[each.end.how] += 1
                        _raise_first(tasks)
                    await self._settle(tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                report.cuts = self.proxy.cuts
            await self._check()
        except PromiseBroken as error:
            report.wrong.append(str(error))
        finally:
            self.server.kill()
            self.journal.note("run", "done", wrong=report.wrong)
            self.journal.close()
        return report

    def _make_writers(self) -> list[Writer]:
        seed, start, target = self.report.seed, datetime.now(UTC).replace(microsecond=0), self.proxy.target
        made: list[Writer] = [
            StreamWriter(Plan(seed, f"stream-{n}", start, keep_good=n % 2 == 0), target, self.journal, seed)
            for n in range(4)
        ]
        collect = Plan(seed, "collect", start, keep_good=True, own_ids=True)
        made.append(CollectWriter(collect, target, self.journal, seed))
        if self._with_sdk:
            made.append(SdkWriter(Plan(seed, "sdk", start, keep_good=True), target, self.journal, seed))
        return made

    # --- one round ----------------------------------------------------------------------------------------------------

    async def _live(self, each: Round) -> None:
        end = each.end
        if end.how == "kill while starting":
            await self._kill_while_starting()
            return
        at_start = end.how in failpoints.NAMES and not end.running
        alive = await self._start(f"{end.how}@{end.nth}" if at_start else "")
        if alive:
            await self._have(each.weather, each.load_s)
            self._alive_unless(at_start)
        if at_start:
            await self._died_at(end.how)
        elif end.how == "kill":
            await asyncio.to_thread(self.server.kill)
        elif end.how == "drain":
            await self._drain()
        else:
            with self._switched(f"{end.how}@{end.nth}"):
                await self._died_at(end.how)
        self.proxy.upstream = None
        self.journal.note("run", "server is gone")

    async def _start(self, failpoint: str = "") -> bool:
        """Starts the server; False when it died by its failpoint before it was ready."""
        # The file, where it is named, counts more than the variable.
        env = {"PENSTOCK_FAILPOINT": failpoint, "PENSTOCK_FAILPOINT_FILE": ""} if failpoint else {}
        try:
            await asyncio.to_thread(self.server.start, **env)
        except AssertionError:
            if not failpoint or self.server.running():
                raise
            return False
        self.proxy.upstream = int(str(self.server.ready["grpc_port"]))
        self.journal.note("run", "server is ready", pid=self.server.pid)
        return True

    async def _kill_while_starting(self) -> None:
        start = asyncio.create_task(self._start())
        await asyncio.sleep(self._random.uniform(0.3, 2.5))
        await asyncio.to_thread(self.server.kill)
        with contextlib.suppress(AssertionError):
            await start
        await asyncio.to_thread(self.server.kill)  # it may have been started only now
        self.proxy.upstream = None

    async def _have(self, weather: Weather, load_s: float) -> None:
        await asyncio.sleep(load_s)
        if weather is Weather.CUTS:
            with self.proxy.breaking():
                await asyncio.sleep(3 * load_s)
        elif weather is Weather.STORAGE_AWAY:
            await self._storage_away(2 * load_s)
        elif weather is Weather.PIPELINE_AWAY:
            with self._switched("pipeline.after_silver!"):
                await asyncio.sleep(2 * load_s)

    async def _storage_away(self, seconds: float) -> None:
        """Nothing is acknowledged meanwhile, and things go on by themselves afterwards."""
        before = max(self._commits(), default=0)
        with self._switched("commit.before_insert!"):
            await asyncio.sleep(seconds)
            since = {commit for commit in self._commits() if commit > before}
            # One may have been under way, and the answers of one before it not yet been read here.
            if len(since) > 2:
                raise self.journal.broken("server", f"commits {sorted(since)} were acknowledged, storage refused all")
        newest = max(since, default=before)
        if not await _soon(lambda: max(self._commits(), default=0) > newest, RECOVERED_S_MAX):
            raise self.journal.broken("server", f"{RECOVERED_S_MAX} s after storage came back nothing is stored")

    async def _drain(self) -> None:
        """Exit code 0, and the open streams end in good order, each with a last frame that says where it stands.

        Half of them keep sending. Of those the last frame is not asked for: a write that finds the call ended makes
        grpc.aio drop what it has received and not yet handed over.
        """
        streams = [writer for writer in self.writers if isinstance(writer, StreamWriter)]
        # More answers than were under way: its connection is not one that was cut and does not know it yet.
        alive = {writer.name: writer.record.answers + WINDOW for writer in streams}
        if not await _soon(lambda: all(each.record.answers > alive[each.name] for each in streams), RECOVERED_S_MAX):
            raise self.journal.broken("server", f"not every stream was answered within {RECOVERED_S_MAX} s")
        quiet = self._random.sample(streams, (len(streams) + 1) // 2)
        for writer in quiet:
            writer.flowing.clear()
        if not await _soon(lambda: all(writer.resting for writer in quiet), READ_S_MAX):
            raise self.journal.broken("server", f"a write was under way for {READ_S_MAX} s")
        before = [(writer, writer.record.drains) for writer in quiet if writer.connected]
        code = await asyncio.to_thread(self.server.terminate)
        self.journal.note("run", "drained", code=code, quiet=[writer.name for writer in quiet])
        if code != 0:
            raise self.journal.broken("server", f"exit code {code} after SIGTERM:\n{self.server.log[-2_000:]}")
        until = asyncio.get_running_loop().time() + READ_S_MAX
        while any(writer.record.drains == drains for writer, drains in before):
            if asyncio.get_running_loop().time() > until:
                raise self.journal.broken("server", "it stopped, and not every stream had its last frame")
            await asyncio.sleep(0.02)
        for writer in quiet:
            writer.flowing.set()

    async def _died_at(self, failpoint: str) -> None:
        try:
            code = await asyncio.to_thread(self.server.wait, REACHED_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the server never came by {failpoint}:\n{self.server.log[-2_000:]}") from error
        if code != -9:
            raise self.journal.broken(
                "server", f"it ended with {code}, not at {failpoint}:\n{self.server.log[-2_000:]}"
            )

    def _alive_unless(self, doomed: bool) -> None:
        if not doomed and not self.server.running():
            raise self.journal.broken("server", f"it died by itself:\n{self.server.log[-2_000:]}")

    @contextlib.contextmanager
    def _switched(self, failpoint: str) -> Iterator[None]:
        self._write_failpoint(failpoint)
        try:
            yield
        finally:
            self._write_failpoint("")

    def _write_failpoint(self, text: str) -> None:
        """In one step, because the server reads it at any moment."""
        draft = self._failpoint.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._failpoint)

    def _commits(self) -> set[int]:
        """Every commit that was acknowledged to somebody."""
        return {commit for writer in self.writers for commit in writer.record.commits.values()}

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _settle(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """A last, undisturbed server: most writers settle what they sent, some never come back; the pipeline ends."""
        await self._start()
        abandoned = self._random.sample(range(4), self._random.randint(0, 1))
        for number, (writer, task) in enumerate(zip(self.writers, tasks, strict=True)):
            if number in abandoned:
                task.cancel()
            writer.close()
        done, late = await asyncio.wait(tasks, timeout=SETTLED_S_MAX)
        _raise_first([task for task in done if not task.cancelled()])
        if late:
            raise self.journal.broken("server", f"{len(late)} writers could not settle within {SETTLED_S_MAX} s")
        await self._run_pipeline()
        code = await asyncio.to_thread(self.server.terminate)
        if code != 0:
            raise self.journal.broken("server", f"exit code {code} after SIGTERM:\n{self.server.log[-2_000:]}")

    async def _run_pipeline(self) -> None:
        async with grpc.aio.insecure_channel(self.server.target) as channel:
            stub = pipeline_stubs.PipelineServiceStub(channel)
            try:
                await stub.RunPipeline(pipeline.RunPipelineRequest(), timeout=SETTLED_S_MAX)
                status = await stub.GetPipelineStatus(pipeline.GetPipelineStatusRequest(), timeout=READ_S_MAX)
            except grpc.aio.AioRpcError as error:
                raise self.journal.broken("pipeline", f"it cannot run: {error.details()}") from error
        if status.lag_commits:
            raise self.journal.broken("pipeline", f"{status.lag_commits} commits are not in gold after a full run")

    async def _check(self) -> None:
        stored = await read(self.data_dir)
        report = self.report
        report.rows, report.commits = len(stored.bronze), len(stored.commits)
        report.acknowledged = sum(len(writer.record.commits) for writer in self.writers)
        streams = [writer.record for writer in self.writers if not isinstance(writer, CollectWriter)]
        collects = [writer.record for writer in self.writers if isinstance(writer, CollectWriter)]
        report.wrong += check(stored, streams, collects)


async def _soon(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within so long."""
    until = asyncio.get_running_loop().time() + seconds
    while not holds():
        if asyncio.get_running_loop().time() > until:
            return False
        await asyncio.sleep(0.02)
    return True


def _raise_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raises what a writer found."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
