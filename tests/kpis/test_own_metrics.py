"""Metrics of tenants' own: kept, checked, seen at once, and by other servers soon."""

import time

import pytest

from penstock import limits
from penstock.errors import AlreadyStored, Conflict, InvalidInput, NotFound, Overloaded
from penstock.kpis.catalog import Declaration, Direction, Thresholds, Unit, load_catalog
from penstock.kpis.expression import MetricType
from penstock.kpis.own_metrics import Catalogs, declaration_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine


def declared(name: str, expression: str, kind: MetricType = MetricType.COUNT) -> Declaration:
    return Declaration(
        name=name, label=name.title(), description="Mine.", unit=Unit.COUNT, type=kind, expression=expression,
        good_direction=Direction.UP, thresholds=Thresholds(warning=3.0),
    )  # fmt: skip


SIGNUPS = declared("signups", "count(event_type = 'signup')")


def opened(engine: ClickHouseEngine, log: CommitLog) -> Catalogs:
    """As after a restart."""
    return Catalogs(engine, log, load_catalog())


async def test_a_metric_is_there_at_once_and_after_a_restart(
    catalogs: Catalogs, engine: ClickHouseEngine, commit_log: CommitLog
) -> None:
    made = await catalogs.create("default", SIGNUPS)
    assert made.own
    assert made.update_time is not None
    for each in (catalogs, opened(engine, commit_log)):
        catalog = await each.of("default")
        assert declaration_of(catalog.metrics["signups"]) == SIGNUPS
        assert catalog.metrics["signups"].update_time == made.update_time
        assert "signups" not in (await each.of("other")).metrics
        assert list(catalog.metrics) == sorted(catalog.metrics)


async def test_creating_it_again_is_no_error_unless_it_differs(catalogs: Catalogs) -> None:
    first = await catalogs.create("default", SIGNUPS)
    assert await catalogs.create("default", SIGNUPS) == first
    with pytest.raises(AlreadyStored) as raised:
        await catalogs.create("default", SIGNUPS.model_copy(update={"label": "Other"}))
    assert raised.value.reason == "KPI_EXISTS"


async def test_the_newest_change_counts_and_what_is_deleted_is_gone(
    catalogs: Catalogs, engine: ClickHouseEngine, commit_log: CommitLog
) -> None:
    await catalogs.create("default", SIGNUPS)
    changed = await catalogs.update("default", "signups", lambda d: d.model_copy(update={"label": "New"}))
    assert (changed.label, changed.expression) == ("New", SIGNUPS.expression)
    assert (await opened(engine, commit_log).of("default")).metrics["signups"].label == "New"
    await catalogs.delete("default", "signups")
    for each in (catalogs, opened(engine, commit_log)):
        assert "signups" not in (await each.of("default")).metrics
    again = await catalogs.create("default", SIGNUPS)
    assert (await opened(engine, commit_log).of("default")).metrics["signups"].update_time == again.update_time


async def test_what_others_are_made_of_stays(catalogs: Catalogs) -> None:
    await catalogs.create("default", SIGNUPS)
    await catalogs.create("default", declared("share", "signups / events", MetricType.RATIO))
    with pytest.raises(Conflict) as raised:
        await catalogs.delete("default", "signups")
    assert raised.value.reason == "KPI_IN_USE"
    await catalogs.delete("default", "share")
    await catalogs.delete("default", "signups")


