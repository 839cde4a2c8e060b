"""What ClickHouse's errors mean to whoever wrote the statement.

ClickHouse's messages quote two things. What a row held: that is its tenant's business, and no message is to be the way
in which it comes to another one, or with a question to a language model. So only those errors are told in ClickHouse's
words that are of the statement alone, its names and types; for the others there are words here. And the statement that
it ran, which is not the text that the user sent: tenant conditions and tables of the house stand in it. So a message is
cut where the quotation begins, and one in which something of the house is left is not shown at all.
"""

import re
from collections.abc import Mapping

import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from penstock.errors import InvalidInput, Overloaded, PenstockError, TooCostly, Unavailable, Violation
from penstock.storage.failures import translated as translated_of_the_house
from penstock.storage.user_sql.limits import Limit, is_overload, limit_reached

log = structlog.get_logger()

_STOPPED = 394  # QUERY_WAS_CANCELLED
_PARAMETER = re.compile(r"query parameter '(?P<name>\w+)'|Substitution `(?P<unset>\w+)` is not set")
_ERROR = re.compile(r"Code: (?P<code>\d+)\. DB::Exception: (?P<message>.*)", re.DOTALL)
_NAME = re.compile(r" ?\((?P<name>[A-Z][A-Z0-9_]+)\)\s*$")
_WHERE = re.compile(r" ?\((?:version|official build|for url) [^)]*\)")
_QUOTATION = re.compile(
    r"[\s.:,(]*(?:\b(?:in scope|in query|while (?:executing|processing)|note: the query|stack trace|"
    r"there are columns|required columns|source columns|maybe you meant: \[[^\]]*__table)|\[\d+:\d+\])",
    re.IGNORECASE,
)
_QUALIFIED = re.compile(r"\b__table\d+\.|\bdefault\.(?:\w+\.)?")
_HOUSE = re.compile(
    r"penstock_|__table|\b(?:tenant|run|commit) *(?:=|<=)|\b(?:silver_\w+|gold_events|rejected_replays)\b"
    r"|/[\w.-]+/[\w.-]+"
)

# Found before a row is read, in names, types and the number of arguments.
_OF_THE_STATEMENT = frozenset(
    {
        "ALIAS_REQUIRED",
        "AMBIGUOUS_COLUMN_NAME",
        "AMBIGUOUS_IDENTIFIER",
        "BAD_QUERY_PARAMETER",  # its value is the caller's own
        "ILLEGAL_AGGREGATION",
        "ILLEGAL_COLUMN",
        "ILLEGAL_TYPE_OF_ARGUMENT",
        "ILLEGAL_TYPE_OF_COLUMN_FOR_FILTER",
        "INVALID_JOIN_ON_EXPRESSION",
        "MULTIPLE_EXPRESSIONS_FOR_ALIAS",
        "NOT_AN_AGGREGATE",
        "NO_COMMON_TYPE",
        "NO_SUCH_COLUMN_IN_TABLE",
        "NUMBER_OF_ARGUMENTS_DOESNT_MATCH",
        "SYNTAX_ERROR",
        "UNION_ALL_RESULT_STRUCTURES_MISMATCH",
        "UNKNOWN_AGGREGATE_FUNCTION",
        "UNKNOWN_FUNCTION",
        "UNKNOWN_IDENTIFIER",
        "UNKNOWN_QUERY_PARAMETER",
        "UNKNOWN_TABLE",
        "UNKNOWN_TYPE",
        "UNSUPPORTED_JOIN_KEYS",
    }
)
_UNREADABLE = (
    "a text is not what the type wants that it is converted to; functions whose names end in OrNull or OrZero take any"
)
_TOO_LARGE = "a value does not fit into the type that it is converted to"
_OTHERWISE = {
    "ARGUMENT_OUT_OF_BOUND": "an argument of a function is out of its bounds",
    "BAD_ARGUMENTS": "an argument of a function has a value that it does not take",
    "CANNOT_COMPILE_REGEXP": "a pattern is no regular expression",
    "CANNOT_CONVERT_TYPE": _TOO_LARGE,
    "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN": "a NULL is converted to a type that has none",
    "DECIMAL_OVERFLOW": _TOO_LARGE,
    "ILLEGAL_DIVISION": "a division by zero; intDivOrNull, intDivOrZero and moduloOrNull allow it",
    "INCORRECT_DATA": _UNREADABLE,
    "INCORRECT_RESULT_OF_SCALAR_SUBQUERY": "a subquery in the place of a value has more than one row",
    "PARAMETER_OUT_OF_BOUND": "a parameter of a function is out of its bounds",
    "SIZES_OF_ARRAYS_DONT_MATCH": "arrays that go together differ in length",
    "TOO_LARGE_ARRAY_SIZE": "an array would be too long",
    "TOO_LARGE_STRING_SIZE": "a text is longer than its type allows",
    "TYPE_MISMATCH": "a value is not of the type that is wanted in its place",
    "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE": _TOO_LARGE,
    "ZERO_ARRAY_OR_TUPLE_INDEX": "elements are counted from 1",
}


