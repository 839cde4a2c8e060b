"""Where aggregates are read from: for each the cheapest table that answers exactly.

Gold has some aggregates ready by minute, site and currency, and the number of events by minute, site and type. By
where visitors came from and what they used it has them by quarter of an hour and visitor. Silver has everything about
events, sessions what is about sessions. Which table answers never changes an answer, only its cost, so each aggregate
is read by itself and the rows are joined on window and dimensions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from string import Template

from penstock import limits
from penstock.kpis import experiments
from penstock.kpis.expression import MetricType, compiled
from penstock.kpis.fields import VISIT_FIELDS, Bindings, Field, Source, dimension, experiment_of, text_sql
from penstock.kpis.formula import Aggregate, Compared, Comparison, Condition, Function, aggregate_sql, condition_sql
from penstock.kpis.grain import Even, Windows
from penstock.pipeline.visits import QUARTER_S
from penstock.storage.version import Version

MICROS = 1_000_000
MINUTE_MICROS = 60 * MICROS
VISITS_FROM_MICROS = 86_400 * MICROS  # in less time people come once, and their visits are no fewer than their minutes
GOLD_END_MICROS = 4_294_967_220 * MICROS  # behind the last whole minute of ClickHouse's DateTime


class Table(StrEnum):
    """What is read, the cheapest first."""

    GOLD_EVENTS = "gold_events"
    GOLD_KPIS = "gold_kpis"
    GOLD_VISITS = "gold_visits"
    SILVER = "silver_events"
    SESSIONS = "sessions"


_GOLD_DIMENSIONS = {
    Table.GOLD_EVENTS: frozenset({"site", "event_type"}),
    Table.GOLD_KPIS: frozenset({"site", "currency"}),
    Table.GOLD_VISITS: frozenset(VISIT_FIELDS),
}
# The time that a row of them is of, and for how many seconds.
_GOLD_TIME = {Table.GOLD_EVENTS: "minute", Table.GOLD_KPIS: "minute", Table.GOLD_VISITS: "quarter"}
_GOLD_SECONDS = {Table.GOLD_EVENTS: 60, Table.GOLD_KPIS: 60, Table.GOLD_VISITS: QUARTER_S}
# What gold_kpis has ready, by what it is; gold_visits has the counters, the amounts and the orders.
_COUNTERS = {
    "count()": "events",
    "count(event_type = 'page_view')": "page_views",
    "count(event_type = 'add_to_cart')": "add_to_carts",
    "count(event_type = 'purchase')": "purchases",
}
_AMOUNTS = {"sum(amount, event_type = 'purchase')": "gmv", "sum(amount, event_type = 'refund')": "refunds"}
_SETS = {
    "unique(order, event_type = 'purchase')": "orders",
    "unique(visitor, event_type = 'purchase')": "purchase_users",
    "unique(visitor, event_type = 'page_view')": "view_users",
    "unique(visitor, event_type = 'add_to_cart')": "cart_users",
    "unique(visitor)": "active_users",
}

# Whom of a visit's row the sets of gold_kpis have.
_VISITORS = {
    "purchase_users": "purchases > 0",
    "view_users": "page_views > 0",
    "cart_users": "add_to_carts > 0",
    "active_users": "events > 0",
}

_STATEMENT = Template("""
SELECT
    $columns
FROM $relation
WHERE $conditions
$grouping
""")
_OUTER = Template("""
SELECT
    $columns
