"""Queries equal a plain computation from the events as sent: every metric, grain, timezone and dimension, however the
events arrive and whenever the pipeline runs."""

import random
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from penstock.kpis.catalog import Declaration, Direction, Unit
from penstock.kpis.expression import MetricType
from penstock.kpis.fields import Source
from penstock.kpis.formula import Comparison
from penstock.kpis.grain import of, parsed
from penstock.kpis.own_metrics import Catalogs
from penstock.kpis.query import Answer, Fill, KpiQueries, Query
from penstock.kpis.ranges import resolved
from penstock.kpis.sources import Filter
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from tests.pipeline import bronze, model
from tests.pipeline.bronze import Sent

# Days on which clocks change, and one on which none does: Berlin, New York, Lord Howe (by half an hour).
DAYS = {
    "Europe/Berlin": (datetime(2026, 3, 29, tzinfo=UTC), datetime(2025, 10, 26, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, tzinfo=UTC), datetime(2025, 11, 2, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4, tzinfo=UTC), datetime(2025, 10, 4, tzinfo=UTC)),
    "Asia/Kolkata": (datetime(2026, 3, 29, tzinfo=UTC),),
    "UTC": (datetime(2026, 3, 29, tzinfo=UTC),),
}
GRAINS = ("", "minute", "7 minutes", "30 minutes", "hour", "5 hours", "day", "3 days", "week", "month", "2 months")
OWN = {
    "signups": (MetricType.COUNT, "count(event_type = 'signup')"),
    "app_sales": (MetricType.SUM, "sum(amount, event_type = 'purchase' and properties.channel = 'app')"),
    "searchers": (MetricType.UNIQUE, "unique(visitor, event_type in ('search', 'signup') or not price > 5)"),
    "mean_price": (MetricType.RATIO, "average(price, starts_with(path, '/a'))"),
    "mean_load": (MetricType.RATIO, "average(properties['load time'])"),
    "sales_per_session": (MetricType.DERIVED, "abs(refunds) / sessions * 2 - signups"),
    "buyers_so_far": (MetricType.CUMULATIVE, "cumulative(purchase_users)"),
    "conversion_so_far": (MetricType.CUMULATIVE, "cumulative(conversion_rate)"),
}


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of silver, or a session, with what the model needs of it."""

    time: datetime
    event: Sent | None = None
    session: model.Seen | None = None


# --- the model: metrics from lists of events and sessions ----------------------------------------

Things = Sequence[Happened]


def amount(event: Sent) -> Decimal:
    return (event.price or Decimal(0)) * (1 if event.quantity is None else event.quantity)


def events_of(things: Things, kind: str = "") -> list[Sent]:
    return [each.event for each in things if each.event is not None and kind in ("", model.kind(each.event))]


def sessions_of(things: Things) -> list[model.Seen]:
    return [each.session for each in things if each.session is not None]


def in_currency(events: Iterable[Sent], currency: str | None) -> list[Sent]:
    return [event for event in events if currency is None or (event.currency or "USD") == currency]


def visitors(events: Iterable[Sent]) -> int:
    return len({event.visitor for event in events} - {""})


def orders(events: Iterable[Sent]) -> int:
    return len({event.order_id or str(event.event_id) for event in events})


def number(text: str | None) -> float | None:
    try:
        found = float(text) if text else None
    except ValueError:
        return None
    return found if found is not None and abs(found) != float("inf") and found == found else None


def by(numerator: float | Decimal | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else float(numerator) / denominator


def expected(name: str, things: Things, so_far: Things, currency: str | None) -> float | None:
    """A metric of a window with `things`, `so_far` being those since the start of the range."""

    def value(of: str) -> float | None:
        return expected(of, things, so_far, currency)

    buys = events_of(things, "purchase")
    match name:
        case "orders":
            return orders(buys)
        case "orders_in_currency":
            return orders(in_currency(buys, currency))
        case "purchases" | "page_views" | "add_to_carts" | "signups":
            return len(events_of(things, name.removesuffix("s")))
        case "events":
            return len(events_of(things))
        case "gmv":
            return float(sum(map(amount, in_currency(buys, currency))))
        case "refunds":
            return float(sum(map(amount, in_currency(events_of(things, "refund"), currency))))
        case "revenue_net":
            return value("gmv") - abs(value("refunds"))
        case "average_order_value":
            return by(value("gmv"), value("orders_in_currency"))
        case "purchase_users":
            return visitors(buys)
        case "view_users":
            return visitors(events_of(things, "page_view"))
        case "cart_users":
            return visitors(events_of(things, "add_to_cart"))
        case "active_users":
            return visitors(events_of(things))
        case "conversion_rate":
            return by(value("purchase_users"), value("view_users"))
        case "add_to_cart_rate":
            return by(value("cart_users"), value("view_users"))
        case "sessions":
            return len(sessions_of(things))
        case "bounces":
            return sum(each.page_views <= 1 and not each.converted for each in sessions_of(things))
        case "bounce_rate":
            return by(value("bounces"), value("sessions"))
        case "average_session_length":
            return by(sum((each.end - each.start).total_seconds() for each in sessions_of(things)), value("sessions"))
        case "pages_per_session":
            return by(sum(each.page_views for each in sessions_of(things)), value("sessions"))
        case "app_sales":
            return float(sum(amount(e) for e in in_currency(buys, currency) if e.properties.get("channel") == "app"))
        case "searchers":
            return visitors(
                e
                for e in events_of(things)
                if model.kind(e) in ("search", "signup") or not (e.price is not None and e.price > 5)
            )
        case "mean_price":
            prices = [e.price for e in in_currency(events_of(things), currency) if e.path.startswith("/a")]
            given = [float(price) for price in prices if price is not None]
            return by(sum(given), len(given))
        case "mean_load":
            loads = [number(e.properties.get("load time")) for e in events_of(things)]
            measured = [load for load in loads if load is not None]
            return by(sum(measured), len(measured))
        case "sales_per_session":
            share = by(abs(value("refunds")), value("sessions"))
            return None if share is None else share * 2 - value("signups")
        case "cumulative_gmv" | "buyers_so_far" | "conversion_so_far":
            inner = {"cumulative_gmv": "gmv", "buyers_so_far": "purchase_users"}.get(name, "conversion_rate")
            return expected(inner, so_far, so_far, currency)
    raise AssertionError(name)


DIMENSION_OF: dict[str, Callable[[Sent], str]] = {
    "site": lambda e: e.site_id,
    "event_type": model.kind,
    "product": lambda e: e.product_id,
    "source": lambda e: e.utm_source,
    "medium": lambda e: e.utm_medium,
    "campaign": lambda e: e.utm_campaign,
    "currency": lambda e: e.currency or "USD",
    "path": lambda e: e.path,
    "country": lambda e: e.properties.get("country", ""),
    "device": lambda e: (
        e.properties.get("device", "").lower() or {"": "", "iPhone": "mobile", "X11": "desktop"}[e.user_agent]
    ),
    "referrer": lambda e: e.referrer.removeprefix("https://").partition("/")[0],
    "properties.channel": lambda e: e.properties.get("channel", ""),
}
SESSION_DIMENSION_OF: dict[str, Callable[[model.Seen], str]] = {
    "site": lambda s: s.site_id,
    "source": lambda s: s.source,
}


def split(thing: Happened, dimension: str) -> str | None:
    """The thing's value of the dimension; None where it has no such dimension."""
    if thing.event is not None:
        return DIMENSION_OF[dimension](thing.event)
    assert thing.session is not None
    return SESSION_DIMENSION_OF[dimension](thing.session) if dimension in SESSION_DIMENSION_OF else None


