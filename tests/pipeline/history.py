"""A random history of a database, and what each version of it showed, kept apart from the database.

    history = await History.begin(engine, log, settings, seed=1)
    while len(history.copies) < 50:
        for version in await history.step():
            ...                                   # what you want to find again: take it now

Steps are appends with late events and duplicates, runs of the pipeline (of all, of one type, in small batches), daily
metrics, cleanups, and purges, due or not. `copies[version][tenant]` is what a plain Python model says that bronze,
silver, sessions, gold and daily show, by the names of their columns; `readable(tenant)` are the versions that no purge
took. The model deletes at once what a cleanup removes, and merges sets where the engine merges states.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from penstock.errors import Conflict
from penstock.pipeline.cleanup import Cleaner, Retention
from penstock.pipeline.daily import DailyCalculator
from penstock.pipeline.runner import PipelineRunner
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, Row
from penstock.storage.removals import parsed
from tests.pipeline import bronze, random_events
from tests.pipeline.bronze import START, Sent

TENANTS = ("default", "other")
DAYS = 5  # over which events lie, up to START's
Copy = dict[str, list[Row]]


@dataclass(slots=True)
class Clock:
    """What the cleaner takes for now."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass(slots=True)
class Alive:
    """The rows that are there, table by table, superseded ones too."""

    bronze: list[Row] = field(default_factory=list)
    silver: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    gold: list[Row] = field(default_factory=list)  # one for each run, minute, site and currency; its silver rows in it
    daily: list[Row] = field(default_factory=list)
    run: int = 0
    last_commit: int = 0

    def remove(self, tenant: str, cutoff: datetime, last_day: datetime, *, keep_aggregates: bool) -> None:
        """What a cleanup does."""

        def old(row: Row, column: str) -> bool:
            return bool(row["tenant"] == tenant and row[column] < cutoff)

        ahead = {r["run"] for r in self.silver if old(r, "event_time") and r["commit"] > self.last_commit}
        self.bronze = [r for r in self.bronze if not (old(r, "event_time") and r["commit"] <= self.last_commit)]
        self.silver = [r for r in self.silver if not (old(r, "event_time") and r["commit"] <= self.last_commit)]
        self.sessions = [r for r in self.sessions if not old(r, "end_time")]
        self.daily = [r for r in self.daily if not (r["tenant"] == tenant and r["date"] < last_day.date())]
        if not keep_aggregates:
            self.gold = [r for r in self.gold if not (old(r, "minute") and r["run"] not in ahead)]

    def copy(self, tenant: str) -> Copy:
        """What readers of a tenant see."""
        newest_session = _last((r for r in self.sessions if r["tenant"] == tenant), ("actor", "session_id"), "run")
        newest_day = _last((r for r in self.daily if r["tenant"] == tenant), ("date", "site_id"), "commit")
        return {
            "bronze": [r for r in self.bronze if r["tenant"] == tenant],
            "silver": [r for r in self.silver if r["tenant"] == tenant],
            "sessions": [r for r in newest_session if not r["deleted"]],
            "gold": _merged(r for r in self.gold if r["tenant"] == tenant),
            "daily": newest_day,
        }


