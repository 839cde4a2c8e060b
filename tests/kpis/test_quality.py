"""Data quality against a plain computation over the events as sent; through the real pipeline."""

import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from penstock.kpis.quality import Finding, Quality, QualityReader, Status, finding
from penstock.kpis.quality_checks import PIPELINE_LAG, ROW_CHECKS, Dimension
from penstock.kpis.windows import Freshness
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog, Entry
from penstock.storage.engine import ClickHouseEngine
from penstock.storage.version import Gold
from tests.pipeline import bronze, random_events
from tests.pipeline.bronze import Sent

DAY = timedelta(days=1)
GOOD = Sent(
    "purchase",
    user_id="u",
    site_id="shop",
    product_id="p",
    order_id="o",
    price=Decimal(5),
    quantity=1,
)


class Clock:
    """The server's clock, so much ahead of the real one."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quality(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings, clock: Clock) -> QualityReader:
    async def freshness(tenant: str, gold: Gold) -> Freshness:
        return Freshness(gold.time, 0.0, gold.last_commit)

    return QualityReader(engine, commit_log, settings, freshness, clock)


@pytest.fixture
async def runner(engine: ClickHouseEngine, commit_log: CommitLog, settings: Settings) -> AsyncIterator[PipelineRunner]:
    """An open runner whose loop is not started."""
    opened = PipelineRunner(engine, commit_log, settings)
    await opened.open()
    yield opened
    await opened.stop()


def now() -> datetime:
    return datetime.now(UTC)


def values(found: Quality) -> dict[tuple[str, str], float | None]:
    return {(each.check.name, each.check.field): each.value for every in found.findings.values() for each in every}


def of(found: Quality, name: str, field: str) -> Finding:
    every = (each for findings in found.findings.values() for each in findings)
    return next(each for each in every if (each.check.name, each.check.field) == (name, field))


async def reject(engine: ClickHouseEngine, log: CommitLog, *reasons: str) -> None:
    """A commit of rows that were not taken."""
    async with log.transaction() as transaction:
        rows = [
            {"tenant": "default", "commit": transaction.commit, "reason": reason, "ingest_time": transaction.time}
            for reason in reasons
        ]
        schema = pa.schema(
            [
                ("tenant", pa.string()),
                ("commit", pa.int64()),
                ("reason", pa.string()),
                ("ingest_time", pa.timestamp("us", "UTC")),
            ]
        )
        await engine.insert_arrow("rejected_events", pa.Table.from_pylist(rows, schema))
        await transaction.append(Entry("append", rejected=len(rows)))


# --- the same in plain Python ----------------------------------------------------------------------------------------

NOTHING = {" ", "-", "null", "NULL", "undefined", "(not set)"}


def share(rows: Sequence[Sent], faulty: Sequence[bool]) -> float | None:
    return sum(faulty) / len(rows) if rows else None


def expected(events: Sequence[Sent], stored: datetime) -> dict[tuple[str, str], float | None]:
    purchases = [e for e in events if e.event_type == "purchase"]
    of_products = [e for e in events if e.event_type in ("add_to_cart", "purchase", "refund")]
    priced = [e for e in events if e.price is not None]
    counted = [e for e in purchases if e.quantity is not None]

    def out_of_range(event: Sent) -> bool:
        price = event.price or Decimal(0)
        return not 0 <= (abs(price) if event.event_type == "refund" else price) <= 50

    return {
        ("null_rate", "user"): share(events, [not e.visitor for e in events]),
        ("null_rate", "timestamp"): 0,
        ("null_rate", "site_id"): share(events, [not e.site_id for e in events]),
        ("null_rate", "product_id"): share(of_products, [not e.product_id for e in of_products]),
        ("null_rate", "price"): share(purchases, [e.price is None for e in purchases]),
        ("null_rate", "order_id"): share(purchases, [not e.order_id for e in purchases]),
        ("empty_rate", "user"): share(events, [e.visitor in NOTHING for e in events]),
        ("empty_rate", "site_id"): share(events, [e.site_id in NOTHING for e in events]),
        ("empty_rate", "product_id"): share(of_products, [e.product_id in NOTHING for e in of_products]),
        ("empty_rate", "order_id"): share(purchases, [e.order_id in NOTHING for e in purchases]),
        ("empty_rate", "price"): share(purchases, [e.price == 0 for e in purchases]),
        ("out_of_range_rate", "price"): share(priced, [out_of_range(e) for e in priced]),
        ("out_of_range_rate", "quantity"): share(counted, [(e.quantity or 0) < 1 for e in counted]),
        ("unknown_rate", "event_type"): share(events, [e.event_type in ("odd", "search") for e in events]),
        ("foreign_rate", "currency"): share(purchases, [e.currency not in ("", "USD") for e in purchases]),
        ("future_rate", "timestamp"): share(events, [e.event_time > stored + DAY / 1440 for e in events]),
        ("backfilled_rate", "timestamp"): share(events, [e.event_time < stored - DAY for e in events]),
        ("expired_rate", "timestamp"): share(events, [e.event_time < stored - 90 * DAY for e in events]),
    }


def strange(chance: random.Random) -> Sent:
    """An event in which anything may be missing or wrong."""
    made = random_events.event(chance)
    return replace(
        made,
        event_type=chance.choice((made.event_type, "odd")),
        event_time=now() + timedelta(seconds=chance.choice((-3, 5, 7200, -7200, -2 * 86_400, -100 * 86_400))),
        tenant="default",
        user_id=chance.choice(("", "u1", "null")),
        site_id=chance.choice(("shop", "", "-")),
        product_id=chance.choice(("", "p", " ")),
        order_id=chance.choice(("", "o", "undefined")),
        price=chance.choice((None, Decimal(0), Decimal(5), Decimal(-5), Decimal("50.01"))),
    )


@pytest.mark.parametrize(
    "settings", [{"dq_price_max": 50, "dq_event_types": "page_view,add_to_cart,purchase,refund"}], indirect=True
)
@pytest.mark.parametrize("site_id", ["", "shop"])
async def test_checks_measure_what_was_received(
    engine: ClickHouseEngine, commit_log: CommitLog, quality: QualityReader, site_id: str
) -> None:
    chance = random.Random(7)
    events = [strange(chance) for _ in range(300)]
    for start in (0, 100, 200):
        await bronze.commit(engine, commit_log, events[start : start + 100])
    found = await quality.quality("default", site_id, DAY)
    own = [event for event in events if not site_id or event.site_id == site_id]
    wanted = expected(own, now())
    measured = {key: value for key, value in values(found).items() if key in wanted}
    assert measured == pytest.approx(wanted)
    assert len(wanted) == len(ROW_CHECKS), "every check is checked"
    assert found.events == len(own)
    assert found.reason == ""


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """With what a test sets besides."""
    changed = getattr(request, "param", {})
    return Settings(data_dir=settings.data_dir, grpc_port=0, http_port=0, fsync=False, **changed)


async def test_good_data_has_grade_a(
    engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner, quality: QualityReader
) -> None:
    events = [replace(GOOD, event_time=now() - timedelta(seconds=1), event_id=uuid.uuid4()) for _ in range(3)]
    await bronze.commit(engine, commit_log, events)
    await runner.run()
    found = await quality.quality("default", "", DAY)
    assert found.grade == "A"
    assert {found.status(each) for each in Dimension} == {Status.OK}
    assert of(found, "duplicate_rate", "event_id").value == 0
    lag = of(found, "ingestion_lag_p95", "timestamp").value
    assert lag is not None
    assert 1 <= lag < 10
    assert (await quality.quality("other", "", DAY)).events == 0


async def test_one_fault_of_each_dimension(
    engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner, quality: QualityReader, clock: Clock
) -> None:
    event = replace(GOOD, event_time=now())
    await bronze.commit(engine, commit_log, [event, event, replace(event, user_id="")])
    await bronze.commit(engine, commit_log, [replace(event, price=Decimal(20_000))])
    await runner.run()
    await reject(engine, commit_log, "INVALID_PRICE", "INVALID_PRICE", "INVALID_CURRENCY", "MISSING_EVENT_TYPE")
    clock.ahead = 30 * 60
    found = await quality.quality("default", "", DAY)
    assert of(found, "null_rate", "user").value == 1 / 4
    assert of(found, "out_of_range_rate", "price").value == 1 / 4
    assert of(found, "duplicate_rate", "event_id").value == 3 / 4  # all four have one id
    freshness = of(found, "freshness", "").value
    assert freshness == pytest.approx(30, abs=1)
    rejected = [e for e in found.findings[Dimension.CONSISTENCY] if e.check.name == "rejected_rate"]
    assert [(each.check.field, each.value) for each in rejected] == [
        ("", 4 / 8),
        ("INVALID_PRICE", 2 / 8),
        ("INVALID_CURRENCY", 1 / 8),
        ("MISSING_EVENT_TYPE", 1 / 8),
    ]
    wanted = [Status.WARNING, Status.FAILED, Status.WARNING, Status.FAILED]
    assert [found.status(each) for each in Dimension] == wanted
    assert found.grade == "F"


async def test_nothing_in_the_window(
    engine: ClickHouseEngine, commit_log: CommitLog, quality: QualityReader, clock: Clock
) -> None:
    none = await quality.quality("default", "", DAY)
    assert (none.grade, none.events, none.reason) == ("", 0, "no events yet")
    assert {each.status for every in none.findings.values() for each in every} == {Status.UNKNOWN}
    assert {none.status(each) for each in Dimension} == {Status.UNKNOWN}

    await bronze.commit(engine, commit_log, [replace(GOOD, event_time=now())])
    clock.ahead = 7200
    silent = await quality.quality("default", "", timedelta(hours=1))
    assert (silent.grade, silent.events, silent.reason) == ("", 0, "no events were stored in the window")
    assert of(silent, "freshness", "").value == pytest.approx(120, abs=1)
    assert silent.status(Dimension.TIMELINESS) is Status.FAILED, "a source that fell silent shows"
    assert (await quality.quality("default", "nowhere", DAY)).reason == "no events of this site yet"


async def test_a_field_that_no_event_has_is_not_in_use(
    engine: ClickHouseEngine, commit_log: CommitLog, quality: QualityReader
) -> None:
    await bronze.commit(
        engine, commit_log, [replace(GOOD, event_time=now(), order_id="", site_id="") for _ in range(3)]
    )
    found = await quality.quality("default", "", DAY)
    for field in ("order_id", "site_id"):
        each = of(found, "null_rate", field)
        assert (each.value, each.status) == (1, Status.UNKNOWN)
    assert found.status(Dimension.COMPLETENESS) is Status.OK


async def test_unprocessed_events_are_no_duplicates(
    engine: ClickHouseEngine, commit_log: CommitLog, runner: PipelineRunner, quality: QualityReader
) -> None:
    await bronze.commit(engine, commit_log, [replace(GOOD, event_time=now())])
    assert of(await quality.quality("default", "", DAY), "duplicate_rate", "event_id").value is None
    await runner.run()
    assert of(await quality.quality("default", "", DAY), "duplicate_rate", "event_id").value == 0


@pytest.mark.parametrize(("value", "status"), [(None, "unknown"), (10, "ok"), (10.1, "warning"), (120.1, "failed")])
def test_a_threshold_itself_still_passes(value: float | None, status: str) -> None:
    assert finding(PIPELINE_LAG, value).status == status


@pytest.mark.parametrize(
    ("statuses", "grade"),
    [
        ("ok ok ok ok", "A"),
        ("warning ok unknown ok", "B"),
        ("failed ok ok ok", "C"),
        ("failed warning ok warning", "E"),
    ],
)
def test_a_grade_is_lost_for_a_warning_and_two_for_a_failure(statuses: str, grade: str) -> None:
    findings = {
        dimension: [Finding(PIPELINE_LAG, 0.0, Status.OK), Finding(PIPELINE_LAG, 0.0, Status(status))]
        for dimension, status in zip(Dimension, statuses.split(), strict=True)
    }
    assert Quality(findings, 1, "").grade == grade
    assert Quality(findings, 0, "").grade == ""