def begins(before: datetime, now: datetime, grain: str) -> bool:
    """Whether a window begins at the minute `now`, given the minute before, both on the wall clock of the timezone."""
    count, unit = int(grain.partition(" ")[0]) if grain[0].isdigit() else 1, grain.split()[-1].removesuffix("s")

    def place(moment: datetime) -> object:
        days = (moment.date() - datetime(1970, 1, 5).date()).days
        months = (moment.year - 1970) * 12 + moment.month - 1
        match unit:
            case "minute" | "hour":
                return days, (moment.hour * 60 + moment.minute) // (count * (60 if unit == "hour" else 1))
            case "day" | "week":
                return days // (count * (7 if unit == "week" else 1))
            case _:
                return months // count

    if unit in ("minute", "hour"):  # where the clock is put back, a moment that it shows twice begins two windows
        length = count * (60 if unit == "hour" else 1)
        if (now.hour * 60 + now.minute) % length == 0:
            return True
        if now.replace(tzinfo=None) < before.replace(tzinfo=None):
            return False
    return place(before) != place(now)


def bounds(start: datetime, end: datetime, grain: str, zone: ZoneInfo) -> list[datetime]:
    """Where windows begin in the range, found by walking over its minutes."""
    found = [start]
    minute = start.replace(second=0, microsecond=0) + timedelta(minutes=1)
    before = (minute - timedelta(minutes=1)).astimezone(zone)
    while grain and minute < end:
        now = minute.astimezone(zone)
        if begins(before, now, grain):
            found.append(minute)
        before = now
        minute += timedelta(minutes=1)
    return [*found, end]


