"""Results by variant: who was exposed to what first decides, however events arrive and whenever one looks."""

import asyncio
import itertools
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import Phase, given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.kpis.catalog import load_catalog
from penstock.kpis.fields import Source, experiment_of
from penstock.kpis.formula import Comparison
from penstock.kpis.grain import MICROS, Windows, parsed
from penstock.kpis.grain import of as micros_of
from penstock.kpis.moment import Moments
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.query import Answer, Fill, KpiQueries, Query
from penstock.kpis.ranges import Compare, resolved
from penstock.kpis.service import KpiService
from penstock.kpis.sources import Filter, Selection, statements
from penstock.kpis.v1 import kpis_service_pb2 as pb
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, open_engine
from penstock.storage.schema import migrate
from penstock.storage.version import Version
from tests.kpis.test_query_model import Happened, expected
from tests.pipeline import bronze, model
from tests.pipeline.bronze import Sent

DAY = datetime(2026, 3, 2, tzinfo=UTC)
METRICS = (
    *("events", "page_views", "gmv", "orders", "purchase_users", "active_users", "conversion_rate", "cumulative_gmv"),
    *("sessions", "bounce_rate", "pages_per_session", "average_session_length"),
)
SPLITS = ("experiment.ranking", "experiment.colour-2", "experiment.never", "site", "source")


# --- the model ----------------------------------------


def first_exposures(events: Iterable[Sent], experiment: str) -> dict[str, tuple[datetime, str]]:
    """When and to what each visitor was exposed first, in one experiment."""
    firsts: dict[str, tuple[datetime, str]] = {}
    for event in events:
        named, variant = event.properties.get("experiment"), event.properties.get("variant")
        if event.event_type == "exposure" and named == experiment and variant and event.visitor:
            exposure = (event.event_time, variant)
            firsts[event.visitor] = min(firsts.get(event.visitor, exposure), exposure)
    return firsts


def value_of(thing: Happened, dimension: str, events: Sequence[Sent]) -> str:
    """The thing's value of a dimension, given all events that there are."""
    of = thing.event or thing.session
    assert of is not None
    if experiment_of(dimension):
        time, variant = first_exposures(events, experiment_of(dimension)).get(of.visitor, (thing.time, ""))
        return variant if thing.time >= time else ""
    if dimension == "site":
        return of.site_id
    return thing.event.utm_source if thing.event is not None else thing.session.source  # type: ignore[union-attr]


def passes(value: str, condition: Filter) -> bool:
    if condition.comparison is Comparison.IN:
        holds = value in condition.values
    else:
        holds = any(value.startswith(text) for text in condition.values)
    return holds != condition.negated


@dataclass(frozen=True, slots=True)
class Question:
    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]
    filters: tuple[Filter, ...]
    start: datetime
    hours: int
    window_hours: int  # 0: one window

    def query(self, tenant: str) -> Query:
        end = self.start + timedelta(hours=self.hours)
        covered = resolved(micros_of(self.start), micros_of(end), "", 0, ZoneInfo("UTC"))
        grain = parsed(f"{self.window_hours} hours" if self.window_hours else "")
        return Query(
            tenant, self.metrics, self.dimensions, self.filters, covered, grain, "UTC", Compare.PERIOD, Fill.NONE, ()
        )


Rows = dict[tuple[int, tuple[str, ...]], dict[str, float]]


