"""What a statement may call and convert to: lists, and the rule for the combinators of aggregates."""

from functools import lru_cache
from importlib.resources import files

import yaml
from sqlglot.expressions import DType

_GROUPS: dict[str, str] = yaml.safe_load(files("penstock.queries").joinpath("functions.yaml").read_text("utf-8"))
FUNCTIONS = frozenset(name for group, names in _GROUPS.items() if group != "any case" for name in names.split())
AGGREGATES = frozenset(_GROUPS["aggregates"].split())
_ANY_CASE = frozenset(name.lower() for name in _GROUPS["any case"].split())

# https://clickhouse.com/docs/sql-reference/aggregate-functions/combinators, the longer before what ends it.
COMBINATORS = (
    "SimpleState", "OrDefault", "Distinct", "Resample", "ForEach", "ArgMin", "ArgMax", "OrNull", "Merge", "State",
    "Array", "Map", "If",
)  # fmt: skip
COMBINED_MAX = 4

# Arguments that are text to the parser and something else to the engine, by their place.
TYPE_ARGUMENTS = {
    "accurateCast": 1, "accurateCastOrNull": 1, "accurateCastOrDefault": 1,
    "JSONExtract": -1, "JSONExtractCaseInsensitive": -1,
    "JSONExtractKeysAndValues": -1, "JSONExtractKeysAndValuesCaseInsensitive": -1,
}  # fmt: skip
AGGREGATE_ARGUMENTS = {"arrayReduce": 0, "arrayReduceInRanges": 0}

# Types by sqlglot's name for them. None that is made of raw bytes (AggregateFunction), parsed without end (JSON), or
# that holds what the gate cannot see (Dynamic, Variant).
TYPES = {
    DType.BOOLEAN: "Bool",
    DType.TINYINT: "Int8", DType.SMALLINT: "Int16", DType.INT: "Int32", DType.BIGINT: "Int64",
    DType.INT128: "Int128", DType.INT256: "Int256",
    DType.UTINYINT: "UInt8", DType.USMALLINT: "UInt16", DType.UINT: "UInt32", DType.UBIGINT: "UInt64",
    DType.UINT128: "UInt128", DType.UINT256: "UInt256",
    DType.FLOAT: "Float32", DType.DOUBLE: "Float64",
    DType.DECIMAL: "Decimal", DType.DECIMAL32: "Decimal32", DType.DECIMAL64: "Decimal64",
    DType.DECIMAL128: "Decimal128", DType.DECIMAL256: "Decimal256",
    DType.TEXT: "String", DType.VARCHAR: "String", DType.FIXEDSTRING: "FixedString", DType.UUID: "UUID",
    DType.DATE: "Date", DType.DATE32: "Date32", DType.DATETIME: "DateTime", DType.TIMESTAMP: "DateTime",
    DType.DATETIME64: "DateTime64", DType.IPV4: "IPv4", DType.IPV6: "IPv6",
    DType.ARRAY: "Array", DType.MAP: "Map", DType.STRUCT: "Tuple", DType.LOWCARDINALITY: "LowCardinality",
}  # fmt: skip

INTERVAL_UNITS = frozenset(
    ("NANOSECOND", "MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
)
EXTRACT_UNITS = frozenset(("SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"))


@lru_cache(maxsize=4096)
def is_function(name: str) -> bool:
    """Whether a statement may call `name`, written so: a listed function, or a listed aggregate with combinators."""
    return name in FUNCTIONS or name.lower() in _ANY_CASE or is_aggregate(name)


def is_aggregate(name: str) -> bool:
    """Whether `name` is a listed aggregate, with combinators or without."""
    for _ in range(COMBINED_MAX + 1):
        if name in AGGREGATES or (name.lower() in _ANY_CASE and name.lower() in _AGGREGATES_FOLDED):
            return True
        suffix = next((each for each in COMBINATORS if name.endswith(each)), None)
        if suffix is None:
            return False
        name = name.removesuffix(suffix)
    return False


_AGGREGATES_FOLDED = frozenset(name.lower() for name in AGGREGATES)
