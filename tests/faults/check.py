"""Holds what is stored against what was sent and what was promised; says everything that is wrong."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from penstock.storage.engine import Row
from tests.faults import model
from tests.faults.model import Fact
from tests.faults.plan import Row as Sent
from tests.faults.stored import Stored
from tests.faults.writers import Record

SHOWN = 4  # differences of one kind


def check(stored: Stored, streams: Sequence[Record], collects: Sequence[Record]) -> list[str]:
    """What is wrong, in words; nothing when all promises were kept."""
    found = [*_log(stored), *_rows_of_commits(stored)]
    for record in streams:
        found += _stream(stored, record)
    found += _default_stream(stored, collects)
    found += _only_these(stored, {record.plan.stream_id for record in streams} | {""})
    if found:
        return found  # what is built on wrong rows is wrong too
    facts = _facts(stored, streams, collects)
    return [*_silver(stored, facts), *_gold(stored, facts)]


def _log(stored: Stored) -> list[str]:
    """Numbers and times rise, streams advance without gaps, runs follow each other."""
    found = []
    ends: dict[str, int] = {}
    before: Row = {"commit": 0, "time": 0}
    gold: Row = {"run": 0, "last_commit": 0}
    for row in stored.commits:
        if row["commit"] <= before["commit"] or row["time"] <= before["time"]:
            found.append(f"commit {row['commit']} does not come behind commit {before['commit']}")
        before = row
        for stream, first, following, accepted, rejected in row["streams"]:
            if stream and first != ends.get(stream, 0):
                found.append(
                    f"commit {row['commit']} moves {stream} from {first}, which stood at {ends.get(stream, 0)}"
                )
            if following - first != accepted + rejected:
                found.append(
                    f"commit {row['commit']}: {stream} moved by {following - first} for {accepted}+{rejected} rows"
                )
            ends[stream] = following
        if row["operation"] == "etl":
            if row["run"] <= gold["run"] or row["first_commit"] <= gold["last_commit"]:
                found.append(f"commit {row['commit']}: run {row['run']} does not come behind run {gold['run']}")
            gold = row
    return _some("log", found)


def _rows_of_commits(stored: Stored) -> list[str]:
    """Every row belongs to a commit or run of the log, which counts it; after an orderly stop no others are left."""
    appends = {row["commit"]: row for row in stored.commits if row["operation"] == "append"}
    counted = {number: (row["rows"], row["rejected"]) for number, row in appends.items()}
    good, bad = (Counter(row["commit"] for row in table) for table in (stored.bronze, stored.rejected))
    present = {number: (good[number], bad[number]) for number in {*appends, *good, *bad}}
    found = _differences("rows of commit", counted, present)
    found += _some("receive time", [
        f"{row['name']} has not its commit's time" for row in stored.bronze
        if row["commit"] in appends and row["received"] != appends[row["commit"]]["time"]
    ])  # fmt: skip
    runs = {row["run"] for row in stored.commits if row["operation"] == "etl"}
    for name, rows in (("silver", stored.silver), ("silver_ids", stored.silver_ids)):
        found += _some(
            name, [f"a row of run {row['run']}, which never ended" for row in rows if row["run"] not in runs]
        )
    newest = max(runs, default=0)
    made = (stored.gold_kpis, stored.gold_events, stored.visit_totals, stored.sessions)
    for name, rows in zip(("gold_kpis", "gold_events", "gold_visits", "sessions"), made, strict=True):
        found += _some(name, [f"a row of run {row['run']}, beyond the last" for row in rows if row["run"] > newest])
    return found


def _stream(stored: Stored, record: Record) -> list[str]:
    """Exactly once: each row that was stored at its offset, no offset twice, no gap, no more than was sent."""
    plan, stream = record.plan, record.plan.stream_id
    good = [row for row in stored.bronze if row["stream_id"] == stream]
    bad = [row for row in stored.rejected if row["stream_id"] == stream]
    offsets = Counter(row["offset"] for row in (*good, *bad))
    end = max(offsets, default=-1) + 1
    found = [f"{stream}: offset {offset} is there {times} times" for offset, times in offsets.items() if times != 1]
    found += [f"{stream}: offset {offset} is missing" for offset in range(end) if offset not in offsets]
    if end < record.promised:
        found.append(f"{stream}: rows up to {record.promised} were acknowledged, {end} are stored")
    if end > record.sent_end or (record.finished and end != record.sent_end):
        found.append(f"{stream}: rows up to {record.sent_end} were sent, {end} are stored")
    if not any(plan.batch(index).end == end for index in range(record.sent)) and end:
        found.append(f"{stream}: it ends at {end}, in the middle of a batch")
    for row in good:
        sent = plan.row_at(row["offset"])
        if (row["name"], "") != (sent.name, sent.reason):
            found.append(f"{stream}: {row['name']} is at offset {row['offset']} in place of {sent.name} {sent.reason}")
    for row in bad:
        sent = plan.row_at(row["offset"])
        if (row["name"], row["reason"]) != (sent.name, sent.reason):
            found.append(f"{stream}: {row['name']} was rejected as {row['reason']}, not {sent.name} as {sent.reason!r}")
    return _some(stream, found) + _some(stream, _acknowledged_commits(record, good))


def _acknowledged_commits(record: Record, rows: Iterable[Row]) -> Iterable[str]:
    """The commit in an acknowledgement is the one that the rows are in."""
    commits = {row["name"]: row["commit"] for row in rows}
    for index, commit in record.commits.items():
        for row in record.plan.batch(index).rows:
            if not row.reason and commits.get(row.name) != commit:
                yield f"{row.name} was acknowledged in commit {commit}, it is in {commits.get(row.name)}"


def _default_stream(stored: Stored, records: Sequence[Record]) -> list[str]:
    """At least once: everything acknowledged is there, and nothing that was not sent."""
    rows = [row for row in stored.bronze if not row["stream_id"]]
    rejected = [row for row in stored.rejected if not row["stream_id"]]
    sent = {
        row.name: row for record in records for index in range(record.sent) for row in record.plan.batch(index).rows
    }
    places = Counter((row["commit"], row["offset"]) for row in (*rows, *rejected))
    found = [f"default stream: {place} is there {times} times" for place, times in places.items() if times != 1]
    taken = [(row["name"], "") for row in rows] + [(row["name"], row["reason"]) for row in rejected]
    for name, reason in taken:
        if name not in sent or sent[name].reason != reason:
            found.append(f"default stream: {name} is there with reason {reason!r}, and was not sent so")
    times = defaultdict(set)
    for row in (*rows, *rejected):
        times[row["name"]].add(row["commit"])
    for record in records:
        for index, commit in record.commits.items():
            lost = [row.name for row in record.plan.batch(index).rows if commit and commit not in times[row.name]]
            found += [f"default stream: {name} was acknowledged in commit {commit} and is not there" for name in lost]
    return _some("default stream", found)


def _only_these(stored: Stored, streams: set[str]) -> list[str]:
    others = {row["stream_id"] for row in (*stored.bronze, *stored.rejected)} - streams
    tenants = {row["tenant"] for row in stored.bronze} - {"default"}
    return [f"nobody wrote {name!r}" for name in sorted(others | tenants)]


def _facts(stored: Stored, streams: Sequence[Record], collects: Sequence[Record]) -> list[Fact]:
    """The stored rows, but as they were sent."""
    plans = {record.plan.stream_id: record.plan for record in streams}
    named: dict[str, Sent] = {
        row.name: row for record in collects for index in range(record.sent) for row in record.plan.batch(index).rows
    }
    facts = []
    for row in stored.bronze:
        stream = row["stream_id"]
        sent = plans[stream].row_at(row["offset"]) if stream else named[row["name"]]
        event_id = sent.event.event_id or row["event_id"]
        # A single call is received when it comes, which its answer says; a batch of a stream when it is committed.
        received = row["received"] if stream else min(row["time"], row["received"])
        facts.append(Fact(sent.event, event_id, row["commit"], stream, row["offset"], received))
    return facts


def _silver(stored: Stored, facts: Sequence[Fact]) -> list[str]:
    bronze = {(row["stream_id"], row["commit"], row["offset"]): _bronze_row(row) for row in stored.bronze}
    found = _differences("bronze", {(f.stream_id, f.commit, f.offset): _bronze_fact(f) for f in facts}, bronze)
    if len(stored.silver) != len({row["event_id"] for row in stored.silver}):
        twice = [event_id for event_id, times in Counter(r["event_id"] for r in stored.silver).items() if times > 1]
        found += _some("silver", [f"{event_id} is there more than once" for event_id in twice])
    expected = {event_id: _silver_fact(fact) for event_id, fact in model.silver(facts).items()}
    found += _differences("silver", expected, {row["event_id"]: _silver_row(row) for row in stored.silver})
    ids = Counter(row["event_id"] for row in stored.silver_ids)
    return found + _differences("silver_ids", dict.fromkeys(expected, 1), ids)


def _gold(stored: Stored, facts: Sequence[Fact]) -> list[str]:
    events = model.silver(facts).values()
    by_minute = model.kpis_by_minute(events)
    found = _differences(
        "gold_kpis by minute, site, currency",
        {key: (*each.totals(), *each.counts()) for key, each in by_minute.items()},
        {(r["minute"], r["site_id"], r["currency"]): (*_totals(r), *_counts(r)) for r in stored.gold_kpis},
    )
    found += _differences(
        "gold_kpis over all time, by currency",
        {key: each.totals() for key, each in model.kpis_by_currency(events).items()},
        {row["currency"]: _totals(row) for row in stored.gold_totals},
    )
    found += _differences(
        "gold_visits over all time, by currency",
        {key: each.totals() for key, each in model.kpis_by_currency(events).items()},
        {row["currency"]: _totals(row) for row in stored.visit_totals},
    )
    found += _differences(
        "gold_events",
        model.events_by_minute(events),
        {(row["minute"], row["site_id"], row["event_type"]): row["events"] for row in stored.gold_events},
    )
    expected = Counter(model.sessions(events))
    present = Counter(
        (r["actor"], r["start"], r["end"], r["events"], r["page_views"], bool(r["converted"])) for r in stored.sessions
    )
    return found + _differences("sessions", expected, present)


def _pick(*names: str) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: tuple(row[name] for name in names)


_totals = _pick("gmv", "refunds", "orders", "purchase_users", "view_users", "cart_users", "active_users")
_counts = _pick("purchases", "page_views", "add_to_carts", "events")
_bronze_row = _pick(
    "name", "event_id", "event_type", "time", "user_id", "visitor_id", "session_id", "site_id", "order_id", "price",
    "quantity", "currency", "path",
)  # fmt: skip
_silver_row = _pick(
    "name", "commit", "event_type", "time", "visitor", "session_id", "site_id", "order_id", "amount", "currency", "path"
)


def _bronze_fact(fact: Fact) -> tuple[object, ...]:
    event = fact.event
    quantity = event.quantity if event.HasField("quantity") else None
    return (
        event.properties["row"], fact.event_id, event.event_type, fact.time, event.user_id, event.visitor_id,
        event.session_id, event.site_id, event.order_id, fact.price, quantity, event.currency.upper(), event.path,
    )  # fmt: skip


def _silver_fact(fact: Fact) -> tuple[object, ...]:
    event = fact.event
    return (
        event.properties["row"], fact.commit, fact.kind, fact.time, fact.visitor, event.session_id, event.site_id,
        event.order_id, fact.amount, fact.currency, event.path,
    )  # fmt: skip


def _differences(what: str, expected: Mapping[Any, object], present: Mapping[Any, object]) -> list[str]:
    found = [f"{key} is missing: {expected[key]}" for key in expected if key not in present]
    found += [f"{key} should not be there: {present[key]}" for key in present if key not in expected]
    found += [
        f"{key} is {present[key]}, should be {expected[key]}"
        for key in expected
        if key in present and present[key] != expected[key]
    ]
    return _some(what, found)


def _some(what: str, found: Iterable[str]) -> list[str]:
    every = list(found)
    more = [f"{what}: and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return [f"{what}: {text}" for text in every[:SHOWN]] + more