FROM ($groups)
$windows""")


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a dimension."""

    dimension: str
    comparison: Comparison
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events or sessions, and how they are split."""

    tenant: str
    version: Version
    windows: Windows | Even
    dimensions: tuple[str, ...]
    filters: tuple[Filter, ...]
    currency: str  # that amounts are in; empty where they are split by currency

    @property
    def used(self) -> tuple[str, ...]:
        """The dimensions that it is split or filtered by, each once."""
        return tuple(dict.fromkeys((*self.dimensions, *(each.dimension for each in self.filters))))

    @property
    def experiments(self) -> tuple[str, ...]:
        """Those whose variants are among them."""
        return tuple(filter(None, map(experiment_of, self.used)))

    def total(self) -> "Selection":
        """The same as one window, not split."""
        return replace(self, windows=self.windows.whole(), dimensions=())


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL of some aggregates: rows of `w`, `d0` …, `a0` … and `t0` …, at most one more than are allowed."""

    sql: str
    bindings: Mapping[str, object]
    aggregates: tuple[Aggregate, ...]
    split: int  # so many dimensions
    windows: Windows | Even  # in `w` stands a window's number, or where they are not regular its start in `unit`
    unit: int
    totals: tuple[Aggregate, ...] = ()  # uniques over all windows and dimensions, the same in every row

    def number_of(self) -> Mapping[int, int] | None:
        """The windows' numbers by what stands in `w`; None where that is the number itself."""
        if len(self.windows) == 1 or self.windows.regular is not None:
            return None
        # Of windows that begin together only the last is not empty.
        return {start // self.unit: number for number, start in enumerate(self.windows.starts)}


def statements(selection: Selection, aggregates: Sequence[Aggregate], *, total: bool = False) -> list[Statement]:
    """What to run for the aggregates' values in each window and combination of dimensions.

    With `total` also for the uniques of all of them; other aggregates just add up.
    """
    chosen = _assigned(selection, aggregates)
    make = _statement_with_total if total else _statement
    return [make(selection, table, found) for table, found in chosen.items()]


def running_statements(selection: Selection, aggregates: Sequence[Aggregate]) -> list[Statement]:
    """The same from the start of the range up to each window's end, for uniques; other aggregates just add up."""
    uniques = [aggregate for aggregate in aggregates if aggregate.function is Function.UNIQUE]
    chosen = _assigned(selection, uniques)
    return [_running(selection, table, found) for table, found in chosen.items()]


def _assigned(selection: Selection, aggregates: Iterable[Aggregate]) -> dict[Table, list[Aggregate]]:
    """Each aggregate's table, as few tables as that takes: a statement costs milliseconds before it reads a row."""
    possible = {aggregate: _tables(selection, aggregate) for aggregate in aggregates}
    needed = {tables[0] for tables in possible.values()}
    chosen: dict[Table, list[Aggregate]] = {}
    for aggregate, tables in possible.items():
        # What gold_events has costs nothing more where gold_kpis is read anyway.
        beside = tables[0] is Table.GOLD_EVENTS and Table.GOLD_KPIS in needed and Table.GOLD_KPIS in tables
        chosen.setdefault(Table.GOLD_KPIS if beside else tables[0], []).append(aggregate)
    return chosen


def _tables(selection: Selection, aggregate: Aggregate) -> list[Table]:
    """The tables that can answer, the cheapest first."""
    if aggregate.source is Source.SESSIONS:
        return [Table.SESSIONS]
    used = frozenset(selection.used)
    gold = [
        table
        for table, known in _GOLD_DIMENSIONS.items()
        if used <= known and selection.windows.of_whole(_GOLD_SECONDS[table]) and _ready(table, aggregate)
    ]
    if Table.GOLD_VISITS in gold and _is_long(selection.windows) and _gold_columns()[_plain(aggregate)] in _VISITORS:
        # A month's sets of users by minute took 450 ms to merge where its visits took 110.
        gold.sort(key=lambda table: table is not Table.GOLD_VISITS)
    return [*gold, Table.SILVER]


def _is_long(windows: Windows | Even) -> bool:
    return windows.end - windows.start >= VISITS_FROM_MICROS


def _plain(aggregate: Aggregate) -> Aggregate:
    return replace(aggregate, in_currency=False)


def _ready(table: Table, aggregate: Aggregate) -> bool:
    if table is Table.GOLD_EVENTS:
        return aggregate.function is Function.COUNT and not aggregate.in_currency and _is_of_type(aggregate.condition)
    return _plain(aggregate) in _gold_columns()


def _is_of_type(condition: Condition | None) -> bool:
    match condition:
        case None:
            return True
        case Compared(field, Comparison.IN, _):
            return field.name == "event_type"
    return False


@cache
def _gold_columns() -> Mapping[Aggregate, str]:
    """The columns of gold_kpis by what they hold, leaving currencies aside."""
    found: dict[Aggregate, str] = {}
    for kind, columns in ((MetricType.COUNT, _COUNTERS), (MetricType.SUM, _AMOUNTS), (MetricType.UNIQUE, _SETS)):
        for expression, column in columns.items():
            aggregate = compiled(expression, kind)
            assert isinstance(aggregate, Aggregate)
            found[_plain(aggregate)] = column
    return found


def _statement(selection: Selection, table: Table, aggregates: Sequence[Aggregate]) -> Statement:
    bind = Bindings({"tenant": selection.tenant})
    columns = [f"{_column(selection, table, each, bind)} AS a{n}" for n, each in enumerate(aggregates)]
    sql = _select(selection, table, columns, bind)
    sql += f"LIMIT {limits.KPI_QUERY_ROWS_MAX + 1}"
    return _made(selection, table, sql, bind, aggregates)


def _statement_with_total(selection: Selection, table: Table, aggregates: Sequence[Aggregate]) -> Statement:
    """The total merges the groups' sets: to count it from the rows again took as long as the groups themselves."""
    uniques = [n for n, each in enumerate(aggregates) if each.function is Function.UNIQUE]
    if not uniques:
        return _statement(selection, table, aggregates)
    bind = Bindings({"tenant": selection.tenant})
    columns = [_column(selection, table, each, bind) for each in aggregates]
    inner = [f"{_state(sql) if n in uniques else sql} AS s{n}" for n, sql in enumerate(columns)]
    outer = [f"{f'finalizeAggregation(s{n})' if n in uniques else f's{n}'} AS a{n}" for n in range(len(columns))]
    totals = [f"uniqExactMerge(s{n}) OVER () AS t{n}" for n in uniques]
    sql = _OUTER.substitute(
        columns=",\n    ".join([*_keys(selection), *outer, *totals]),
        groups=_select(selection, table, inner, bind),
        windows="",
    )
    sql += f"LIMIT {limits.KPI_QUERY_ROWS_MAX + 1}"
    return replace(_made(selection, table, sql, bind, aggregates), totals=tuple(aggregates[n] for n in uniques))


def _running(selection: Selection, table: Table, aggregates: Sequence[Aggregate]) -> Statement:
    bind = Bindings({"tenant": selection.tenant})
    columns = [_column(selection, table, each, bind) for each in aggregates]
    states = [f"{_state(sql)} AS s{n}" for n, sql in enumerate(columns)]
    merged = [f"uniqExactMerge(s{n}) OVER so_far AS a{n}" for n in range(len(columns))]
    _, *dimensions = _keys(selection)
    partition = f"PARTITION BY {', '.join(dimensions)}" if dimensions else ""
    sql = _OUTER.substitute(
        columns=",\n    ".join([*_keys(selection), *merged]),
        groups=_select(selection, table, states, bind),
        windows=f"WINDOW so_far AS ({partition} ORDER BY w ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)\n",
    )
    sql += f"LIMIT {limits.KPI_QUERY_ROWS_MAX + 1}"
    return _made(selection, table, sql, bind, aggregates)


def _state(sql: str) -> str:
    """The state of an aggregate function in place of its result."""
    name, _, arguments = sql.partition("(")
    conditional = "If" if name.endswith("If") else ""
    return f"{name.removesuffix('If')}State{conditional}({arguments}"


def _keys(selection: Selection) -> list[str]:
    return ["w", *(f"d{n}" for n in range(len(selection.dimensions)))]


def _made(selection: Selection, table: Table, sql: str, bind: Bindings, aggregates: Sequence[Aggregate]) -> Statement:
    return Statement(
        sql, bind.values, tuple(aggregates), len(selection.dimensions), selection.windows, _moment(table)[0]
    )


def _select(selection: Selection, table: Table, columns: Sequence[str], bind: Bindings) -> str:
    source = Source.SESSIONS if table is Table.SESSIONS else Source.EVENTS
    keys = [f"{_window(selection.windows, table, bind)} AS w"]
    for n, name in enumerate(selection.dimensions):
        field = _field(selection, table, source, name)
        keys.append(f"{text_sql(field, bind)} AS d{n}")
    return _STATEMENT.substitute(
        columns=",\n    ".join([*keys, *columns]),
        relation=_relation(selection, table, bind)
        + experiments.joined(selection.experiments, selection.version, selection.windows.end, bind),
        conditions="\n    AND ".join(_conditions(selection, table, source, bind)),
        grouping=f"GROUP BY {', '.join(_keys(selection))}",
    )


def _relation(selection: Selection, table: Table, bind: Bindings) -> str:
    if table is not Table.SESSIONS:
        return table.value
    # A session's newest row reaches furthest on both sides, so it overlaps a stretch whenever an older one does.
    return selection.version.sessions(
        f"start_time < fromUnixTimestamp64Micro({bind.add(selection.windows.end, 'Int64')})",
        f"end_time >= fromUnixTimestamp64Micro({bind.add(selection.windows.start, 'Int64')})",
    )


def _conditions(selection: Selection, table: Table, source: Source, bind: Bindings) -> list[str]:
    start, end = selection.windows.start, selection.windows.end
    conditions = ["tenant = {tenant:String}"]
    match table:
        case Table.SESSIONS:
            conditions.append(f"start_time >= fromUnixTimestamp64Micro({bind.add(start, 'Int64')})")
            conditions.append(f"start_time < fromUnixTimestamp64Micro({bind.add(end, 'Int64')})")
        case Table.SILVER:
            conditions.append(selection.version.visible(table.value))
            conditions.append(f"event_time >= fromUnixTimestamp64Micro({bind.add(start, 'Int64')})")
            conditions.append(f"event_time < fromUnixTimestamp64Micro({bind.add(end, 'Int64')})")
        case Table.GOLD_EVENTS | Table.GOLD_KPIS | Table.GOLD_VISITS:
            column = _GOLD_TIME[table]
            start, end = min(start, GOLD_END_MICROS) // MICROS, min(end, GOLD_END_MICROS) // MICROS
            conditions.append(selection.version.visible(table.value))
            conditions.append(f"{column} >= toDateTime({bind.add(start, 'UInt32')}, 'UTC')")
            conditions.append(f"{column} < toDateTime({bind.add(end, 'UInt32')}, 'UTC')")
    for each in selection.filters:
        field = _field(selection, table, source, each.dimension)
        compared = condition_sql(Compared(field, each.comparison, each.values), bind)
        conditions.append(f"NOT {compared}" if each.negated else compared)
    return conditions


def _field(selection: Selection, table: Table, source: Source, name: str) -> Field:
    experiment = experiment_of(name)
    if experiment:
        return experiments.variant(source, name, selection.experiments.index(experiment))
    field = VISIT_FIELDS[name] if table is Table.GOLD_VISITS else dimension(source, name)
    assert field is not None, name
    return field


def _moment(table: Table) -> tuple[int, str]:
    """When a row's event or session was, in SQL, and the unit of that in microseconds."""
    match table:
        case Table.SILVER:
            return 1, "toUnixTimestamp64Micro(event_time)"
        case Table.SESSIONS:
            return 1, "toUnixTimestamp64Micro(start_time)"
        case Table.GOLD_EVENTS | Table.GOLD_KPIS | Table.GOLD_VISITS:
            return MICROS, f"toInt64(toUnixTimestamp({_GOLD_TIME[table]}))"


def _window(windows: Windows | Even, table: Table, bind: Bindings) -> str:
    """SQL of the window that a row is in, see `Statement`; the conditions leave only rows that are in one."""
    if len(windows) == 1:
        return "toInt64(0)"
    unit, moment = _moment(table)
    if windows.regular is not None:
        origin, length = windows.regular
        return f"toInt64(intDiv({moment} - {origin // unit:d}, {length // unit:d}))"
    starts = [start // unit for start in windows.starts]
    return f"roundDown({moment}, {bind.add(starts, 'Array(Int64)')})"


def _column(selection: Selection, table: Table, aggregate: Aggregate, bind: Bindings) -> str:
    currency = bind.text(selection.currency) if selection.currency and aggregate.in_currency else ""
    match table:
        case Table.SILVER | Table.SESSIONS:
            return aggregate_sql(aggregate, bind, currency)
        case Table.GOLD_EVENTS:
            condition = aggregate.condition
            return f"sumIf(events, {condition_sql(condition, bind)})" if condition is not None else "sum(events)"
        case Table.GOLD_KPIS | Table.GOLD_VISITS:
            column = _gold_columns()[_plain(aggregate)]
            if table is Table.GOLD_VISITS and column in _VISITORS:
                return _visitors(_VISITORS[column], currency)
            name = "uniqExactMerge" if aggregate.function is Function.UNIQUE else "sum"
            return f"{name}If({column}, currency = {currency})" if currency else f"{name}({column})"


def _visitors(condition: str, currency: str) -> str:
    """SQL of the visitors of gold_visits for whom it holds."""
    only = [f"currency = {currency}"] if currency else []
    return f"uniqExactIf(visitor, {' AND '.join(['visitor != 0', condition, *only])})"
