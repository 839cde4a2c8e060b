"""A forgetting that breaks off, wherever it does, is ended later and ends the same."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from penstock import failpoints
from penstock.errors import Unavailable
from penstock.pipeline import sessions
from penstock.pipeline.cleanup import Cleaner
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.forget import Forgetter, Forgotten
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Engine
from tests.pipeline import bronze, forgetting
from tests.pipeline.bronze import START, Sent, at
from tests.waiting import until

USER = "gone"
WRITES_MAX = 60  # more than one forgetting does
STRIDE = 6  # a test breaks every sixth write


def events() -> list[Sent]:
    """Events that bring every step something to do; the last one takes the id of the user's first."""
    first = Sent("purchase", user_id=USER, visitor_id="phone", order_id="o", event_time=at(0))
    return [
        first,
        Sent(user_id="stays", session_id="x", event_time=at(60), path="/a"),
        Sent(user_id=USER, session_id="x", event_time=at(61), path="/b"),
        Sent(visitor_id="v", event_time=at(120)),
        Sent(user_id="v", visitor_id=USER, event_time=at(1_500)),
        Sent(visitor_id="v", event_time=at(3_000)),
        Sent("purchase", user_id="stays", order_id="p", event_time=at(-90_000), event_id=first.event_id),
    ]


async def begin(engine: Engine, log: CommitLog, runner: PipelineRunner, settings: Settings, tenants: list[str]) -> None:
    """The same history of all tenants, and of `shadow` without the user."""
    daily = DailyCalculator(engine, log, settings)
    sent = events()
    for part in (sent[:4], sent[4:]):
        copies = [replace(event, tenant=tenant) for tenant in tenants for event in part]
        await bronze.commit(engine, log, [*copies, *forgetting.without(part, USER, "shadow")])
        await runner.run()
    for tenant in (*tenants, "shadow"):
        await daily.calculate(tenant, START.date())
        await forgetting.reject(engine, log, tenant, [(b'{"userId": "gone", "price": "x"}', "json")])
        await forgetting.cost(engine, tenant, f"SELECT '{USER}'")
    waiting = [replace(Sent(user_id=USER, event_time=at(200)), tenant=tenant) for tenant in tenants]
    await bronze.commit(engine, log, waiting)


async def check(engine: Engine, log: CommitLog, runner: PipelineRunner, tenant: str) -> None:
    """The tenant is as the shadow is, and nothing names the user."""
    await runner.run(event_type="none")  # makes sessions, and leaves what waits
    mine, shadow = [await forgetting.stored(engine, log, each, runs=False) for each in (tenant, "shadow")]
    assert mine == shadow
    found, expected = [await forgetting.daily(engine, log, each) for each in (tenant, "shadow")]
    days = await engine.rows(f"SELECT count() AS n FROM daily_metrics WHERE tenant = '{tenant}'")
    assert days[0]["n"] == 1
    assert {key: said for key, (_, said) in found.items()} == {key: said for key, (_, said) in expected.items()}
    assert await forgetting.rejected_ids(engine, tenant) == set()
    costs = await engine.rows(f"SELECT count() AS n FROM query_costs WHERE tenant = '{tenant}'")
    assert costs[0]["n"] == 0


