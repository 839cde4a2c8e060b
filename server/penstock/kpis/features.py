"""What is known of users: features for machine learning, of one user and of all together.

Everything is of one version of silver. Days are counted up to the version's own moment, its newest event; so the same
version has the same features whenever it is asked, and features of a replayed year are those of that year's end.

Scores are quintiles among all buyers (RFM; Hughes, Strategic Database Marketing, 1994). A value's place is the share of
buyers below it plus half of those that equal it, and the score is 1 + ⌊5 × place⌋. So equal values have equal scores,
without ties the scores cut the buyers into fifths, and where all are equal all are in the middle, 3. Values are
compared exactly: to the microsecond, and to the millionth of the currency.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from statistics import fmean, stdev
from string import Template

from penstock import limits
from penstock.errors import NotFound
from penstock.kpis.answers import Answers
from penstock.kpis.nothing import why_nothing
from penstock.settings import Settings
from penstock.storage.engine import Engine, Row
from penstock.storage.version import Version

DAYS = 30  # that features of all users together are over
_SCORED = ("recency", "frequency", "monetary")

_NEWEST = Template("""
SELECT toUnixTimestamp64Micro(event_time) AS micros
FROM silver_events
WHERE tenant = {tenant:String} AND $visible
ORDER BY event_time DESC
LIMIT 1
""")

# Orders are counted as gold does. An order without an id is its event, and event ids are unique in silver: counting
# those spares the column, half of what would be read.
_ORDERS = "uniqExactIf(order_id, $holds AND order_id != '') + countIf($holds AND order_id = '')"
_IS_PURCHASE = "event_type = 'purchase'"
_IS_PAID = "event_type = 'purchase' AND currency = {currency:String}"
_PURCHASES = _ORDERS.replace("$holds", _IS_PURCHASE)
_PAID_ORDERS = _ORDERS.replace("$holds", _IS_PAID)

# The least value that each score is given to, by dimension. A value's place doubled and times its count, so that the
# halves stay whole: (2 × below + equal) / (2 × all).
_SCORES = Template(f"""
WITH
    buyers AS
    (
        SELECT
            toDecimal128(toUnixTimestamp64Micro(max(silver.event_time)), 6) AS recency,
            toDecimal128({_PURCHASES}, 6) AS frequency,
            CAST(sumIf(silver.amount, silver.currency = {{currency:String}}), 'Decimal(38, 6)') AS monetary
        FROM silver_events AS silver
        WHERE silver.tenant = {{tenant:String}} AND $visible AND silver.event_type = 'purchase' AND silver.visitor != ''
        GROUP BY silver.visitor
    ),
    counted AS
    (
        SELECT dimension, value, count() AS equal
        FROM buyers
        ARRAY JOIN ['recency', 'frequency', 'monetary'] AS dimension, [recency, frequency, monetary] AS value
        GROUP BY dimension, value
    ),
    placed AS
    (
        SELECT
            dimension,
            value,
            equal,
            sum(equal) OVER (PARTITION BY dimension ORDER BY value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
                AS through,
            sum(equal) OVER (PARTITION BY dimension) AS all
        FROM counted
    )
SELECT dimension, 1 + intDiv(5 * (2 * through - equal), 2 * all) AS score, min(value) AS least
FROM placed
GROUP BY dimension, score
ORDER BY dimension, score
""")

_HOURS = "arrayMap(hour -> countEqual(groupArray(toHour(silver.event_time)), hour), range(24))"
_DAY_MICROS = "86400000000"

# One row a user, every column a feature under its name in the contract. A byte an event for the hours is the cheapest
# that was measured: 0.4 s of 0.9 for 5 million events, where sumMap took 1.2 s and an array of 24 sums 2.6 s.
USERS = Template(f"""
WITH users AS
(
    SELECT
        silver.visitor AS visitor,
        count() AS events,
        {_PURCHASES} AS orders,
        {_PAID_ORDERS} AS paid_orders,
        sumIf(silver.amount, {_IS_PAID}) AS spent,
        uniqExactIf(silver.product_id, silver.event_type = 'page_view' AND silver.product_id != '') AS viewed,
        {_HOURS} AS hours,
        toUnixTimestamp64Micro(min(silver.event_time)) AS first,
        toUnixTimestamp64Micro(max(silver.event_time)) AS last,
        toUnixTimestamp64Micro(maxIf(silver.event_time, {_IS_PURCHASE})) AS last_order
    FROM silver_events AS silver
    WHERE silver.tenant = {{tenant:String}} AND $visible AND $chosen
    GROUP BY silver.visitor
)
SELECT
    visitor AS user_id,
    events AS total_events,
    orders AS purchases,
    if(paid_orders = 0, NULL, toFloat64(spent) / paid_orders) AS avg_order_value,
    viewed AS unique_products_viewed,
    indexOf(hours, arrayMax(hours)) - 1 AS preferred_hour,
    greatest(0, {{reference:Int64}} - last) / {_DAY_MICROS} AS days_since_last_activity,
    events / greatest(1, ({{reference:Int64}} - first) / {_DAY_MICROS}) AS avg_events_per_day,
    if(orders = 0, NULL, greatest(0, {{reference:Int64}} - last_order) / {_DAY_MICROS}) AS recency,
    orders AS frequency,
    toFloat64(spent) AS monetary,
    if(orders = 0, 0, arrayCount(least -> last_order >= least, {{recency:Array(Decimal(38, 6))}})) AS recency_score,
    if(orders = 0, 0, arrayCount(least -> orders >= least, {{frequency:Array(Decimal(38, 6))}})) AS frequency_score,
    if(orders = 0, 0, arrayCount(least -> spent >= least, {{monetary:Array(Decimal(38, 6))}})) AS monetary_score
FROM users
WHERE last >= {{active_since:Int64}}
ORDER BY user_id
""")

_FIRST_DAY = Template("""
SELECT min(day) AS first
FROM
(
    SELECT DISTINCT toDate(minute, 'UTC') AS day
    FROM gold_events
    WHERE tenant = {tenant:String} AND $visible AND minute <= fromUnixTimestamp64Micro({reference:Int64}, 'UTC')
    ORDER BY day DESC
    LIMIT {days:UInt32}
)
""")
# With the total in the same pass: it merges the days' sets of users, not those of the minutes a second time.
_BY_DAY = Template("""
SELECT
    grouping(day) AS is_total,
    toDate(gold.minute, 'UTC') AS day,
    uniqExactMerge(gold.purchase_users) AS buyers,
    uniqExactMerge(gold.view_users) AS viewers,
    uniqExactMerge(gold.active_users) AS users,
    sumIf(gold.gmv, gold.currency = {currency:String}) AS gmv
FROM gold_kpis AS gold
WHERE gold.tenant = {tenant:String} AND $visible
    AND gold.minute >= {since:DateTime('UTC')} AND gold.minute <= fromUnixTimestamp64Micro({reference:Int64}, 'UTC')
GROUP BY day WITH ROLLUP
ORDER BY is_total, day
""")
# The newest row of a session ends last among its rows, so it is found whenever the session ends in the days.
_SESSIONS = Template("""
SELECT
    count() AS sessions,
    avg(toFloat64(dateDiff('microsecond', start_time, end_time))) / 1e6 AS seconds,
    avg(page_views) AS pages
FROM
(
    SELECT start_time, end_time, page_views, deleted
    FROM sessions
    WHERE tenant = {tenant:String} AND $visible AND end_time >= {since:DateTime('UTC')}
    ORDER BY actor, session_id, run DESC
    LIMIT 1 BY actor, session_id
)
WHERE NOT deleted AND start_time >= {since:DateTime('UTC')}
    AND start_time <= fromUnixTimestamp64Micro({reference:Int64}, 'UTC')
""")


@dataclass(frozen=True, slots=True)
class UserFeatures:
    """Of one user; what each is stands in the contract, under the same name. Amounts in the reporting currency."""

    user_id: str
    total_events: int
    purchases: int
    avg_order_value: float | None
    unique_products_viewed: int
    preferred_hour: int
    days_since_last_activity: float
    avg_events_per_day: float
    recency: float | None
    frequency: int
    monetary: float
    recency_score: int
    frequency_score: int
    monetary_score: int


@dataclass(frozen=True, slots=True)
class AggregateFeatures:
    """Of all users together, over the last days that have events."""

    avg_session_length: float | None  # seconds
    avg_pages_per_session: float | None
    avg_conversion_rate: float | None
    gmv_volatility: float | None
    users: int
    days: int


@dataclass(frozen=True, slots=True)
class Population:
    """What the features of each user are measured against, in one version."""

    reference: int  # microseconds since the epoch: up to here days are counted
    starts: Mapping[str, Sequence[Decimal]]  # by dimension: the least values of scores 1, 2, … as far as they are given

    @property
    def reference_time(self) -> datetime:
        """The same as a time."""
        return datetime.fromtimestamp(self.reference // 1_000_000, UTC).replace(microsecond=self.reference % 1_000_000)


@dataclass(frozen=True, slots=True)
class Features:
    """An answer: of one user, or of all together."""

    of: UserFeatures | AggregateFeatures
    reference_time: datetime | None  # None before the first event
    currency: str
    reason: str = ""  # why there are none; empty when there are


class FeatureReader:
    """Reads features; everything may raise Unavailable, TimedOut or Overloaded."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self.currency = settings.currency
        self._populations: Answers[Population | None] = Answers(limits.KPI_POPULATIONS_MAX)
        self._aggregates: Answers[Features] = Answers(limits.KPI_POPULATIONS_MAX)

    async def population(self, tenant: str, version: Version) -> Population | None:
        """What users are measured against, computed once a version; None before the first event."""
        key = (tenant, version.gold, version.cuts)
        return await self._populations.get(None, key, lambda: self._read_population(tenant, version))

    async def user(self, tenant: str, user_id: str, version: Version) -> Features:
        """The features of one user. Raises NotFound (USER_NOT_FOUND) for one without events."""
        population = await self.population(tenant, version)
        if population is not None:
            sql = users_sql(version, "silver.visitor = {user_id:String}")
            found = await self._engine.rows(sql, {**self.bounds(tenant, population), "user_id": user_id})
            if found:
                return Features(UserFeatures(**found[0]), population.reference_time, self.currency)
        raise NotFound(f"there are no events of user {user_id!r}", reason="USER_NOT_FOUND")

    async def aggregate(self, tenant: str, version: Version) -> Features:
        """The features of all users together, computed once a version."""
        key = (tenant, version.gold, version.cuts)
        return await self._aggregates.get(None, key, lambda: self._read_aggregate(tenant, version))

    def bounds(self, tenant: str, population: Population, active_since: int = 0) -> dict[str, object]:
        """The parameters of `users_sql`; `active_since` in microseconds since the epoch."""
        return {
            "tenant": tenant,
            "currency": self.currency,
            "reference": population.reference,
            "active_since": active_since,
            **{dimension: list(population.starts[dimension]) for dimension in _SCORED},
        }

    async def _read_population(self, tenant: str, version: Version) -> Population | None:
        if not version.gold.run or version.gold.time is None:
            return None
        visible = version.visible("silver_events")
        newest = await self._engine.rows(_NEWEST.substitute(visible=visible), {"tenant": tenant})
        if not newest:
            return None
        # A client whose clock is ahead must not make all others look idle.
        made = round(version.gold.time.timestamp() * 1e6)
        scores = await self._engine.rows(
            _SCORES.substitute(visible=version.visible("silver_events", "silver")),
            {"tenant": tenant, "currency": self.currency},
        )
        return Population(min(int(newest[0]["micros"]), made), _starts(scores))

    async def _read_aggregate(self, tenant: str, version: Version) -> Features:
        population = await self.population(tenant, version)
        if population is None:
            reason = await why_nothing(self._engine, tenant, version, "no events yet")
            return Features(AggregateFeatures(None, None, None, None, 0, 0), None, self.currency, reason)
        bounds = {
            "tenant": tenant,
            "currency": self.currency,
            "reference": population.reference,
            "since": f"{await self._first_day(tenant, version, population)} 00:00:00",
        }
        *days, total = await self._engine.rows(_BY_DAY.substitute(visible=version.visible("gold_kpis", "gold")), bounds)
        sessions = (await self._engine.rows(_SESSIONS.substitute(visible=version.visible("sessions")), bounds))[0]
        found = AggregateFeatures(
            avg_session_length=sessions["seconds"] if sessions["sessions"] else None,
            avg_pages_per_session=sessions["pages"] if sessions["sessions"] else None,
            avg_conversion_rate=_mean_conversion(days),
            gmv_volatility=_volatility([row["gmv"] for row in days]),
            users=total["users"],
            days=len(days),
        )
        return Features(found, population.reference_time, self.currency)

    async def _first_day(self, tenant: str, version: Version, population: Population) -> date:
        found = await self._engine.rows(
            _FIRST_DAY.substitute(visible=version.visible("gold_events")),
            {"tenant": tenant, "reference": population.reference, "days": DAYS},
        )
        first: date = found[0]["first"]
        return first


def users_sql(version: Version, chosen: str) -> str:
    """The features of the users for whose rows of `silver` the condition `chosen` holds."""
    return USERS.substitute(visible=version.visible("silver_events", "silver"), chosen=chosen)


def _starts(rows: Sequence[Row]) -> dict[str, list[Decimal]]:
    """Where scores begin; one that nobody has begins with the next that somebody has."""
    starts: dict[str, list[Decimal]] = {dimension: [] for dimension in _SCORED}
    for row in rows:
        known = starts[row["dimension"]]
        known += [row["least"]] * (row["score"] - len(known))
    return starts


def _mean_conversion(days: Sequence[Row]) -> float | None:
    rates = [row["buyers"] / row["viewers"] for row in days if row["viewers"]]
    return fmean(rates) if rates else None


def _volatility(gmv: Sequence[Decimal]) -> float | None:
    """The coefficient of variation, with the sample's standard deviation."""
    values = [float(each) for each in gmv]
    return stdev(values) / fmean(values) if len(values) > 1 and fmean(values) > 0 else None