class History:
    """A database that things happen to."""

    def __init__(self, engine: Engine, log: CommitLog, settings: Settings, seed: int) -> None:
        self._engine = engine
        self._log = log
        self._chance = random.Random(seed)
        self._clock = Clock()
        self._sent: list[Sent] = []
        self._alive = Alive()
        self._seen = 0
        self._oldest = dict.fromkeys(TENANTS, 0)
        self._cleaning: dict[str, Any] = {}
        self._travel = timedelta(days=settings.travel_days)
        self.runner = PipelineRunner(engine, log, settings)
        self.cleaner = Cleaner(engine, log, self.runner, settings, self._clock)
        self.daily = DailyCalculator(engine, log, settings)
        self.copies: dict[int, dict[str, Copy]] = {}
        self.operations: list[str] = []

    @classmethod
    async def begin(cls, engine: Engine, log: CommitLog, settings: Settings, *, seed: int) -> Self:
        """Over an empty database."""
        history = cls(engine, log, settings, seed)
        await history.runner.open()
        return history

    def readable(self, tenant: str) -> list[int]:
        """Versions that can still be read."""
        return [version for version in self.copies if version >= self._oldest[tenant]]

    def removed(self, tenant: str) -> list[int]:
        """Versions that a purge took."""
        return [version for version in self.copies if version < self._oldest[tenant]]

    async def step(self, kind: str = "") -> list[int]:
        """Something happens, of the given kind or any; the versions that came of it, none if nothing changed."""
        kinds = {
            "append": (self._append, 45),
            "run": (self._run, 22),
            "run of one type": (self._run_type, 8),
            "cleanup": (self._clean, 12),
            "daily": (self._day, 8),
            "purge": (self._purge, 5),
        }
        (chosen,) = self._chance.choices([*kinds], [weight for _, weight in kinds.values()])
        await kinds[kind or chosen][0]()
        return await self._note()

    async def _append(self) -> None:
        events = [self._event() for _ in range(self._chance.randrange(1, 20))]
        if self._sent:
            events += self._chance.choices(self._sent, k=self._chance.choice((0, 0, 1, 3)))
        if self._sent and self._chance.random() < 0.3:
            again = self._chance.choice(self._sent)
            events.append(replace(self._event(), event_id=again.event_id, tenant=again.tenant))
        self._sent += events
        await bronze.commit(self._engine, self._log, events)

    def _event(self) -> Sent:
        event = random_events.event(self._chance)
        days = timedelta(days=self._chance.choice((0, 0, 0, *range(DAYS))))
        return replace(
            event, event_id=uuid.UUID(int=self._chance.getrandbits(128), version=4), event_time=event.event_time - days
        )

    async def _run(self) -> None:
        await self.runner.run(rows_max=self._chance.choice((10, 40, 1_000)))

    async def _run_type(self) -> None:
        await self.runner.run(event_type=self._chance.choice(("page_view", "purchase", "search")))

    async def _day(self) -> None:
        day = START.date() - timedelta(days=self._chance.randrange(DAYS))
        with suppress(Conflict):  # part of that day was removed
            await self.daily.calculate(self._chance.choice(TENANTS), day)

    async def _clean(self) -> None:
        # What a cleanup takes ends with a quarter of an hour.
        cutoff = START - timedelta(minutes=15 * self._chance.randrange(-20, DAYS * 96))
        self._clock.now = cutoff + timedelta(days=1, seconds=self._chance.randrange(900))
        retention = Retention(1, self._chance.randrange(1, 4), keep_aggregates=self._chance.random() < 0.2)
        tenant = self._chance.choice(("default", "default", "other"))
        last_day = (self._clock.now - timedelta(days=retention.daily_days)).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        self._cleaning = {"cutoff": cutoff, "last_day": last_day, "keep_aggregates": retention.keep_aggregates}
        await self.cleaner.run(tenant, retention, dry_run=False, purge=self._chance.random() < 0.1)

    async def _purge(self) -> None:
        over = timedelta(days=1 if self._chance.random() < 0.3 else -1)
        self._clock.now = datetime.now(UTC) + self._travel + over
        await self.cleaner.purge_due()

    async def _note(self) -> list[int]:
        entries = await self._engine.rows(
            f"SELECT commit, operation, run, last_commit, detail FROM commits WHERE commit > {self._seen}"
            " ORDER BY commit"
        )
        for entry in entries:
            await self._apply(entry)
            self._seen = entry["commit"]
            self.copies[self._seen] = {tenant: self._alive.copy(tenant) for tenant in TENANTS}
            self.operations.append(entry["operation"])
        return [entry["commit"] for entry in entries]

    async def _apply(self, entry: Row) -> None:
        alive, detail = self._alive, parsed(entry["detail"])
        match entry["operation"]:
            case "append":
                alive.bronze += await self._rows("bronze_events", "commit", entry["commit"])
            case "etl":
                silver = await self._rows("silver_events", "run", entry["run"])
                alive.silver += silver
                alive.gold += _contributions(silver)
                alive.sessions += await self._rows("sessions", "run", entry["run"])
                alive.run, alive.last_commit = entry["run"], entry["last_commit"]
            case "daily":
                alive.daily += await self._rows("daily_metrics", "commit", entry["commit"])
            case "cleanup":
                alive.remove(
                    detail["tenant"],
                    **{k: v if k == "keep_aggregates" else _naive(v) for k, v in self._cleaning.items()},
                )
            case "purge":
                self._oldest[detail["tenant"]] = detail["through"]

    async def _rows(self, table: str, column: str, number: int) -> list[Row]:
        return await self._engine.rows(f"SELECT * FROM {table} WHERE {column} = {number}")


def _naive(time: datetime) -> datetime:
    return time.replace(tzinfo=None)  # as the engine gives times


def _last(rows: Iterable[Row], key: tuple[str, ...], by: str) -> list[Row]:
    return list({tuple(row[name] for name in key): row for row in sorted(rows, key=lambda row: row[by])}.values())


def _contributions(silver: list[Row]) -> list[Row]:
    """What one run adds to gold."""
    minutes: dict[tuple[str, datetime, str, str], list[Row]] = defaultdict(list)
    for row in silver:
        minute = row["event_time"].replace(second=0, microsecond=0)
        minutes[row["tenant"], minute, row["site_id"], row["currency"]].append(row)
    names = ("tenant", "minute", "site_id", "currency")
    return [
        {**dict(zip(names, key, strict=True)), "run": rows[0]["run"], "rows": rows} for key, rows in minutes.items()
    ]


def _merged(gold: Iterable[Row]) -> list[Row]:
    windows: dict[tuple[datetime, str, str], list[Row]] = defaultdict(list)
    for row in gold:
        windows[row["minute"], row["site_id"], row["currency"]] += row["rows"]
    return [
        {"minute": minute, "site_id": site_id, "currency": currency, **_figures(rows)}
        for (minute, site_id, currency), rows in windows.items()
    ]


def _figures(rows: list[Row]) -> Row:
    def of(*types: str) -> list[Row]:
        return [row for row in rows if row["event_type"] in types]

    def users(some: list[Row]) -> int:
        return len({row["visitor"] for row in some} - {""})

    bought, viewed, carted = of("purchase"), of("page_view"), of("add_to_cart")
    return {
        "orders": len({row["order_id"] or str(row["event_id"]) for row in bought}),
        "gmv": sum((row["amount"] for row in bought), Decimal("0.000000")),
        "refunds": sum((row["amount"] for row in of("refund")), Decimal("0.000000")),
        "purchases": len(bought),
        "page_views": len(viewed),
        "add_to_carts": len(carted),
        "events": len(rows),
        "purchase_users": users(bought),
        "view_users": users(viewed),
        "cart_users": users(carted),
        "active_users": users(rows),
    }