def engine_error(text: str) -> DatabaseError:
    """chDB's error, which is only a text, as clickhouse-connect tells of a server's."""
    match = _ERROR.search(text)
    if match is None:
        return DatabaseError(text)
    name = _NAME.search(_WHERE.sub("", text))
    return DatabaseError(text, code=int(match["code"]), name=name["name"] if name else None)


def translated(error: ClickHouseError, bounds: Mapping[str, Limit]) -> PenstockError:
    """The error to raise in its place: always one that its caller can read and do something about."""
    text = str(error)
    if not isinstance(error, DatabaseError):
        return _of_the_house(error) or _invalid(DatabaseError(text), text)
    if is_overload(error.code, text):
        return Overloaded("the database is at its memory or query limit", reason="OVERLOADED", retry_after_s=1.0)
    setting = limit_reached(error.code, text, bounds)
    if setting is not None:
        return _too_costly(setting, bounds.get(setting))
    if error.code == _STOPPED:
        return Unavailable("the server stopped the statement", reason="QUERY_STOPPED", retry_after_s=1.0)
    of_the_house = _of_the_house(error)
    if of_the_house is not None:
        return of_the_house
    return _invalid(error, text)


def _of_the_house(error: ClickHouseError) -> PenstockError | None:
    """What holds for any statement; None when the statement itself is wrong."""
    found = translated_of_the_house(error)
    return found if isinstance(found, PenstockError) else None


def _too_costly(setting: str, bound: Limit | None) -> TooCostly:
    metadata = {"limit": setting}
    said = ""
    if bound is not None:
        metadata |= {"value": str(bound.value), "unit": bound.unit}
        said = f" ({bound.value:,} {bound.unit})"
    return TooCostly(f"the statement reached the limit {setting}{said}", reason="QUERY_LIMIT", metadata=metadata)


def _invalid(error: DatabaseError, text: str) -> InvalidInput:
    name = error.name or "UNKNOWN"
    parameter = _PARAMETER.search(text)
    message = shown(text, name)
    if parameter is not None:
        field = f"parameters.{parameter['name'] or parameter['unset']}"
        return InvalidInput(f"{field}: {message}", reason="INVALID_PARAMETER", violations=[Violation(field, message)])
    log.debug("the engine refused a statement of a user", error=text[:2_000])
    return InvalidInput(
        f"sql: {message}", reason="INVALID_SQL", metadata={"error": name}, violations=[Violation("sql", message)]
    )


def shown(text: str, name: str) -> str:
    """What a user is told: ClickHouse's message without what is ours in it, or ours where it may quote a row."""
    if name not in _OF_THE_STATEMENT:
        ours = _UNREADABLE if name.startswith("CANNOT_PARSE") else _OTHERWISE.get(name)
        return f"{ours} ({name})" if ours else _unsaid(name)
    message = text
    while (inner := _ERROR.search(message)) is not None:
        message = inner["message"]
    message = _WHERE.sub("", message)
    message = _NAME.sub("", message)
    quotation = _QUOTATION.search(message)
    if quotation is not None:
        message = message[: quotation.start()]
    message = _QUALIFIED.sub("", message).strip(" .:,\n")
    if not message or _HOUSE.search(message):
        return _unsaid(name)
    return message[:500]


def _unsaid(name: str) -> str:
    return f"the engine cannot run this statement: {name}"
