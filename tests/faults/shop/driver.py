"""One run: products and feedback are written to one data folder while its servers die, one a round.

After each start all is checked, while nobody writes. A seed decides what is sent, how each server ends and what becomes
of the saved index in between; only the timing is the machine's.
"""

import asyncio
import contextlib
import itertools
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from penstock import failpoints
from tests.faults.journal import Journal, PromiseBroken
from tests.faults.shop.check import Checker, Scores, differ, on_disk, until
from tests.faults.shop.spoil import Shelter, Spoil
from tests.faults.shop.tender import Tender
from tests.faults.shop.writers import FeedbackWriter, ProductWriter
from tests.process import ServerProcess

REACHED_S_MAX = 60.0  # a failpoint under load is passed within so long
WRITERS_GONE_S_MAX = 60.0  # a writer notices within so long that its server died
FAILPOINTS = tuple(name for name in failpoints.NAMES if name.startswith(("catalogue.", "feedback.")))
ENDS = ("kill", "kill", "kill while starting", "kill in training", "kill in rebuild", "drain", *FAILPOINTS)


@dataclass(frozen=True, slots=True)
class Round:
    """One life of a server: how the index was left for it, for how long it is written to, and how it ends."""

    spoil: Spoil
    end: str  # one of ENDS
    load_s: float = 0.5
    nth: int = 1  # pass of the failpoint


@dataclass(slots=True)
class Report:
    """What a run did; `wrong` is empty when every promise was kept."""

    seed: int
    journal: Path
    wrong: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    spoilt: Counter[str] = field(default_factory=Counter)
    changes: int = 0  # of products, acknowledged
    interactions: int = 0  # stored

    def __str__(self) -> str:
        ends = ", ".join(f"{times} × {how}" for how, times in sorted(self.ends.items()))
        spoilt = ", ".join(f"{times} × {how}" for how, times in sorted(self.spoilt.items()))
        return (
            f"seed {self.seed}: {self.ends.total()} servers ended ({ends}), their indexes: {spoilt}; "
            f"{self.changes} changes of products, {self.interactions} interactions"
        )


def rounds_of(seed: int, count: int) -> list[Round]:
    """The rounds of a seed: every end, and every fate of the index, comes before any comes twice."""
    chance = random.Random(f"{seed}/rounds")
    ends, spoils = list(ENDS), list(Spoil)
    made: list[Round] = []
    while len(made) < count:
        chance.shuffle(ends)
        chance.shuffle(spoils)
        made += [
            Round(spoil, end, chance.uniform(0.2, 1.0), chance.randint(1, 5))
            for end, spoil in zip(ends, itertools.cycle(spoils), strict=False)
        ]
    return made[:count]


