"""The tables that can be looked back at: their columns, their order, and the SQL that reads them as of a version.

Every statement is put together for one version, binds `{tenant:String}` and `{limit:UInt32}`, and takes a condition on
the columns that it shows. Rows come in an order that tells any two of them apart, so that a page can begin behind the
last row of the page before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from string import Template

from penstock.storage.version import Version

FIGURES = (
    *("orders", "gmv", "refunds", "purchases", "page_views", "add_to_carts", "events"),
    *("purchase_users", "view_users", "cart_users", "active_users"),
)
UNIQUES = frozenset({"orders", "purchase_users", "view_users", "cart_users", "active_users"})


class Kind(Enum):
    """What the values of a column are."""

    STRING = "string"
    UUID = "uuid"
    TIMESTAMP = "timestamp"
    DATE = "date"
    INTEGER = "integer"
    NUMBER = "number"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    MAP = "map"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    kind: Kind
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    name: str
    columns: Sequence[Column]
    order: Sequence[str]  # columns that tell rows apart
    descending: bool
    statement: Template
    stored: str  # what it is made of

    def column(self, name: str) -> Column | None:
        """The column of that name; None when there is none."""
        return next((column for column in self.columns if column.name == name), None)

    def sql(self, version: Version, condition: str, names: Iterable[str]) -> str:
        """The statement as of a version, for the rows for which a condition on the columns `names` holds."""
        direction = " DESC" if self.descending else ""
        figures = sorted({*names} & {*FIGURES})
        relation, visible = version.relation(self.stored), version.visible(self.stored, "g")
        by_figures = {"visible": visible, "figures": ", ".join(_merged(name) for name in figures)}
        return self.statement.substitute(
            columns=", ".join(column.name for column in self.columns),
            relation=relation,
            visible=visible,
            windows=_WINDOWS_BY_FIGURES.substitute(by_figures) if figures else relation,
            condition=condition,
            order=", ".join(f"{name}{direction}" for name in self.order),
        )


def _merged(figure: str) -> str:
    return f"{'uniqExactMerge' if figure in UNIQUES else 'sum'}(g.{figure}) AS {figure}"


def _columns(**kinds: str) -> list[Column]:
    """Columns by name and kind; a question mark behind the kind allows null."""
    return [Column(name, Kind(kind.removesuffix("?")), kind.endswith("?")) for name, kind in kinds.items()]


_PLAIN = Template("""
SELECT $columns
FROM $relation
WHERE $condition
ORDER BY $order
LIMIT {limit:UInt32}
""")

# All figures are merged for the windows of the page alone. Which those are is found out first, with no more figures
# than the condition asks for: with all of them, `gmv > 100` took 3 s over 150,000 rows of gold, so 0.15 s. Without any,
# reading stops where the page is full.
_WINDOWS_BY_FIGURES = Template("""(
            SELECT g.minute AS minute, g.site_id AS site_id, g.currency AS currency, $figures
            FROM gold_kpis AS g
            WHERE g.tenant = {tenant:String} AND $visible
            GROUP BY minute, site_id, currency
        )""")
_GOLD = Template(f"""
SELECT $columns
FROM
(
    SELECT g.minute AS minute, g.site_id AS site_id, g.currency AS currency,
        {", ".join(_merged(figure) for figure in FIGURES)}
    FROM gold_kpis AS g
    WHERE g.tenant = {{tenant:String}} AND $visible AND (g.minute, g.site_id, g.currency) IN
    (
        SELECT DISTINCT minute, site_id, currency
        FROM $windows
        WHERE $condition
        ORDER BY $order
        LIMIT {{limit:UInt32}}
    )
    GROUP BY minute, site_id, currency
)
ORDER BY $order
""")

_TEXTS = dict.fromkeys(("user_id", "visitor_id", "session_id", "site_id", "product_id", "order_id"), "string")
_UTM = dict.fromkeys(("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"), "string")

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "bronze",
            _columns(
                commit="integer",
                stream_id="string",
                offset="integer",
                event_id="uuid",
                event_type="string",
                event_time="timestamp",
                **_TEXTS,
                price="decimal?",
                quantity="integer?",
                currency="string",
                url="string",
                path="string",
                referrer="string",
                **_UTM,
                properties="map",
                ingest_time="timestamp",
                client_address="string",
                user_agent="string",
            ),
            order=("commit", "stream_id", "offset"),
            descending=True,
            statement=_PLAIN,
            stored="bronze_events",
        ),
        Table(
            "silver",
            _columns(
                run="integer",
                commit="integer",
                event_id="uuid",
                event_type="string",
                event_time="timestamp",
                ingest_time="timestamp",
                visitor="string",
                **_TEXTS,
                price="decimal?",
                quantity="integer",
                amount="decimal",
                currency="string",
                path="string",
                referrer="string",
                **_UTM,
                properties="map",
                user_agent="string",
            ),
            order=("event_time", "event_id"),
            descending=True,
            statement=_PLAIN,
            stored="silver_events",
        ),
        Table(
            "sessions",
            _columns(
                run="integer",
                actor="string",
                session_id="string",
                site_id="string",
                visitor="string",
                start_time="timestamp",
                end_time="timestamp",
                page_views="integer",
                events="integer",
                landing_page="string",
                exit_page="string",
                utm_source="string",
                utm_medium="string",
                utm_campaign="string",
                converted="boolean",
            ),
            order=("actor", "session_id"),
            descending=False,
            statement=_PLAIN,
            stored="sessions",
        ),
        Table(
            "gold",
            _columns(
                minute="timestamp",
                site_id="string",
                currency="string",
                **{name: "decimal" if name in ("gmv", "refunds") else "integer" for name in FIGURES},
            ),
            order=("minute", "site_id", "currency"),
            descending=True,
            statement=_GOLD,
            stored="gold_kpis",
        ),
        Table(
            "daily",
            _columns(
                date="date",
                site_id="string",
                commit="integer",
                sessions="integer",
                visitors="integer",
                page_views="integer",
                bounce_rate="number?",
                average_session_seconds="number?",
                orders="integer",
                gmv="decimal",
                currency="string",
                conversion_rate="number?",
                top_pages="list",
                sources="list",
            ),
            order=("date", "site_id"),
            descending=True,
            statement=_PLAIN,
            stored="daily_metrics",
        ),
    )
}