class Breaking:
    """An engine whose n-th write fails: before it is done, or when it is done and the answer is lost."""

    def __init__(self, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.done = False
        monkeypatch.setattr(engine, "execute", self._breaking(engine.execute))
        monkeypatch.setattr(engine, "insert_arrow", self._breaking(engine.insert_arrow))

    def _breaking(self, write: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def write_or_break(*arguments: object, **keywords: object) -> None:
            self.left -= 1
            if self.left == 0 and not self.done:
                raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")
            await write(*arguments, **keywords)
            if self.left == 0:
                raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")

        return write_or_break


@pytest.mark.parametrize(
    ("first", "done"),
    [
        pytest.param(first, done, marks=[] if (first, done) in ((2, True), (5, False)) else pytest.mark.slow)
        for first in range(1, STRIDE + 1)
        for done in (False, True)
    ],
)
async def test_it_is_ended_whichever_write_fails(
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    done: bool,
) -> None:
    broken = range(first, WRITES_MAX, STRIDE)
    tenants = [f"t{nth}" for nth in broken]
    await begin(engine, commit_log, runner, settings, tenants)
    breaking = Breaking(engine, monkeypatch)
    breaking.done = done
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings)
    for nth, tenant in zip(broken, tenants, strict=True):
        breaking.left = nth
        broke = False
        try:
            await forgetter.forget(tenant, USER)
        except Unavailable:
            broke = True
        ended = breaking.left > 0
        breaking.left = -1
        if ended:
            break
        assert broke
        log, ended_by = commit_log, forgetter
        if nth // STRIDE % 2:  # as after a restart
            log = CommitLog(engine)
            await log.open()
            restarted = PipelineRunner(engine, log, settings)
            await restarted.open()
            ended_by = forgetting.forgetter(engine, log, restarted, settings)
        await ended_by.resume()
        await commit_log.open()
        begun = await engine.rows(
            "SELECT count() AS n FROM commits"
            f" WHERE operation = 'forget' AND JSONExtractString(detail, 'tenant') = '{tenant}'"
        )
        if not begun[0]["n"]:
            await ended_by.forget(tenant, USER)
            await commit_log.open()
        await check(engine, commit_log, runner, tenant)
    else:
        pytest.fail("a forgetting has more writes than were tried")
    assert nth > 20
    await check(engine, commit_log, runner, tenant)
    await runner.run()
    await check(engine, commit_log, runner, tenants[0])


@pytest.mark.parametrize("place", ["forget.after_log", "forget.after_gold", "forget.before_done"])
async def test_the_pipeline_may_run_before_it_is_ended(
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    await begin(engine, commit_log, runner, settings, ["t"])
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings)
    monkeypatch.setattr(failpoints, "_SPEC", f"{place}!")
    with pytest.raises(Unavailable):
        await forgetter.forget("t", USER)
    monkeypatch.undo()
    # Others go on meanwhile, and the user comes again: as a new one.
    late = [
        Sent(user_id="stays", session_id="x", event_time=at(70), path="/c"),
        Sent(user_id=USER, session_id="x", event_time=at(80), path="/d"),
        Sent(user_id=USER, event_time=at(250)),
    ]
    await bronze.commit(engine, commit_log, [replace(e, tenant=tenant) for e in late for tenant in ("t", "shadow")])
    await runner.run()
    await forgetter.resume()
    await runner.run()
    mine, shadow = [await forgetting.stored(engine, commit_log, each, runs=False) for each in ("t", "shadow")]
    assert mine == shadow
    rows = await engine.rows("SELECT operation FROM commits WHERE operation LIKE 'forg%' ORDER BY commit")
    assert [row["operation"] for row in rows] == ["forget", "forgotten"]
    head = commit_log.head
    await forgetter.resume()
    assert commit_log.head == head


async def test_sessions_that_are_made_meanwhile_are_not_published(
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings)
    build = sessions.build
    tasks: list[asyncio.Task[Forgotten]] = []

    async def forget_between(*arguments: object, **keywords: object) -> None:
        await build(*arguments, **keywords)  # type: ignore[arg-type]
        if not tasks:
            tasks.append(asyncio.create_task(forgetter.forget("default", USER)))
            await asyncio.sleep(0.1)  # it waits for this run's rows to be written

    monkeypatch.setattr(sessions, "build", forget_between)
    await bronze.commit(engine, commit_log, [replace(event, tenant="default") for event in events()[:3]])
    await runner.run()
    await asyncio.gather(*tasks)
    await runner.run()
    assert await forgetting.mentions(engine, USER) == {}
    (session,) = await forgetting.sessions(engine, commit_log, "default")
    assert (session["visitor"], session["events"]) == ("stays", 1)


async def test_the_loop_ends_what_broke_off(
    engine: ClickHouseEngine,
    commit_log: CommitLog,
    runner: PipelineRunner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await begin(engine, commit_log, runner, settings, ["t"])
    cleaner = Cleaner(engine, commit_log, runner, settings)
    daily = DailyCalculator(engine, commit_log, settings)
    forgetter = Forgetter(engine, commit_log, runner, cleaner, daily, settings)
    monkeypatch.setattr(failpoints, "_SPEC", "forget.after_gold!")
    with pytest.raises(Unavailable):
        await forgetter.forget("t", USER)
    monkeypatch.undo()
    forgetter.start()
    head = commit_log.head
    await until(lambda: commit_log.head > head and not cleaner_busy(cleaner))
    await forgetter.stop()
    await check(engine, commit_log, runner, "t")


def cleaner_busy(cleaner: Cleaner) -> bool:
    """Whether something removes rows now."""
    return cleaner._task is not None and not cleaner._task.done()