class Run:
    """The servers and who writes to them."""

    def __init__(self, folder: Path, seed: int, *, server: Callable[..., ServerProcess] = ServerProcess) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.report = Report(seed, folder / "journal.jsonl")
        self._data_dir = folder / "data"
        self._journal = Journal(self.report.journal)
        self._chance = random.Random(f"{seed}/timing")
        self._shelter = Shelter(self._data_dir, random.Random(f"{seed}/spoil"))
        self._failpoint = folder / "failpoint"
        self._failpoint.touch()
        self._server = server(self._data_dir, env={"PENSTOCK_FAILPOINT_FILE": str(self._failpoint)})
        self._products = [ProductWriter(f"shelf{n}", n, seed, self._journal) for n in range(3)]
        self._users = [FeedbackWriter(f"users-{n}", seed, self._journal) for n in range(2)]
        self._tender = Tender(seed, self._journal)

    async def play(self, rounds: Sequence[Round], *, compare: bool = True) -> Report:
        """Plays the rounds, checking after each start, and once more in the end.

        With `compare`, what the index from disk finds then is compared with what one finds that is made anew.
        """
        report = self.report
        try:
            for each in rounds:
                self._journal.note("run", "round", spoil=each.spoil.value, end=each.end, nth=each.nth)
                await self._live(each)
                report.ends[each.end] += 1
                report.spoilt[each.spoil.value] += 1
            await self._finish(compare)
        except PromiseBroken as error:
            report.wrong.append(str(error))
        finally:
            self._server.kill()
            self._journal.note("run", "done", wrong=report.wrong)
            self._journal.close()
        report.changes = sum(len(each.what) for writer in self._products for each in writer.told.stored)
        report.interactions = sum(len(each.what) for writer in self._users for each in writer.told.stored)
        return report

    async def _live(self, each: Round) -> None:
        must_notice = self._shelter.spoil(each.spoil)
        if each.end == "kill while starting":
            await self._kill_while_starting()
            return
        async with self._started() as channel:
            await self._check(channel, must_notice=must_notice)
            work = [writer.run(channel) for writer in self._products]
            work += [writer.run(channel) for writer in self._users]
            tasks = [asyncio.create_task(each) for each in (*work, self._tender.run(channel))]
            try:
                await asyncio.sleep(each.load_s)
                await self._end(each, channel)
                await asyncio.wait_for(asyncio.gather(*tasks), WRITERS_GONE_S_MAX)
            except AssertionError:  # a failpoint is not passed where writers gave up: what they say comes first
                for task in tasks:
                    if task.done() and (error := task.exception()) is not None:
                        raise error from None
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._shelter.keep()

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[grpc.aio.Channel]:
        self._failpoint.write_text("")
        await asyncio.to_thread(self._server.start)
        self._journal.note("run", "server is ready", pid=self._server.pid)
        async with grpc.aio.insecure_channel(self._server.target) as channel:
            yield channel

    async def _kill_while_starting(self) -> None:
        start = asyncio.create_task(asyncio.to_thread(self._server.start))
        await asyncio.sleep(self._chance.uniform(0.5, 4))
        await asyncio.to_thread(self._server.kill)
        with contextlib.suppress(AssertionError):  # it did not become ready
            await start
        await asyncio.to_thread(self._server.kill)  # it may have been started only now

    async def _end(self, each: Round, channel: grpc.aio.Channel) -> None:
        if each.end in FAILPOINTS:
            await self._die_at(each)
        elif each.end == "drain":
            await self._drain()
        else:
            if each.end == "kill in training":
                await self._tender.begin_training(channel)
                await asyncio.sleep(self._chance.uniform(0, 2))
            elif each.end == "kill in rebuild":
                await self._tender.begin_rebuild(channel)
                await asyncio.sleep(self._chance.uniform(0, 0.1))
            await asyncio.to_thread(self._server.kill)
        self._journal.note("run", "server is gone")

    async def _drain(self) -> None:
        code = await asyncio.to_thread(self._server.terminate)
        if code != 0:
            raise self._journal.broken("server", f"exit code {code} after SIGTERM:\n{self._server.log[-2_000:]}")

    async def _die_at(self, each: Round) -> None:
        self._failpoint.write_text(f"{each.end}@{each.nth}")
        try:
            code = await asyncio.to_thread(self._server.wait, REACHED_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the server never came by {each.end}:\n{self._server.log[-2_000:]}") from error
        if code != -9:
            raise self._journal.broken("server", f"it ended with {code}:\n{self._server.log[-2_000:]}")

    async def _check(self, channel: grpc.aio.Channel, *, must_notice: bool = False) -> None:
        """Raises PromiseBroken with all that is wrong."""
        try:
            wrong = await self._wrong(Checker(channel, self._chance), must_notice)
        except grpc.aio.AioRpcError as error:
            raise self._journal.broken("server", f"{error.code().name} {error.details()}") from error
        if wrong:
            raise self._journal.broken("server", "\n".join(wrong))

    async def _wrong(self, checker: Checker, must_notice: bool) -> list[str]:
        wrong = await checker.catalogue(self._products)
        wrong += await checker.users(self._users)
        if wrong:  # what is not stored cannot be found, nor what is stored twice as it should be
            return wrong
        await until(checker.opened)
        if must_notice and not await checker.snapshot_problem():
            wrong.append("the saved index was damaged, and nobody noticed")
        wrong += await checker.index(self._products)
        return wrong + await checker.model(self._tender.model_version)

    async def _finish(self, compare: bool) -> None:
        wrong: list[str] = []
        from_disk = await self._vectors()
        if compare:
            self._shelter.spoil(Spoil.MISSING)
            wrong += differ(from_disk, await self._vectors())
        wrong += await on_disk(self._data_dir, self._products, self._users)
        if wrong:
            raise self._journal.broken("server", "\n".join(wrong))

    async def _vectors(self) -> list[Scores]:
        async with self._started() as channel:
            await self._check(channel)
            scores, wrong = await Checker(channel, self._chance).vectors(self._products)
            if wrong:
                raise self._journal.broken("server", "\n".join(wrong))
            await self._drain()
        return scores