def modelled(question: Question, start: datetime, events: Sequence[Sent]) -> tuple[Rows, dict[str, float]]:
    """The rows, by start of their window, and the total, of a range that begins at `start`, and of these events."""
    sources = frozenset().union(*(load_catalog().sources(name) for name in question.metrics))
    acted = [each for each in events if each.event_type != "exposure"]  # an exposure is no part of a session
    things = [Happened(each.event_time, event=each) for each in events if Source.EVENTS in sources]
    things += [Happened(each.start, session=each) for each in model.sessions(acted) if Source.SESSIONS in sources]
    chosen = [
        each
        for each in things
        if start <= each.time < start + timedelta(hours=question.hours)
        and all(passes(value_of(each, on.dimension, events), on) for on in question.filters)
    ]
    groups: dict[tuple[datetime, tuple[str, ...]], list[Happened]] = defaultdict(list)
    for thing in chosen:
        window = thing.time.replace(minute=0, second=0, microsecond=0)
        window -= timedelta(hours=window.hour % (question.window_hours or 1))
        key = tuple(value_of(thing, name, events) for name in question.dimensions)
        groups[max(window, start) if question.window_hours else start, key].append(thing)
    rows: Rows = {}
    for (window, key), group in groups.items():
        so_far = [each for (w, k), g in groups.items() if w <= window and k == key for each in g]
        values = {name: expected(name, group, so_far, "USD") for name in question.metrics}
        rows[micros_of(window), key] = {name: value for name, value in values.items() if value is not None}
    whole = {name: expected(name, chosen, chosen, "USD") for name in question.metrics}
    return rows, {name: value for name, value in whole.items() if value is not None}


# --- any history, any question ----------------------------------------

# Few visitors, times and names, so that exposures meet, contradict each other and come late: with more of each, hardly
# a history told `>` from `>=`.
sent = st.builds(
    Sent,
    event_type=st.sampled_from(("page_view", "purchase", "exposure", "exposure")),
    event_id=st.integers(1, 1_000).map(lambda number: uuid.UUID(int=number)),
    event_time=st.builds(
        lambda day, part, micros: DAY + timedelta(days=day, minutes=20 * part, microseconds=micros),
        st.integers(0, 1),
        st.integers(0, 8),
        st.sampled_from((0, 0, 0, 1)),
    ),
    tenant=st.sampled_from(("own", "own", "own", "own", "other")),
    user_id=st.sampled_from(("u1", "u1", "u2", "")),
    visitor_id=st.sampled_from(("", "a")),
    session_id=st.sampled_from(("", "", "", "x")),
    site_id=st.sampled_from(("shop", "blog")),
    utm_source=st.sampled_from(("", "mail")),
    price=st.sampled_from((None, Decimal(5), Decimal("2.5"))),
    properties=st.builds(
        lambda experiment, variant: {k: v for k, v in (("experiment", experiment), ("variant", variant)) if v != "-"},
        st.sampled_from(("ranking", "ranking", "ranking", "colour-2", "Ranking", "-")),
        st.sampled_from(("a", "a", "b", "b", "it's {x:String}", "", "-")),
    ),
)
histories = st.lists(st.lists(sent, min_size=8, max_size=25), min_size=1, max_size=3)
conditions = st.builds(
    lambda dimension, comparison, values, negated: Filter(
        dimension, comparison, tuple(each for each in values if each or comparison is Comparison.IN) or ("a",), negated
    ),
    st.sampled_from(SPLITS),
    st.sampled_from((Comparison.IN, Comparison.IN, Comparison.STARTS_WITH)),
    st.lists(st.sampled_from(("a", "b", "", "shop", "it's")), min_size=1, max_size=2, unique=True),
    st.booleans(),
)
questions = st.builds(
    Question,
    metrics=st.lists(st.sampled_from(METRICS), min_size=2, max_size=5, unique=True).map(tuple),
    dimensions=st.lists(st.sampled_from(SPLITS), max_size=2, unique=True)
    .map(lambda more: ("experiment.ranking", *more))
    .map(lambda several: tuple(dict.fromkeys(several)))
    | st.just(()),
    filters=st.lists(conditions, max_size=1).map(tuple),
    start=st.sampled_from((0, 0, 1, 2, 24, 25)).map(lambda hours: DAY + timedelta(hours=hours)),
    hours=st.sampled_from((1, 24, 48)),
    window_hours=st.sampled_from((0, 1, 6, 24)),
)
Asked = tuple[int, Question]  # so many commits before the last
askeds = st.lists(st.tuples(st.sampled_from((0, 0, 1, 2)), questions), min_size=3, max_size=6)


