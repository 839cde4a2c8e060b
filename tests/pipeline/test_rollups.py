"""Sessions and gold equal a computation from the events as sent, however the events arrive and whatever fails."""

import random

import pytest

from penstock import failpoints, limits
from penstock.errors import Unavailable
from penstock.pipeline import gold, sessions, visits
from penstock.pipeline.runner import PipelineRunner
from penstock.storage.commit_log import BY_RUN, CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import model, random_events
from tests.pipeline.bronze import Sent, at
from tests.pipeline.conftest import Commit


async def check(engine: Engine, log: CommitLog, sent: list[Sent]) -> None:
    kept = model.first_of_ids(sent)
    assert await model.stored_gold(engine, log) == model.gold(kept)
    assert await model.stored_visits(engine, log) == model.visits(kept)
    assert await model.stored_sessions(engine, log) == model.sessions(kept)
    events = await model.stored_events(engine, log)
    assert sum(events.values()) == len(kept)
    assert {key[3] for key in events} == {model.kind(event) for event in kept}


@pytest.mark.parametrize("seed", range(2))
async def test_rollups_equal_the_events(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, seed: int
) -> None:
    chance = random.Random(seed)
    sent: list[Sent] = []
    for events in random_events.commits(seed):
        await commit(*events)
        sent += events
        if chance.random() < 0.3:
            kind = chance.choice(("", "page_view", "purchase"))
            await runner.run(rows_max=chance.choice((30, 1_000)), event_type=kind)
    await runner.run()
    await check(engine, commit_log, sent)


async def test_a_version_stays_as_it_was(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit
) -> None:
    sent: list[Sent] = []
    seen = []
    for events in random_events.commits(7, count=60):
        await commit(*events)
        sent += events
        await runner.run()
        seen.append((commit_log.gold.run, model.gold(model.first_of_ids(sent))))
    for run, figures in seen:
        assert await model.stored_gold(engine, commit_log, run) == figures


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (1, 2, 0)])
async def test_an_event_in_between_joins_two_sessions(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, order: tuple[int, ...]
) -> None:
    events = [Sent(visitor_id="a", event_time=at(minute * 60), path=f"/{minute}") for minute in (0, 30, 60)]
    for place in order:
        await commit(events[place])
        await runner.run()
    (session,) = await model.stored_sessions(engine, commit_log)
    assert (session.events, session.landing_page, session.exit_page) == (3, "/0", "/60")


async def test_silence_parts_visitors_but_not_given_sessions(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit
) -> None:
    for at_s in (0, 1800, 3600.000001, 90_000):
        await commit(Sent(visitor_id="a", event_time=at(at_s)), Sent(session_id="x", event_time=at(at_s)), Sent())
        await runner.run()
    found = await model.stored_sessions(engine, commit_log)
    assert sorted((session.actor, session.events) for session in found) == [
        ("s:x", 4),
        ("v:a", 1),
        ("v:a", 1),
        ("v:a", 2),
    ]


async def test_running_again_changes_nothing(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit
) -> None:
    sent = [event for events in random_events.commits(3, count=40) for event in events]
    await commit(*sent)
    await runner.run()
    before, head = await counts(engine), commit_log.head
    assert await runner.run() == []
    assert await counts(engine) == before
    assert commit_log.head == head
    await commit(*sent)
    await runner.run()
    assert await counts(engine) == before
    await check(engine, commit_log, sent)


@pytest.fixture(params=["sessions", "gold_kpis", "gold_events", "gold_visits", "log"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Makes runs fail at a step, behind what it wrote, until the patch is undone."""

    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")

    def fail_at_failpoint(name: str) -> None:
        if name == "pipeline.before_log":
            raise Unavailable("gone", reason="STORAGE_UNAVAILABLE")

    monkeypatch.setattr(limits, "PIPELINE_RETRIES_MAX", 1)
    match request.param:
        case "sessions":
            monkeypatch.setattr(sessions, "build", fail)
        case "gold_kpis":
            monkeypatch.setattr(gold, "build_kpis", fail)
        case "gold_events":
            monkeypatch.setattr(gold, "build_events", fail)
        case "gold_visits":
            monkeypatch.setattr(visits, "build", fail)
        case "log":
            monkeypatch.setattr(failpoints, "reached", fail_at_failpoint)
    return monkeypatch


async def test_a_run_that_fails_shows_nothing_and_the_next_makes_up(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, commit: Commit, broken: pytest.MonkeyPatch
) -> None:
    sent = [event for events in random_events.commits(5, count=40) for event in events]
    await commit(*sent)
    with pytest.raises(Unavailable):
        await runner.run()
    visible = commit_log.gold.run
    assert await model.stored_gold(engine, commit_log) == (model.gold(model.first_of_ids(sent)) if visible else {})
    assert await model.stored_sessions(engine, commit_log) == set()
    broken.undo()
    runs = await runner.run()
    await check(engine, commit_log, sent)
    published = {visible, *(run.run for run in runs)}
    for table in BY_RUN:
        rows = await engine.rows(f"SELECT DISTINCT run FROM {table}")
        assert {row["run"] for row in rows} <= published


async def counts(engine: Engine) -> dict[str, int]:
    return {table: (await engine.rows(f"SELECT count() AS n FROM {table}"))[0]["n"] for table in BY_RUN}
