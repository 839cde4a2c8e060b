"""Features against a plain computation over the events as sent; through the real pipeline."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pytest

from penstock import limits
from penstock.errors import NotFound, OutOfRange, Overloaded, Unavailable
from penstock.kpis import features as features_module
from penstock.kpis.feature_export import FeatureExport
from penstock.kpis.features import AggregateFeatures, FeatureReader, UserFeatures
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.pipeline import bronze, model, random_events
from tests.pipeline.bronze import Sent, at
from tests.pipeline.model import kind

DAY = timedelta(days=1)
PRODUCTS = ("", "p1", "p2", "p3")


@pytest.fixture
async def runner(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[PipelineRunner]:
    """An open runner whose loop is not started."""
    opened = PipelineRunner(engine, commit_log, settings)
    await opened.open()
    yield opened
    await opened.stop()


@pytest.fixture
def features(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings) -> FeatureReader:
    return FeatureReader(engine, settings)


@pytest.fixture
def export(engine: ClickHouseEngine, features: FeatureReader) -> FeatureExport:
    return FeatureExport(engine, features)


Take = Callable[..., Awaitable[None]]


@pytest.fixture
def take(engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner) -> Take:
    """Commits events and runs the pipeline over them."""

    async def take(*events: Sent) -> None:
        await bronze.commit(engine, commit_log, events)
        await runner.run()

    return take


# --- the same in plain Python ----------------------------------------------------------------------------------------


def amount(event: Sent) -> Decimal:
    return (event.price or Decimal(0)) * (1 if event.quantity is None else event.quantity)


def orders(events: Iterable[Sent]) -> int:
    return len({event.order_id or str(event.event_id) for event in events if kind(event) == "purchase"})


def paid(events: Iterable[Sent]) -> list[Sent]:
    return [event for event in events if kind(event) == "purchase" and event.currency in ("", "USD")]


def spent(events: Iterable[Sent]) -> Decimal:
    return sum((amount(event) for event in paid(events)), Decimal(0))


def score(value: Any, among: Sequence[Any]) -> int:
    below, equal = sum(other < value for other in among), sum(other == value for other in among)
    return 1 + 5 * (2 * below + equal) // (2 * len(among))


def expected(events: Iterable[Sent], tenant: str = "default") -> dict[str, UserFeatures]:
    """The features of every user, from events without duplicates."""
    of_user: dict[str, list[Sent]] = {}
    seen = [event for event in events if event.tenant == tenant]
    for event in seen:
        if event.visitor:
            of_user.setdefault(event.visitor, []).append(event)
    now = max(event.event_time for event in seen)
    buyers = {user: own for user, own in of_user.items() if orders(own)}
    last_orders = {u: max(e.event_time for e in own if kind(e) == "purchase") for u, own in buyers.items()}
    counts = {user: orders(own) for user, own in buyers.items()}
    amounts = {user: spent(own) for user, own in buyers.items()}
    return {
        user: UserFeatures(
            user_id=user,
            total_events=len(own),
            purchases=orders(own),
            avg_order_value=float(spent(own)) / orders(paid(own)) if orders(paid(own)) else None,
            unique_products_viewed=len({e.product_id for e in own if kind(e) == "page_view"} - {""}),
            preferred_hour=min(hours, key=lambda hour: (-hours[hour], hour)),
            days_since_last_activity=(now - max(e.event_time for e in own)) / DAY,
            avg_events_per_day=len(own) / max(1.0, (now - min(e.event_time for e in own)) / DAY),
            recency=(now - last_orders[user]) / DAY if user in buyers else None,
            frequency=orders(own),
            monetary=float(spent(own)),
            recency_score=score(last_orders[user], [*last_orders.values()]) if user in buyers else 0,
            frequency_score=score(counts[user], [*counts.values()]) if user in buyers else 0,
            monetary_score=score(amounts[user], [*amounts.values()]) if user in buyers else 0,
        )
        for user, own in of_user.items()
        for hours in [Counter(event.event_time.hour for event in own)]
    }


def close(found: UserFeatures, wanted: UserFeatures) -> bool:
    """Equal but for the last bits of what was divided."""
    return bool(asdict(found) == pytest.approx(asdict(wanted)))


def shop(seed: int, users: int = 40, count: int = 400) -> list[Sent]:
    """Events of many users over some weeks, so that scores and days have something to tell apart."""
    chance = random.Random(seed)
    return [
        replace(
            random_events.event(chance),
            event_time=at(chance.randrange(40 * 86_400) + chance.random()),
            visitor_id=chance.choice(("", *(f"v{number}" for number in range(users)))),
            product_id=chance.choice(PRODUCTS),
            order_id=chance.choice(("", "", f"o{chance.randrange(50)}")),
        )
        for _ in range(count)
    ]


async def exported(export: FeatureExport, commit_log: CommitLog, since: datetime | None = None) -> pa.Table:
    pieces = [piece async for piece in export.pieces("default", commit_log.version, since)]
    assert all(0 < len(piece) <= limits.FEATURE_EXPORT_BYTES for piece in pieces)
    return pa.ipc.open_stream(b"".join(pieces)).read_all()


# --- users -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_features_of_users_are_those_of_their_events(
    take: Take,
    features: FeatureReader,
    export: FeatureExport,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    commit_log: CommitLog,
) -> None:
    monkeypatch.setattr(limits, "FEATURE_EXPORT_USERS", 7)  # an export of several parts
    events = shop(seed)
    chance = random.Random(seed)
    for _ in range(3):
        await take(*chance.sample(events, 150))  # late, and many twice
    await take(*events)
    stored = expected(events)
    rows = (await exported(export, commit_log)).to_pylist()
    assert {row["user_id"] for row in rows} == set(stored)
    assert len(rows) == len(stored)
    version = commit_log.version
    for row in rows:
        one = await features.user("default", row["user_id"], version)
        assert isinstance(one.of, UserFeatures)
        assert asdict(one.of) == row, "the export has the values that GetFeatures has"
        assert close(one.of, stored[row["user_id"]])


async def test_scores_cut_buyers_into_fifths_and_treat_equals_alike(
    take: Take, features: FeatureReader, commit_log: CommitLog
) -> None:
    await take(
        *(
            Sent("purchase", at(number), user_id=f"u{number}", order_id=f"o{number}", price=Decimal(7))
            for number in range(10)
        ),
        Sent("page_view", at(20), user_id="looks"),
    )
    version = commit_log.version
    found = [(await features.user("default", f"u{number}", version)).of for number in range(10)]
    assert [each.recency_score for each in found if isinstance(each, UserFeatures)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {(each.frequency_score, each.monetary_score) for each in found if isinstance(each, UserFeatures)} == {(3, 3)}
    looks = (await features.user("default", "looks", version)).of
    assert isinstance(looks, UserFeatures)
    assert (looks.recency, looks.avg_order_value) == (None, None)
    assert (looks.recency_score, looks.frequency_score, looks.monetary_score) == (0, 0, 0)


async def test_one_user_with_one_order_worth_nothing(
    take: Take, features: FeatureReader, commit_log: CommitLog
) -> None:
    await take(Sent("purchase", at(0), user_id="only", price=Decimal(0)))
    found = (await features.user("default", "only", commit_log.version)).of
    assert isinstance(found, UserFeatures)
    assert (found.avg_order_value, found.monetary, found.recency) == (0, 0, 0)
    assert (found.avg_events_per_day, found.days_since_last_activity) == (1, 0)
    assert (found.recency_score, found.frequency_score, found.monetary_score) == (3, 3, 3)


async def test_an_order_in_another_currency_is_an_order_without_a_value(
    take: Take, features: FeatureReader, commit_log: CommitLog
) -> None:
    await take(Sent("purchase", at(0), user_id="u", price=Decimal(9), currency="EUR"))
    found = (await features.user("default", "u", commit_log.version)).of
    assert isinstance(found, UserFeatures)
    assert (found.frequency, found.monetary, found.avg_order_value) == (1, 0, None)


async def test_a_clock_that_is_ahead_makes_nobody_else_idle(
    take: Take, features: FeatureReader, commit_log: CommitLog
) -> None:
    now = datetime.now(UTC)
    await take(Sent("page_view", now, user_id="here"), Sent("page_view", now + DAY, user_id="ahead"))
    version = commit_log.version
    here, ahead = [(await features.user("default", user, version)).of for user in ("here", "ahead")]
    assert isinstance(here, UserFeatures)
    assert isinstance(ahead, UserFeatures)
    assert here.days_since_last_activity < 0.01
    assert ahead.days_since_last_activity == 0


async def test_a_user_without_events_is_not_found(take: Take, features: FeatureReader, commit_log: CommitLog) -> None:
    with pytest.raises(NotFound):
        await features.user("default", "nobody", commit_log.version)
    await take(Sent("page_view", at(0), user_id="u"), Sent("page_view", at(0), user_id="other's", tenant="other"))
    for user in ("nobody", "other's"):
        with pytest.raises(NotFound) as raised:
            await features.user("default", user, commit_log.version)
        assert raised.value.reason == "USER_NOT_FOUND"


async def test_features_as_of_a_version_stay(
    take: Take, features: FeatureReader, export: FeatureExport, commit_log: CommitLog
) -> None:
    await take(Sent("purchase", at(0), user_id="u", price=Decimal(5)))
    then = commit_log.head
    before = await features.user("default", "u", commit_log.version)
    summary = await features.aggregate("default", commit_log.version)
    await take(*shop(1), Sent("purchase", at(50 * 86_400), user_id="u", price=Decimal(50)))
    assert await features.user("default", "u", await commit_log.as_of(commit=then)) == before
    assert await features.aggregate("default", await commit_log.as_of(commit=then)) == summary
    assert await features.user("default", "u", commit_log.version) != before
    with pytest.raises(OutOfRange):
        await commit_log.as_of(commit=10_000)


# --- all together ----------------------------------------------------------------------------------------------------


def over_days(events: Sequence[Sent]) -> AggregateFeatures:
    mine = [event for event in events if event.tenant == "default"]
    days = sorted({event.event_time.date() for event in mine})[-features_module.DAYS :]
    rates, gmv = [], []
    for day in days:
        own = [event for event in mine if event.event_time.date() == day]
        viewers = {e.visitor for e in own if kind(e) == "page_view"} - {""}
        buyers = {e.visitor for e in own if kind(e) == "purchase"} - {""}
        if viewers:
            rates.append(len(buyers) / len(viewers))
        gmv.append(float(spent(own)))
    sessions = [s for s in model.sessions(events) if s.tenant == "default" and s.start.date() >= days[0]]
    return AggregateFeatures(
        avg_session_length=fmean((s.end - s.start).total_seconds() for s in sessions),
        avg_pages_per_session=fmean(s.page_views for s in sessions),
        avg_conversion_rate=fmean(rates),
        gmv_volatility=stdev(gmv) / fmean(gmv) if fmean(gmv) > 0 else None,
        users=len({e.visitor for e in mine if e.event_time.date() >= days[0]} - {""}),
        days=len(days),
    )


@pytest.mark.parametrize("seed", range(2))
async def test_features_of_all_users_are_over_the_last_days_that_have_events(
    take: Take, runner: PipelineRunner, features: FeatureReader, seed: int, commit_log: CommitLog
) -> None:
    events = shop(seed)
    await take(*events)
    await runner.run()  # sessions may take a run of their own
    found = (await features.aggregate("default", commit_log.version)).of
    assert asdict(found) == pytest.approx(asdict(over_days(events)))


async def test_features_of_all_users_without_any(features: FeatureReader, commit_log: CommitLog, take: Take) -> None:
    none = AggregateFeatures(None, None, None, None, 0, 0)
    found = await features.aggregate("default", commit_log.version)
    assert (found.of, found.reason, found.reference_time) == (none, "no events yet", None)
    await take(Sent("page_view", at(0), tenant="other", user_id="u"))
    found = await features.aggregate("default", commit_log.version)
    assert (found.of, found.reason) == (none, "no events yet")


async def test_what_cannot_be_said_of_one_event_is_absent(
    take: Take, features: FeatureReader, commit_log: CommitLog
) -> None:
    await take(Sent("search", at(0), site_id="shop"))
    found = await features.aggregate("default", commit_log.version)
    assert found.of == AggregateFeatures(None, None, None, None, 0, 1)
    assert found.reason == ""
    assert found.reference_time == at(0)


# --- export ----------------------------------------------------------------------------------------------------------


async def test_an_export_without_users_is_an_empty_table(export: FeatureExport, commit_log: CommitLog) -> None:
    empty = await exported(export, commit_log)
    assert (empty.num_rows, empty.column_names) == (0, list(UserFeatures.__slots__))
    assert empty.schema.metadata == {b"version": b"0", b"currency": b"USD"}


async def test_only_active_users_are_exported(take: Take, export: FeatureExport, commit_log: CommitLog) -> None:
    await take(Sent("page_view", at(0), user_id="old"), Sent("page_view", at(60), user_id="new"))
    assert (await exported(export, commit_log, at(60)))["user_id"].to_pylist() == ["new"]
    assert (await exported(export, commit_log, at(61)))["user_id"].to_pylist() == []
    table = await exported(export, commit_log)
    assert table.schema.metadata[b"reference_time"] == at(60).isoformat().encode()


async def test_an_export_that_breaks_off_is_refused_by_readers(
    take: Take, export: FeatureExport, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch, commit_log: CommitLog
) -> None:
    monkeypatch.setattr(limits, "FEATURE_EXPORT_USERS", 2)
    monkeypatch.setattr(limits, "FEATURE_EXPORT_BYTES", 64)
    await take(*(Sent("page_view", at(number), user_id=f"u{number}") for number in range(40)))
    rows = engine.rows
    parts = 0

    async def failing(sql: str, *arguments: Any, **options: Any) -> Any:
        nonlocal parts
        parts += "total_events" in sql
        if parts == 5:
            raise Unavailable("the database went away", reason="STORAGE_UNAVAILABLE")
        return await rows(sql, *arguments, **options)

    monkeypatch.setattr(engine, "rows", failing)
    version = commit_log.version
    pieces: list[bytes] = []

    async def read() -> None:
        async for piece in export.pieces("default", version, None):
            pieces.append(piece)  # noqa: PERF401 - those before the error are wanted

    with pytest.raises(Unavailable):
        await read()
    assert len(pieces) > 4
    for length in range(1, len(pieces) + 1):  # wherever it broke off
        with pytest.raises((pa.ArrowInvalid, OSError)):
            pa.ipc.open_stream(b"".join(pieces[:length])).read_all()


async def test_so_many_exports_run_at_a_time(take: Take, export: FeatureExport, commit_log: CommitLog) -> None:
    await take(Sent("page_view", at(0), user_id="u"))
    version = commit_log.version
    under_way = [export.pieces("default", version, None) for _ in range(limits.FEATURE_EXPORTS_MAX)]
    for each in under_way:
        await anext(each)
    with pytest.raises(Overloaded):
        await anext(export.pieces("default", version, None))
    for each in under_way:
        await each.aclose()
    assert (await exported(export, commit_log)).num_rows == 1
