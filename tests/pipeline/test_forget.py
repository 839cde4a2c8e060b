"""After a user is forgotten everything is as if they had never been; and it can be told from nothing who it was."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from penstock.errors import Conflict, InvalidInput, PenstockError
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.history import HistoryReader
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import forgetting, random_events
from tests.pipeline.bronze import START, Sent, at
from tests.pipeline.conftest import Commit

NAMES = {"u1": "user-one", "u2": "user-two", "a": "visitor-a", "b": "visitor-b", "c": "visitor-c", "": ""}
DAYS = 4


def seeds(first: int, end: int) -> list[object]:
    """One history always, the others where there is time."""
    return [pytest.param(seed, marks=[] if seed == first else pytest.mark.slow) for seed in range(first, end)]


def some_events(chance: random.Random, count: int) -> list[Sent]:
    """Random events of people with names that nothing else has."""
    events = [random_events.event(chance) for _ in range(count)]
    return [
        replace(
            event,
            tenant="default",
            user_id=NAMES[event.user_id],
            visitor_id=NAMES[event.visitor_id],
            event_time=event.event_time - timedelta(days=chance.randrange(DAYS), minutes=chance.choice((0, 0, 710))),
        )
        for event in events
    ]


class Life:
    """The same history of three tenants: `default`, its twin `other`, and `shadow`, where the user never came."""

    def __init__(self, engine: Engine, log: CommitLog, runner: PipelineRunner, settings: Settings, seed: int) -> None:
        self.engine, self.log, self.runner = engine, log, runner
        self.chance = random.Random(seed)
        self.user = self.chance.choice(("user-one", "visitor-a"))
        self.daily = DailyCalculator(engine, log, settings)
        self.now = START
        self.cleaner = Cleaner(engine, log, runner, settings, lambda: self.now)
        self.forgetter = forgetting.forgetter(engine, log, runner, settings, self.cleaner)
        self.sent: list[Sent] = []
        self.forgot = 0  # the commit before the last forgetting

    async def go_on(self, *, count: int = 25, again: bool = False) -> None:
        """Events, perhaps a run, perhaps daily metrics. With `again` some have the ids of earlier ones."""
        events = some_events(self.chance, count)
        if self.sent:
            events += self.chance.choices(self.sent, k=2)
        if again and self.sent:
            taken = self.chance.choices(self.sent, k=5)
            events += [replace(some_events(self.chance, 1)[0], event_id=each.event_id) for each in taken]
        self.sent += events
        await forgetting.commit_for(self.engine, self.log, events, self.user)
        if self.chance.random() < 0.7:
            kind = self.chance.choice(("", "", "page_view", "purchase"))
            await self.runner.run(rows_max=self.chance.choice((30, 1_000)), event_type=kind)
        if self.chance.random() < 0.5:
            day = START.date() - timedelta(days=self.chance.randrange(DAYS))
            for tenant in ("default", "shadow", "other"):
                with suppress(Conflict):  # a cleanup took some of that day
                    await self.daily.calculate(tenant, day)

    def actors(self) -> set[str]:
        """In whose sessions the user's events were."""
        mine = [event for event in self.sent if forgetting.names_one(event, self.user)]
        return {f"s:{event.session_id}" if event.session_id else f"v:{event.visitor}" for event in mine}

    async def forget(self) -> None:
        """Forgets the user, in `default` alone."""
        self.forgot = self.log.head
        twin = await forgetting.stored(self.engine, self.log, "other")
        done = await self.forgetter.forget("default", self.user)
        assert set(done.remaining.values()) == {0}
        assert await forgetting.stored(self.engine, self.log, "other") == twin

    async def pair(self, *, runs: bool = True) -> list[dict[str, forgetting.Rows]]:
        """What is stored of `default` and of `shadow`."""
        return [await forgetting.stored(self.engine, self.log, each, runs=runs) for each in ("default", "shadow")]

    async def check_daily(self) -> None:
        """Days that were not computed anew say what they say of the shadow; those that were, what they would now."""
        found = await forgetting.daily(self.engine, self.log, "default")
        for day in {day for (day, _), (commit, _) in found.items() if commit > self.forgot}:
            await self.daily.calculate("shadow", START.date().fromisoformat(day))
        expected = await forgetting.daily(self.engine, self.log, "shadow")
        assert {key: said for key, (_, said) in found.items()} == {key: said for key, (_, said) in expected.items()}


@pytest.fixture
def life(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, request: pytest.FixtureRequest
) -> Life:
    return Life(engine, commit_log, runner, settings, request.param)


@pytest.mark.parametrize("life", seeds(0, 4), indirect=True)
async def test_everything_is_as_if_the_user_had_never_been(life: Life) -> None:
    for _ in range(2):
        for _ in range(life.chance.randrange(1, 4)):
            await life.go_on()
        await life.forget()
        mine, shadow = await life.pair()
        assert mine == shadow
        await life.check_daily()
    await life.runner.run()
    # The user came again meanwhile, and is there as a new one; until they are forgotten once more.
    await life.forget()
    mine, shadow = await life.pair()
    assert mine == shadow
    await life.check_daily()