class Laboratory:
    """An engine in which each history has a tenant of its own."""

    def __init__(self, engine: ClickHouseEngine, log: CommitLog, runner: PipelineRunner) -> None:
        self.engine = engine
        self.log = log
        self.runner = runner
        self._tenants = map("tenant-{}".format, itertools.count())

    @classmethod
    async def open(cls, settings: Settings) -> "Laboratory":
        engine = open_engine(settings)
        await migrate(engine, settings)
        log = CommitLog(engine)
        await log.open()
        runner = PipelineRunner(engine, log, settings)
        await runner.open()
        return cls(engine, log, runner)

    async def close(self) -> None:
        await self.runner.stop()
        await self.engine.close()

    async def check(self, history: Sequence[Sequence[Sent]], asked: Sequence[Asked]) -> None:
        """When all of the history is there, each question as of one of its commits."""
        tenant = next(self._tenants)
        versions: list[int] = []
        for events in history:
            await bronze.commit(self.engine, self.log, [_of(tenant, each) for each in events])
            await self.runner.run()
            versions.append(self.log.head)
        queries = KpiQueries(self.engine, Catalogs(self.engine, self.log, load_catalog()), "USD")
        for back, question in asked:
            commits = max(1, len(history) - back)
            so_far = [_of(tenant, each) for events in history[:commits] for each in events]
            kept = [each for each in model.first_of_ids(so_far) if each.tenant == tenant]
            version = await self.log.as_of(commit=versions[commits - 1])
            _agrees(question, await queries.answer(question.query(tenant), version), kept)


def _of(tenant: str, event: Sent) -> Sent:
    """The event in the history's tenant, unless it is another's."""
    fields = {name: getattr(event, name) for name in Sent.__slots__}
    return Sent(**{**fields, "tenant": tenant if event.tenant == "own" else f"not-{tenant}"})


def _agrees(question: Question, answer: Answer, events: Sequence[Sent]) -> None:
    rows, total = modelled(question, question.start, events)
    assert {(row.start, row.dimensions): dict(row.values) for row in answer.rows} == {
        key: pytest.approx(values) for key, values in rows.items()
    }
    assert dict(answer.total.values) == pytest.approx(total)
    before = modelled(question, question.start - timedelta(hours=question.hours), events)
    assert dict(answer.total.previous) == pytest.approx(before[1] if before[0] else {})


def _holds_for(settings: Settings, examples: int) -> None:
    with asyncio.Runner() as loop:
        laboratory = loop.run(Laboratory.open(settings))

        # To shrink a history would take minutes: each is put through the pipeline.
        @bounded(max_examples=examples, phases=(Phase.explicit, Phase.reuse, Phase.generate))
        @given(history=histories, asked=askeds)
        def law(history: list[list[Sent]], asked: list[Asked]) -> None:
            loop.run(laboratory.check(history, asked))

        try:
            law()
        finally:
            loop.run(laboratory.close())