@pytest.mark.parametrize(
    ("metric", "field", "said"),
    [
        (declared("orders", "count()"), "kpi.name", "comes with Penstock"),
        (declared("site", "count()"), "kpi.name", "that is a dimension"),
        (declared("m", "count("), "kpi.expression", "cannot be read"),
        (declared("m", "gmv + nothing", MetricType.DERIVED), "kpi.expression", "unknown metric 'nothing'"),
        (declared("m", "m + 1", MetricType.DERIVED), "kpi.expression", "made of itself: m → m"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    catalogs: Catalogs, metric: Declaration, field: str, said: str
) -> None:
    before = await catalogs.of("default")
    with pytest.raises(InvalidInput) as raised:
        await catalogs.create("default", metric)
    assert [violation.field for violation in raised.value.violations] == [field]
    assert said in raised.value.message
    assert await catalogs.of("default") == before


async def test_circles_are_refused_however_they_close(catalogs: Catalogs) -> None:
    await catalogs.create("default", declared("a", "gmv + 1", MetricType.DERIVED))
    await catalogs.create("default", declared("b", "a * 2", MetricType.DERIVED))
    await catalogs.create("default", declared("c", "cumulative(b)", MetricType.CUMULATIVE))
    with pytest.raises(InvalidInput, match="made of itself"):
        await catalogs.update("default", "a", lambda d: d.model_copy(update={"expression": "c - 1"}))
    assert (await catalogs.of("default")).metrics["a"].expression == "gmv + 1"


async def test_metrics_stand_on_each_other_only_so_high(catalogs: Catalogs) -> None:
    await catalogs.create("default", declared("m1", "gmv + 1", MetricType.DERIVED))
    for n in range(2, limits.KPI_DEPTH_MAX):
        await catalogs.create("default", declared(f"m{n}", f"m{n - 1} + m{n - 1}", MetricType.DERIVED))
    with pytest.raises(InvalidInput, match="stand on top of each other"):
        await catalogs.create("default", declared("top", f"m{limits.KPI_DEPTH_MAX - 1} + 1", MetricType.DERIVED))
    # Raising what others stand on raises them too.
    await catalogs.create("default", declared("low", "revenue_net + 1", MetricType.DERIVED))
    with pytest.raises(InvalidInput, match="stand on top of each other"):
        await catalogs.update("default", "m1", lambda d: d.model_copy(update={"expression": "low + 1"}))


async def test_those_that_come_with_penstock_stay(catalogs: Catalogs) -> None:
    for change in (catalogs.delete("default", "gmv"), catalogs.update("default", "gmv", lambda d: d)):
        with pytest.raises(Conflict) as raised:
            await change
        assert raised.value.reason == "KPI_BUILT_IN"
    with pytest.raises(NotFound) as missing:
        await catalogs.delete("default", "nothing")
    assert missing.value.reason == "KPI_NOT_FOUND"


async def test_no_more_than_the_bound(catalogs: Catalogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWN_KPIS_MAX", 2)
    for n in range(2):
        await catalogs.create("default", declared(f"m{n}", "count()"))
    with pytest.raises(Overloaded) as raised:
        await catalogs.create("default", declared("m2", "count()"))
    assert raised.value.reason == "TOO_MANY_KPIS"
    await catalogs.update("default", "m1", lambda d: d.model_copy(update={"label": "Still"}))


async def test_a_server_that_does_not_write_sees_changes_soon(
    catalogs: Catalogs, engine: ClickHouseEngine, commit_log: CommitLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    follower = Catalogs(engine, commit_log, load_catalog(), clock=lambda: now)
    monkeypatch.setattr(follower, "_log", _Follower())
    assert "signups" not in (await follower.of("default")).metrics
    await catalogs.create("default", SIGNUPS)
    assert "signups" not in (await follower.of("default")).metrics
    now += limits.OWN_KPIS_REFRESH_S + 0.1
    assert "signups" in (await follower.of("default")).metrics


class _Follower:
    leads = False
    epoch = 0


async def test_a_metric_that_can_no_longer_be_read_takes_no_other_with_it(
    catalogs: Catalogs, engine: ClickHouseEngine, commit_log: CommitLog
) -> None:
    await catalogs.create("default", SIGNUPS)
    for name, declaration in (
        ("broken", "{}"),
        (
            "foreign",
            SIGNUPS.model_copy(update={"name": "foreign", "expression": "count(colour = 'red')"}).model_dump_json(),
        ),
        ("lost", declared("lost", "gone + 1", MetricType.DERIVED).model_dump_json()),
    ):
        await engine.execute(
            "INSERT INTO own_metrics SELECT 'default', {name:String}, now64(6), {declaration:String}, 0",
            {"name": name, "declaration": declaration},
        )
    own = (await opened(engine, commit_log).of("default")).own
    assert list(own) == ["signups"]