@pytest.mark.parametrize("life", seeds(10, 13), indirect=True)
async def test_events_that_the_users_had_kept_out_as_duplicates_come_in(life: Life) -> None:
    for _ in range(3):
        for _ in range(2):
            await life.go_on(again=True)
        await life.forget()
    await life.runner.run()
    await life.forget()
    await life.runner.run()
    mine, shadow = await life.pair(runs=False)
    assert mine == shadow


@pytest.mark.parametrize("life", seeds(20, 23), indirect=True)
async def test_after_cleanups_too(life: Life) -> None:
    for step in range(4):
        await life.go_on()
        await life.go_on()
        if step % 2:
            await life.runner.run()
            keep = Retention(1, 100, keep_aggregates=False)
            life.now = START - timedelta(days=1 - step // 2)
            for tenant in ("default", "shadow", "other"):
                await life.cleaner.run(tenant, keep, dry_run=False, purge=step == 3)
        await life.forget()
    mine, shadow = await life.pair()
    # Sessions that were shared begin with what the cleanups left of them.
    shared = [repr(("actor", actor)) for actor in life.actors()]
    for tables in (mine, shadow):
        tables["sessions"] = [row for row in tables["sessions"] if not any(actor in row for actor in shared)]
    assert mine == shadow


async def test_older_versions_show_the_figures_without_the_user(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings
) -> None:
    chance = random.Random(5)
    runs = []
    for _ in range(5):
        await forgetting.commit_for(engine, commit_log, some_events(chance, 30), "user-one")
        await runner.run()
        runs.append(commit_log.head)
    await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", "user-one")
    for commit in runs:
        version = await commit_log.as_of(commit=commit)
        for table in ("silver_events", "gold_events", "gold_visits"):
            columns = "* EXCEPT (tenant, orders)" if table == "gold_visits" else "* EXCEPT (tenant)"
            mine, shadow = [
                await engine.rows(f"SELECT {columns} FROM {version.relation(table, repr(tenant))} ORDER BY ALL")
                for tenant in ("default", "shadow")
            ]
            assert mine == shadow


async def test_a_shared_session_is_made_of_what_the_others_did(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    def of(user: str, minute: int, source: str = "") -> Sent:
        path = f"/{user}/{minute}"
        return Sent(user_id=user, session_id="x", event_time=at(60 * minute), path=path, utm_source=source)

    await commit(of("gone", 0, "mail"), of("stays", 5))
    await runner.run()
    await commit(of("stays", 90), of("gone", 95))
    await runner.run()
    await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", "gone")
    (session,) = await forgetting.sessions(engine, commit_log, "default")
    assert (session["visitor"], session["events"], session["utm_source"]) == ("stays", 2, "")
    assert (session["landing_page"], session["exit_page"]) == ("/stays/5", "/stays/90")
    await commit(of("later", 100))
    await runner.run()
    (session,) = await forgetting.sessions(engine, commit_log, "default")
    assert (session["events"], session["exit_page"]) == (3, "/later/100")


async def test_no_table_has_the_name_afterwards(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    name, quoted = "zoë's\\id", "zoë\\'s\\\\id"
    mine = [
        Sent("purchase", user_id=name, visitor_id="phone", order_id="o"),
        Sent(user_id=name, visitor_id="desk", session_id="x"),
        Sent(visitor_id=name),
        Sent(user_id="guest", visitor_id=name),
    ]
    await commit(*mine, Sent(user_id="guest"), *(replace(event, tenant="other") for event in mine))
    await runner.run()
    daily = DailyCalculator(engine, commit_log, settings)
    await daily.calculate("default", START.date())
    await commit(Sent(user_id=name, visitor_id="phone"))  # not processed yet
    await forgetting.cost(engine, "default", f"SELECT count() FROM events WHERE `it's` = '{quoted}' AND type = 'a'")
    await forgetting.cost(engine, "default", "SELECT count() FROM events WHERE user_id = 'somebody'")
    await forgetting.cost(engine, "default", f"SELECT count() FROM events WHERE user_id = '{quoted[:5]}")
    await forgetting.cost(engine, "other", f"SELECT '{quoted}'")
    done = await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", name)
    assert {table: rows for table, rows in done.removed.items() if rows} == {
        "bronze_events": 5,
        "silver_events": 4,
        "silver_ids": 4,
        "sessions": 2,
        "gold_visits": 1,
        "query_costs": 2,
    }
    assert set(done.remaining) >= {"bronze_events", "silver_events", "sessions", "gold_visits", "feedback"}
    assert set(done.remaining.values()) == {0}
    assert done.linked_visitor_ids == ["desk", "phone"]
    everywhere = await forgetting.mentions(engine, "zoë")
    assert everywhere
    for place in everywhere:
        table, column = place.split(".")
        rows = await engine.rows(f"SELECT DISTINCT tenant FROM {table} WHERE position(toString({column}), 'zoë') > 0")
        assert [row["tenant"] for row in rows] == ["other"]
    texts = await engine.rows("SELECT sql FROM query_costs WHERE tenant = 'default'")
    assert [row["sql"] for row in texts] == ["SELECT count() FROM events WHERE user_id = 'somebody'"]


async def test_who_is_not_there_and_who_is_forgotten_twice(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings)
    nobody = await forgetter.forget("default", "nobody")
    assert commit_log.gold.run == 0
    assert (set(nobody.removed.values()), set(nobody.remaining.values())) == ({0}, {0})
    await commit(Sent(user_id="u"), Sent(user_id="v"))
    await runner.run()
    before = await forgetting.stored(engine, commit_log, "default")
    await forgetter.forget("default", "nobody")
    assert await forgetting.stored(engine, commit_log, "default") == before
    assert (await forgetter.forget("default", "u")).removed["silver_events"] == 1
    again = await forgetter.forget("default", "u")
    assert (set(again.removed.values()), set(again.remaining.values())) == ({0}, {0})
    assert list(again.linked_visitor_ids) == []
    with pytest.raises(InvalidInput):
        await forgetter.forget("default", "")


async def test_gold_is_another_version_afterwards_and_events_go_on(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    await commit(Sent(user_id="u"), Sent(user_id="v"))
    await runner.run()
    before = commit_log.gold
    await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", "u")
    assert commit_log.gold.run > before.run
    assert commit_log.gold.last_commit == before.last_commit
    again = Sent(user_id="u")
    await commit(again)
    await runner.run()
    assert len(await forgetting.sessions(engine, commit_log, "default")) == 2
    page = await HistoryReader(engine, commit_log).page("default", "silver")
    assert [(change.operation, change.rows) for change in page.changes] == [("etl", 1), ("forgotten", 1), ("etl", 2)]


async def test_an_event_of_the_user_that_comes_again_is_a_new_one(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    event = Sent("purchase", user_id="u")
    await commit(event)
    await runner.run()
    await forgetting.forgetter(engine, commit_log, runner, settings).forget("default", "u")
    await commit(event)
    await runner.run()
    rows = await engine.rows("SELECT user_id FROM silver_events")
    assert [row["user_id"] for row in rows] == ["u"]


async def test_aggregates_that_outlive_their_events_keep_their_sums_but_not_the_visitor(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    await commit(Sent(user_id="u"), Sent(user_id="v"))
    await runner.run()
    cleaner = Cleaner(engine, commit_log, runner, settings, lambda: START + timedelta(days=9))
    await cleaner.run("default", Retention(1, 100, keep_aggregates=True), dry_run=False, purge=True)
    done = await forgetting.forgetter(engine, commit_log, runner, settings, cleaner).forget("default", "u")
    assert {table: rows for table, rows in done.removed.items() if rows} == {"gold_visits": 1}
    assert [row["events"] for row in await engine.rows("SELECT events FROM gold_kpis")] == [2]
    visitors = await engine.rows("SELECT visitor = sipHash64('v') AS stays FROM gold_visits")
    assert [row["stays"] for row in visitors] == [1]


async def test_one_at_a_time_and_not_beside_a_cleanup(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    await commit(Sent(user_id="u"))
    cleaner = Cleaner(engine, commit_log, runner, settings)
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings, cleaner)

    async def meanwhile() -> list[PenstockError]:
        refused: list[PenstockError] = []
        for work in (
            forgetter.forget("default", "v"),
            cleaner.run("default", Retention(1, 1, keep_aggregates=False), dry_run=False),
        ):
            with pytest.raises(Conflict) as caught:
                await work
            refused.append(caught.value)
        return refused

    async with runner.quiet():
        first = asyncio.create_task(forgetter.forget("default", "u"))
        await asyncio.sleep(0)
        refused = await meanwhile()
    assert [error.reason for error in refused] == ["RUN_IN_PROGRESS"] * 2
    assert (await first).removed["bronze_events"] == 1


async def test_what_was_taken_for_a_duplicate_of_the_users_event_comes_in_and_is_not_published_twice(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, settings: Settings, commit: Commit
) -> None:
    first = Sent("purchase", user_id="gone", order_id="o")
    again = replace(first, user_id="stays", order_id="p")
    await commit(first, Sent(user_id="guest"))
    await commit(again)
    await runner.run()
    forgetter = forgetting.forgetter(engine, commit_log, runner, settings)
    for _ in range(2):
        await forgetter.forget("default", "gone")
        await runner.run(event_type="none")  # makes the sessions
    kept = [row["user_id"] for row in await engine.rows("SELECT user_id FROM silver_events ORDER BY user_id")]
    assert kept == ["guest", "stays"]
    orders = await engine.rows("SELECT sum(purchases) AS n, uniqExactMerge(orders) AS orders FROM gold_kpis")
    assert [(row["n"], row["orders"]) for row in orders] == [(1, 1)]
    found = await forgetting.sessions(engine, commit_log, "default")
    assert sorted(session["visitor"] for session in found) == ["guest", "stays"]