def test_variants_are_what_the_exposures_say(settings: Settings) -> None:
    _holds_for(settings, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_variants_are_what_the_exposures_say_at_length(settings: Settings) -> None:
    _holds_for(settings, 100)


# --- one story, over the contract ----------------------------------------


def at(hours: float, who: str, event_type: str = "page_view", **fields: Any) -> Sent:
    return Sent(event_type=event_type, event_time=DAY + timedelta(hours=hours), user_id=who, **fields)


def exposed(hours: float, who: str, variant: str, experiment: str = "ranking") -> Sent:
    return at(hours, who, "exposure", properties={"experiment": experiment, "variant": variant})


STORY = [
    at(1, "ann", "purchase", price=Decimal(100)),  # before she was exposed
    exposed(2, "ann", "new"),
    at(2, "ann", "purchase", price=Decimal(7)),
    at(30, "ann", "purchase", price=Decimal(20)),
    exposed(4, "bob", "old"),
    exposed(5, "bob", "new"),  # he has been in the other for an hour
    at(6, "bob", "purchase", price=Decimal(3)),
    at(6, "cid", "purchase", price=Decimal(50)),  # never exposed
    exposed(6, "", "new"),  # nobody, and so are all who are not known
    at(7, "", "purchase", price=Decimal(1)),
]


class Call:
    tenant = "default"


@dataclass
class Shop:
    """A service over the story."""

    service: KpiService
    engine: ClickHouseEngine
    log: CommitLog
    runner: PipelineRunner

    async def arrives(self, *events: Sent) -> None:
        await bronze.commit(self.engine, self.log, events)
        await self.runner.run()

    async def asks(self, metric: str, dimension: str = "experiment.ranking", **fields: Any) -> dict[str, float]:
        """The metric by variant, over the first two days."""
        request = pb.QueryKpisRequest(
            **{
                "metrics": [metric],
                "dimensions": [dimension],
                "range": pb.QueryKpisRequest.Range(start=_stamp(DAY), end=_stamp(DAY + timedelta(days=2))),
                **fields,
            }
        )
        answer = await self.service.QueryKpis(request, Call())  # type: ignore[arg-type]
        return {row.dimensions.get(dimension, "all"): row.values.get(metric, 0.0) for row in answer.rows}


def _stamp(time: datetime) -> Timestamp:
    return Timestamp(seconds=int(time.timestamp()))


@pytest.fixture
async def shop(
    catalogs: Catalogs, moments: Moments, queries: KpiQueries, engine: ClickHouseEngine, commit_log: CommitLog,
    settings: Settings,
) -> AsyncIterator[Shop]:  # fmt: skip
    """The story, in a service as far as queries need one."""
    runner = PipelineRunner(engine, commit_log, settings)
    await runner.open()
    service = KpiService.__new__(KpiService)
    service._catalogs, service._moments, service._queries = catalogs, moments, queries
    made = Shop(service, engine, commit_log, runner)
    await made.arrives(*STORY)
    yield made
    await runner.stop()


async def test_what_was_before_the_exposure_is_in_no_variant(shop: Shop) -> None:
    assert await shop.asks("gmv") == {"": 151, "new": 27, "old": 3}
    assert await shop.asks("purchase_users") == {"": 2, "new": 1, "old": 1}


async def test_an_exposure_before_the_range_counts_and_one_behind_it_does_not(shop: Shop) -> None:
    second = pb.QueryKpisRequest.Range(start=_stamp(DAY + timedelta(days=1)), end=_stamp(DAY + timedelta(days=2)))
    assert await shop.asks("gmv", range=second) == {"new": 20}
    first_hours = pb.QueryKpisRequest.Range(start=_stamp(DAY), end=_stamp(DAY + timedelta(hours=2)))
    assert await shop.asks("gmv", range=first_hours) == {"": 100}


async def test_a_late_exposure_moves_what_it_is_before_and_no_older_version(shop: Shop) -> None:
    then = shop.log.head
    await shop.arrives(exposed(0.5, "ann", "old"))
    assert await shop.asks("gmv") == {"": 51, "old": 130}
    assert await shop.asks("gmv", as_of_version=then) == {"": 151, "new": 27, "old": 3}


async def test_of_two_at_the_same_time_the_lesser_variant_counts(shop: Shop) -> None:
    await shop.arrives(exposed(3, "cid", "b", "tie"), exposed(3, "cid", "a", "tie"))
    await shop.arrives(exposed(3, "cid", "b", "tie"))
    assert await shop.asks("gmv", "experiment.tie") == {"": 131, "a": 50}


async def test_a_session_is_in_a_variant_if_it_began_after_the_exposure(shop: Shop) -> None:
    # Exposures are no part of sessions: ann's second began at the moment of hers, bob's only one behind his.
    assert await shop.asks("sessions") == {"": 2, "new": 2, "old": 1}
    await shop.arrives(at(1.8, "ann"))
    assert await shop.asks("sessions") == {"": 3, "new": 1, "old": 1}
    assert await shop.asks("gmv") == {"": 151, "new": 27, "old": 3}


async def test_variants_filter_too(shop: Shop) -> None:
    def on(*values: str, operator: int = pb.QueryKpisRequest.Filter.OPERATOR_IN) -> dict[str, Any]:
        of = pb.QueryKpisRequest.Filter(dimension="experiment.ranking", values=values, operator=operator)  # type: ignore[arg-type]
        return {"filters": [of], "dimensions": []}

    assert await shop.asks("gmv", **on("new")) == {"all": 27}
    assert await shop.asks("gmv", **on("new", "")) == {"all": 178}
    assert await shop.asks("gmv", **on("", operator=pb.QueryKpisRequest.Filter.OPERATOR_NOT_IN)) == {"all": 30}
    assert await shop.asks("gmv", **on("n", "x", operator=pb.QueryKpisRequest.Filter.OPERATOR_STARTS_WITH)) == {
        "all": 27
    }
    assert await shop.asks("sessions", **on("old")) == {"all": 1}
    assert await shop.asks("gmv", **on("x' OR 1=1 --")) == {}
    both = {**on("new"), "dimensions": ["site"]}
    assert await shop.asks("gmv", "site", **both) == {"shop": 27}


async def test_an_experiment_that_nobody_is_in(shop: Shop) -> None:
    assert await shop.asks("gmv", "experiment.never") == {"": 181}
    assert await shop.asks("sessions", "experiment.never") == {"": 5}


async def test_a_removed_exposure_is_gone_from_that_version_on(shop: Shop, settings: Settings) -> None:
    then = shop.log.head
    cleaner = Cleaner(shop.engine, shop.log, shop.runner, settings, lambda: DAY + timedelta(days=2))
    await cleaner.run("default", Retention(1, 1, keep_aggregates=False), dry_run=False)
    assert await shop.asks("gmv") == {"": 20}
    assert await shop.asks("gmv", as_of_version=then) == {"": 151, "new": 27, "old": 3}


@pytest.mark.parametrize(
    "name", ["experiment.", "experiment.Ranking", "experiment.a b", "experiment.a\n", "experiment.1", "experiment.é",
             f"experiment.{'a' * 65}", "experiment.a.b"],
)  # fmt: skip
async def test_a_name_that_no_experiment_can_have_is_refused(shop: Shop, name: str) -> None:
    for metric in ("gmv", "sessions"):
        with pytest.raises(InvalidInput) as raised:
            await shop.asks(metric, name)
        assert [violation.field for violation in raised.value.violations] == ["dimensions"]


# --- how it is asked ----------------------------------------


def _selection(version: Version, dimensions: tuple[str, ...], filters: tuple[Filter, ...] = ()) -> Selection:
    start = int(DAY.timestamp()) * MICROS
    return Selection("default", version, Windows((start, start + 3_600 * MICROS)), dimensions, filters, "USD")


async def test_exposures_are_looked_at_once_for_all_experiments(commit_log: CommitLog) -> None:
    need = load_catalog().need(["gmv", "events"])
    on = (Filter("experiment.second", Comparison.IN, ("a",)), Filter("experiment.first", Comparison.IN, ("b",)))
    (only,) = statements(_selection(commit_log.version, ("experiment.first", "site"), on), need.aggregates)
    assert only.sql.count("ANY LEFT JOIN") == 1
    assert ["first", "second"] in only.bindings.values()
    assert "gold" not in only.sql


async def test_names_are_bound_and_never_sql(commit_log: CommitLog) -> None:
    need = load_catalog().need(["gmv", "sessions"])
    on = (Filter("experiment.drop-table", Comparison.IN, ("'; DROP",)),)
    for made in statements(_selection(commit_log.version, ("experiment.union_all",), on), need.aggregates):
        for text in ("drop-table", "union_all", "DROP"):
            assert text not in made.sql
        assert {"drop-table", "union_all", "'; DROP"} <= {each for each in made.bindings.values() if str(each) == each}


def test_the_catalogue_shows_it_for_every_metric() -> None:
    catalog = load_catalog()
    assert all("experiment.<name>" in catalog.dimensions(name) for name in catalog.metrics)
