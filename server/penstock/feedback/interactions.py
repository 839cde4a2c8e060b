"""What users did with products: stored in commits like everything else, each of a request once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from string import Template
from typing import Any

import pyarrow as pa

from penstock import failpoints, limits
from penstock.errors import invalid_field
from penstock.storage.commit_log import CommitLog, Entry, Transaction
from penstock.storage.engine import Engine, Lane, Row
from penstock.storage.group_commit import GroupCommit, Write

_KNOWN = """
SELECT user_id, request_id
FROM feedback
WHERE tenant = {tenant:String} AND user_id IN {users:Array(String)} AND request_id IN {requests:Array(String)}
"""
_LAST = Template("""
SELECT user_id, product_id, interaction_type, context, position, query, rating, request_id, event_time
FROM $feedback
WHERE user_id = {user_id:String} AND commit > {since:Int64}
ORDER BY event_time DESC, request_id
LIMIT {limit:UInt32}
""")
_SUMMARY = Template("""
SELECT count() AS interactions, min(event_time) AS first, max(event_time) AS last
FROM $feedback
WHERE user_id = {user_id:String}
""")
_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("commit", pa.int64()),
        ("user_id", pa.string()),
        ("product_id", pa.string()),
        ("interaction_type", pa.string()),
        ("context", pa.string()),
        ("position", pa.int32()),
        ("query", pa.string()),
        ("rating", pa.float64()),
        ("request_id", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("ingest_time", pa.timestamp("us", "UTC")),
    ]
)
_FIELDS = (
    *("user_id", "product_id", "interaction_type", "context", "position", "query", "rating", "request_id"),
    "event_time",
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction of a user with a product."""

    user_id: str
    product_id: str
    interaction_type: str  # VIEW, CLICK, LIKE, SHARE, ADD_TO_CART, PURCHASE, RATING
    event_time: datetime  # in UTC
    request_id: str
    context: str = ""  # FEED, SEARCH, SIMILAR, CATEGORY; empty: not said
    position: int | None = None
    query: str = ""
    rating: float | None = None  # of RATING, 1 to 5


@dataclass(frozen=True, slots=True)
class Summary:
    """How much there is of a user."""

    interactions: int
    first: datetime | None = None  # None where there is nothing
    last: datetime | None = None


@dataclass(slots=True)
class _Sent:
    """What one call wants to store; `fresh` is what of it was new in the last commit that was tried."""

    tenant: str
    interactions: Sequence[Interaction]
    fresh: list[Interaction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a call's interactions."""

    fresh: Sequence[Interaction]  # those that had not been stored before
    commit: int  # 0 when there are none


class Interactions:
    """Stores interactions and reads them back."""

    def __init__(self, engine: Engine, commit_log: CommitLog) -> None:
        self._engine = engine
        self._log = commit_log
        self._commits: GroupCommit[_Sent] = GroupCommit(
            commit_log, name="feedback", store=self._store, landed=self._landed
        )

    def start(self) -> None:
        """Begins to commit."""
        self._commits.start()

    async def stop(self) -> None:
        """Commits what waits, and ends."""
        await self._commits.stop()

    async def store(self, tenant: str, interactions: Sequence[Interaction]) -> Stored:
        """Stores those whose request was not stored before. Raises Overloaded, Unavailable."""
        sent = _Sent(tenant, interactions)
        commit = await self._commits.write(sent, len(interactions))
        return Stored(sent.fresh, commit if sent.fresh else 0)  # the commit may be of others alone

    async def last(self, tenant: str, user_id: str, limit: int, *, since: int = 0) -> list[Interaction]:
        """The user's newest interactions that came after a commit, the newest first. Raises Unavailable."""
        relation = self._log.version.relation("feedback")
        rows = await self._engine.rows(
            _LAST.substitute(feedback=relation),
            {"tenant": tenant, "user_id": user_id, "limit": limit, "since": since},
        )
        return [_interaction(row) for row in rows]

    async def summary(self, tenant: str, user_id: str) -> Summary:
        """How much is stored of the user, and from when. Raises Unavailable."""
        relation = self._log.version.relation("feedback")
        found = (
            await self._engine.rows(_SUMMARY.substitute(feedback=relation), {"tenant": tenant, "user_id": user_id})
        )[0]
        if not found["interactions"]:
            return Summary(0)
        return Summary(
            int(found["interactions"]), found["first"].replace(tzinfo=UTC), found["last"].replace(tzinfo=UTC)
        )

    async def _store(self, writes: Sequence[Write[_Sent]], transaction: Transaction) -> Entry | None:
        seen = await self._known(writes)
        rows: list[Mapping[str, Any]] = []
        for write in writes:
            sent = write.item
            sent.fresh = []
            for each in sent.interactions:
                key = (sent.tenant, each.user_id, each.request_id)
                if key not in seen:
                    seen.add(key)
                    sent.fresh.append(each)
                    rows.append(_row(sent.tenant, each, transaction))
        if not rows:
            return None
        failpoints.reached("feedback.before_insert")
        await self._engine.insert_arrow("feedback", pa.Table.from_pylist(rows, _SCHEMA), lane=Lane.COMMIT)
        failpoints.reached("feedback.before_log")
        return Entry("feedback", rows=len(rows))

    async def _known(self, writes: Sequence[Write[_Sent]]) -> set[tuple[str, str, str]]:
        """Requests that are stored already, of tenant, user and request id."""
        asked: dict[str, dict[str, set[str]]] = {}
        for write in writes:
            for each in write.item.interactions:
                of = asked.setdefault(write.item.tenant, {"users": set(), "requests": set()})
                of["users"].add(each.user_id)
                of["requests"].add(each.request_id)
        known: set[tuple[str, str, str]] = set()
        for tenant, of in asked.items():
            # Everything that is on disk counts: within a transaction nothing is there that was not committed.
            found = await self._engine.rows(
                _KNOWN,
                {"tenant": tenant, "users": sorted(of["users"]), "requests": sorted(of["requests"])},
                lane=Lane.COMMIT,
            )
            known |= {(tenant, row["user_id"], row["request_id"]) for row in found}
        return known

    async def _landed(self, writes: Sequence[Write[_Sent]], commit: int, time: datetime) -> None:
        failpoints.reached("feedback.before_ack")


def check_time(field_name: str, time: datetime) -> None:
    """Raises InvalidInput for a time at which nothing can have happened."""
    seconds = time.timestamp()
    if seconds < limits.EVENT_TIME_SECONDS_MIN:
        raise invalid_field(field_name, "must be 2000-01-01 or later: the clock was never set")
    if seconds > datetime.now(UTC).timestamp() + limits.EVENT_FUTURE_SECONDS_MAX:
        raise invalid_field(field_name, "is more than a day ahead")


def _row(tenant: str, each: Interaction, transaction: Transaction) -> Mapping[str, Any]:
    return {
        "tenant": tenant,
        "commit": transaction.commit,
        "ingest_time": transaction.time,
        **{name: getattr(each, name) for name in _FIELDS},
    }


def _interaction(row: Row) -> Interaction:
    return Interaction(**{**row, "event_time": row["event_time"].replace(tzinfo=UTC)})