# --- events ----------------------------------------


def event(chance: random.Random, days: Sequence[datetime]) -> Sent:
    properties = {
        "channel": chance.choice(("app", "web")),
        "country": chance.choice(("DE", "US")),
        "load time": chance.choice(("1.5", "3", "inf", "nan", "fast", "-2e1")),
        "device": chance.choice(("", "Watch")),
    }
    offset = chance.choice((chance.randrange(-30 * 60, 54 * 60), chance.randrange(24 * 60)))
    return Sent(
        event_type=chance.choice(
            ("page_view", "view", "add_to_cart", "purchase", "purchase", "refund", "search", "signup")
        ),
        event_id=uuid.UUID(int=chance.getrandbits(128), version=4),
        event_time=chance.choice(days)
        + timedelta(minutes=offset // 5 * 5, microseconds=chance.choice((0, 0, 1, 59_999_999))),
        tenant=chance.choice(("default", "default", "default", "other")),
        user_id=chance.choice(("", "", "u1", "u2")),
        visitor_id=chance.choice(("", "a", "b", "c")),
        session_id=chance.choice(("", "", "", "x", "y")),
        site_id=chance.choice(("shop", "blog")),
        product_id=chance.choice(("", "p1", "p'2\\")),
        order_id=chance.choice(("", "o1", "o2", "o3")),
        price=Decimal(chance.randrange(-10_000, 1_000_000)) / 10_000 if chance.random() < 0.7 else None,
        quantity=chance.choice((None, 1, 3, -2)),
        currency=chance.choice(("", "USD", "EUR")),
        path=chance.choice(("", "/", "/a", "/a/b", "/b")),
        utm_source=chance.choice(("", "", "mail", "ads")),
        utm_medium=chance.choice(("", "cpc")),
        utm_campaign=chance.choice(("", "spring")),
        referrer=chance.choice(("", "https://search.example/?q=1")),
        user_agent=chance.choice(("", "iPhone", "X11")),
        properties={key: text for key, text in properties.items() if chance.random() < 0.7},
    )


def commits(chance: random.Random, days: Sequence[datetime], count: int) -> list[list[Sent]]:
    """Events in random commits, some late, some twice, some with an id that is taken."""
    sent = [event(chance, days) for _ in range(count)]
    for _ in range(count // 10):
        again = chance.choice(sent)
        sent.insert(chance.randrange(len(sent)), again)
        sent.insert(
            chance.randrange(len(sent)), replace(event(chance, days), event_id=again.event_id, tenant=again.tenant)
        )
    parts: list[list[Sent]] = []
    while sent:
        size = chance.randrange(1, 60)
        parts.append(sent[:size])
        sent = sent[size:]
    return parts


@pytest.fixture
async def runner(engine: Engine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[PipelineRunner]:
    opened = PipelineRunner(engine, commit_log, settings)
    await opened.open()
    yield opened
    await opened.stop()


@pytest.fixture
async def own(catalogs: Catalogs) -> Sequence[str]:
    """Metrics of the tenant's own, beside which those of the catalogue stand; all their names."""
    for name, (kind, expression) in OWN.items():
        await catalogs.create(
            "default",
            Declaration(
                name=name, label=name, description="", unit=Unit.COUNT, type=kind, expression=expression,
                good_direction=Direction.UP,
            ),
        )  # fmt: skip
    return list((await catalogs.of("default")).metrics)


def happened(sent: Iterable[Sent]) -> list[Happened]:
    """All events of the tenant without duplicates, and their sessions."""
    kept = [each for each in model.first_of_ids(sent) if each.tenant == "default"]
    found = [Happened(each.event_time, event=each) for each in kept]
    return found + [Happened(each.start, session=each) for each in model.sessions(kept)]


# --- one question, asked of both ----------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    metrics: tuple[str, ...]
    start: datetime
    end: datetime
    zone: str
    grain: str = ""
    dimensions: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()

    def query(self) -> Query:
        covered = resolved(of(self.start), of(self.end), "", 0, ZoneInfo(self.zone))
        return Query(
            "default", self.metrics, self.dimensions, self.filters, covered, parsed(self.grain), self.zone, None,
            Fill.NONE, (),
        )  # fmt: skip


Rows = dict[tuple[int, int, tuple[str, ...]], dict[str, float]]


def shown(answer: Answer) -> Rows:
    return {(row.start, row.end, row.dimensions): dict(row.values) for row in answer.rows}


def passes(thing: Happened, filters: Sequence[Filter]) -> bool:
    for each in filters:
        value = split(thing, each.dimension)
        if value is None:
            return False
        match each.comparison:
            case Comparison.IN:
                holds = value in each.values
            case Comparison.STARTS_WITH:
                holds = any(value.startswith(text) for text in each.values)
            case _:
                holds = any(text in value for text in each.values)
        if holds == each.negated:
            return False
    return True


def modelled(
    question: Question, things: Iterable[Happened], sources: frozenset[Source]
) -> tuple[Rows, dict[str, float]]:
    """The rows and the total that the question should have."""
    chosen = [
        each
        for each in things
        if question.start <= each.time < question.end
        and (Source.EVENTS if each.event is not None else Source.SESSIONS) in sources
        and passes(each, question.filters)
    ]
    edges = bounds(question.start, question.end, question.grain, ZoneInfo(question.zone))
    currencies = [each.values for each in question.filters if each.dimension == "currency" and not each.negated]
    single = currencies[0][0] if currencies and len(currencies[0]) == 1 else "USD"
    groups: dict[tuple[int, tuple[str, ...]], list[Happened]] = defaultdict(list)
    for thing in chosen:
        window = max(n for n, edge in enumerate(edges) if edge <= thing.time)
        groups[window, tuple(str(split(thing, name)) for name in question.dimensions)].append(thing)
    rows: Rows = {}
    for (window, key), group in groups.items():
        so_far = [t for (w, k), g in groups.items() if w <= window and k == key for t in g]
        currency = None if "currency" in question.dimensions else single
        values = {name: expected(name, group, so_far, currency) for name in question.metrics}
        rows[of(edges[window]), of(edges[window + 1]), key] = {n: v for n, v in values.items() if v is not None}
    whole = {name: expected(name, chosen, chosen, single) for name in question.metrics}
    return rows, {name: value for name, value in whole.items() if value is not None}


def equal(found: Rows, wanted: Rows) -> None:
    assert set(found) == set(wanted)
    for key, values in wanted.items():
        assert found[key] == pytest.approx(values), key


async def compare(
    questions: Sequence[Question], things: Sequence[Happened], catalogs: Catalogs, queries: KpiQueries, log: CommitLog
) -> None:
    catalog = await catalogs.of("default")
    for question in questions:
        sources = frozenset().union(*(catalog.sources(name) for name in question.metrics))
        answer = await queries.answer(question.query(), log.version)
        rows, total = modelled(question, things, sources)
        equal(shown(answer), rows)
        assert dict(answer.total.values) == pytest.approx(total)
        assert bool(answer.reason) == (not rows)


def asked(chance: random.Random, metrics: Sequence[str], catalogs_sessions: frozenset[str], zone: str) -> Question:
    """A random question about some of the metrics, of dimensions that all of them have."""
    chosen = tuple(chance.sample(metrics, chance.randrange(1, 5)))
    known = tuple(SESSION_DIMENSION_OF) if set(chosen) & catalogs_sessions else tuple(DIMENSION_OF)
    dimensions = tuple(chance.sample(known, min(len(known), chance.choice((0, 0, 1, 2, 3)))))
    start = chance.choice(DAYS[zone]) + timedelta(minutes=chance.randrange(-40 * 60, 0))
    if chance.random() < 0.3:
        start += timedelta(microseconds=chance.randrange(60_000_000))
    filters = []
    if chance.random() < 0.4:
        name = chance.choice(known)
        values = {"site": ("shop",), "currency": ("EUR",), "source": ("", "ads"), "product": ("p'2\\",)}.get(
            name, ("", "a")
        )
        filters.append(Filter(name, Comparison.IN, values, chance.random() < 0.3))
    if chance.random() < 0.2 and "path" in known:
        filters.append(Filter("path", chance.choice((Comparison.STARTS_WITH, Comparison.CONTAINS)), ("/a", "b")))
    length = timedelta(minutes=chance.choice((60, 2_000, 4_000)))
    return Question(chosen, start, start + length, zone, chance.choice(GRAINS), dimensions, tuple(filters))


SESSION_METRICS = frozenset(
    {"sessions", "bounces", "bounce_rate", "average_session_length", "pages_per_session", "sales_per_session"}
)


async def check_seed(
    seed: int, questions: int, count: int, engine: Engine, log: CommitLog, runner: PipelineRunner,
    catalogs: Catalogs, queries: KpiQueries, own: Sequence[str],
) -> None:  # fmt: skip
    chance = random.Random(seed)
    days = [day for several in DAYS.values() for day in several]
    sent: list[Sent] = []
    past: list[tuple[int, Question, Rows]] = []
    for events in commits(chance, days, count):
        await bronze.commit(engine, log, events)
        sent += events
        if chance.random() < 0.3:
            await runner.run(
                rows_max=chance.choice((50, 1_000)), event_type=chance.choice(("", "", "page_view", "purchase"))
            )
        if chance.random() < 0.3:
            question = asked(chance, own, SESSION_METRICS, chance.choice(list(DAYS)))
            past.append((log.head, question, shown(await queries.answer(question.query(), log.version))))
    await runner.run()
    things = happened(sent)
    for _ in range(questions):
        await compare([asked(chance, own, SESSION_METRICS, chance.choice(list(DAYS)))], things, catalogs, queries, log)
    unknowing = KpiQueries(engine, catalogs, "USD")  # it has no answer in memory
    for commit, question, rows in past:  # as of then it is what it was then
        equal(shown(await unknowing.answer(question.query(), await log.as_of(commit=commit))), rows)


@pytest.mark.parametrize("seed", range(1))
async def test_queries_equal_the_events(
    seed: int, engine: Engine, commit_log: CommitLog, runner: PipelineRunner, catalogs: Catalogs,
    queries: KpiQueries, own: Sequence[str],
) -> None:  # fmt: skip
    await check_seed(seed, 20, 120, engine, commit_log, runner, catalogs, queries, own)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 106))
async def test_queries_equal_the_events_at_length(
    seed: int, engine: Engine, commit_log: CommitLog, runner: PipelineRunner, catalogs: Catalogs,
    queries: KpiQueries, own: Sequence[str],
) -> None:  # fmt: skip
    await check_seed(seed, 200, 600, engine, commit_log, runner, catalogs, queries, own)


async def test_every_metric_alone_is_what_it_is_among_others(
    engine: Engine, commit_log: CommitLog, runner: PipelineRunner, catalogs: Catalogs, queries: KpiQueries,
    own: Sequence[str],
) -> None:  # fmt: skip
    chance = random.Random(5)
    days = DAYS["Europe/Berlin"][:1]
    sent = [each for part in commits(chance, days, 150) for each in part]
    await bronze.commit(engine, commit_log, sent)
    await runner.run()
    catalog = await catalogs.of("default")
    for dimensions in ((), ("source",)):
        question = Question(tuple(own), days[0] - timedelta(days=1), days[0] + timedelta(days=2), "Europe/Berlin",
                            "6 hours", dimensions)  # fmt: skip
        together = shown(await queries.answer(question.query(), commit_log.version))
        for name in own:
            alone = shown(await queries.answer(replace(question, metrics=(name,)).query(), commit_log.version))
            nothing = catalog.values([name], {})[name]
            for key, values in together.items():
                if key in alone:
                    assert alone[key].get(name) == values.get(name)
                elif name not in OWN or OWN[name][0] is not MetricType.CUMULATIVE:
                    assert values.get(name) == (None if nothing is None else float(nothing))
            assert set(alone) <= set(together)


@pytest.mark.parametrize(
    "zone", [zone if zone == "Europe/Berlin" else pytest.param(zone, marks=pytest.mark.slow) for zone in DAYS]
)
async def test_every_metric_at_every_grain(
    zone: str, engine: Engine, commit_log: CommitLog, runner: PipelineRunner, catalogs: Catalogs,
    queries: KpiQueries, own: Sequence[str],
) -> None:  # fmt: skip
    chance = random.Random(9)
    parts = commits(chance, DAYS[zone], 120)
    for events in parts:
        await bronze.commit(engine, commit_log, events)
    await runner.run()
    things = happened(each for part in parts for each in part)
    day = DAYS[zone][-1]
    span = (day - timedelta(days=1), day + timedelta(days=2))
    questions = [Question(tuple(own), *span, zone, grain, chance.choice(((), ("site",)))) for grain in GRAINS]
    await compare(questions, things, catalogs, queries, commit_log)
