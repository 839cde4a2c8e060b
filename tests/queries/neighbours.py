"""Rows of three tenants in the same blocks of every table.

Those of OURS pass whatever EXPRESSIONS ask of them, those of the tenants before and behind it fail it. So a statement
that looks at a row of theirs fails, or finds something else.
"""

from penstock.queries.views import Column
from penstock.storage.engine import Engine

OURS, BEFORE, BEHIND = "m", "a", "z"
SECRET = "SECRET"
TABLES = (
    *("silver_events", "bronze_events", "gold_kpis", "sessions", "daily_metrics"),
    *("rejected_events", "rejected_replays", "products", "feedback"),
)
ROWS = 20  # of each tenant

_COLUMNS = """
SELECT name, type FROM system.columns
WHERE database = currentDatabase() AND table = {table:String} AND default_kind NOT IN ('MATERIALIZED', 'ALIAS')
"""
_TEXT = f"(tenant = '{OURS}' ? '20260301' : concat('{SECRET}-', tenant, toString(number % 3)))"
_VALUES = (
    # By what stands in the type, the first that does.
    ("AggregateFunction(uniqExact", f"arrayReduce('uniqExactState', [{_TEXT}])"),
    ("AggregateFunction(", ""),
    ("Array(Tuple", f"[({_TEXT}, 1)]"),
    ("Array", f"[{_TEXT}]"),
    ("Map", f"map('k', {_TEXT})"),
    ("Enum", ""),
    ("String", _TEXT),
    ("UUID", f"toUUID(concat('00000000-0000-7000-8000-00000000000', tenant = '{OURS}' ? '1' : '7'))"),
    ("Date", f"toDateTime64(concat(tenant = '{OURS}' ? '2026' : '2025', '-03-01 12:00:00'), 6, 'UTC')"),
    ("Bool", "0"),
    ("", f"(tenant = '{OURS}' ? 8 : 7)"),
)
_OF_TEXT = (
    "toInt64({q}) > 0",
    "intDiv(1, toUInt8({q} = '20260301')) > 0",
    "toDate({q}) > '2020-01-01'",
    "parseDateTime({q}, '%Y%m%d') > '2020-01-01'",
    "CAST({q}, 'Float64') > 1",
    "toFixedString({q}, 8) = '20260301'",
    "toUUID(if({q} = '20260301', '00000000-0000-7000-8000-000000000001', {q})) IS NOT NULL",
    "CAST({q}, 'Enum8(\\'20260301\\' = 1)') = '20260301'",
    "range(toUInt64(if({q} = '20260301', 1, 60000000)))[1] = 0",
    "match('a', if({q} = '20260301', 'a', '('))",
    "leftPad('a', if({q} = '20260301', 3, 9000000000), 'b') != ''",
    "arrayZip([1], if({q} = '20260301', [1], [1, 2]))[1].1 = 1",
    "arrayExists(x -> toDecimal64(x, 2) > 0, [{q}])",
    "JSONExtract({q}, 'Int64') > intDiv(1, toUInt8(startsWith({q}, '2026')))",
    "accurateCast({q}, 'UInt64') IN (1, 20260301)",
    "(length({q}) < 9 OR toIPv4({q}) = toIPv4('1.2.3.4'))",
)
_OF_NUMBERS = (
    "intDiv(1, {q} - 7) > -9",
    "modulo(1, {q} - 7) > -9",
    "range(toUInt64(if({q} = 7, 60000000, 1)))[1] >= 0",
)
_OF_TIMES = (
    "intDiv(1, toUInt8(toDate({q}) >= '2026-03-01')) = 1",
    f"toInt64(if(toDate({{q}}) < '2026-03-01', '{SECRET}', '1')) = 1",
)
_OF_MAPS = ("toInt64({q}['k']) > 0", "arrayExists(x -> toInt64(x) > 0, mapValues({q}))")
_OF_ARRAYS = (
    "arrayExists(x -> toFixedString(toString(x), 14) = '', {q})",
    f"NOT has(arrayMap(x -> intDiv(1, 1 - position(toString(x), '{SECRET}')), {{q}}), 9)",
)
_OF_IDS = (f"toInt64(if({{q}} = toUUID('00000000-0000-7000-8000-000000000001'), '1', '{SECRET}')) > 0",)
EXPRESSIONS = (
    ("Map", _OF_MAPS),
    ("Array", _OF_ARRAYS),
    ("String", _OF_TEXT),
    ("UUID", _OF_IDS),
    ("Date", _OF_TIMES),
    ("", _OF_NUMBERS),
)


def expressions(column: Column) -> list[str]:
    """Conditions on the column that hold, or do not, for rows of ours, and fail for rows of theirs."""
    fitting = next(found for kind, found in EXPRESSIONS if kind in column.type)
    return [each.replace("{q}", f"`{column.name}`") for each in fitting]


async def fill(engine: Engine, *tenants: str) -> None:
    """Has the tables hold rows of these tenants and no others, each table in one part."""
    for table in TABLES:
        await engine.execute(f"TRUNCATE TABLE {table}")
        if not tenants:
            continue
        values = {}
        for column in await engine.rows(_COLUMNS, {"table": table}):
            value = _value(column["name"], column["type"])
            if value:
                values[column["name"]] = value
        chosen = f"[{', '.join(repr(each) for each in tenants)}][1 + number % {len(tenants)}] AS tenant"
        made = ", ".join(value if name == "tenant" else f"{value} AS {name}_value" for name, value in values.items())
        await engine.execute(
            f"INSERT INTO {table} ({', '.join(f'`{name}`' for name in values)})"
            f" WITH {chosen} SELECT {made} FROM numbers({ROWS * len(tenants)})"
        )


def _value(name: str, kind: str) -> str:
    if name == "tenant":
        return "tenant"
    if name in ("commit", "run"):
        return "1"
    if name == "deleted":
        return "0"
    return next(value for part, value in _VALUES if part in kind)
