"""What ClickHouse's errors mean to whoever wrote the statement.

ClickHouse quotes the statement that it ran in its messages. That is not the text that the user sent: tenant conditions
and tables of the house stand in it. So a message is cut where the quotation begins, and one in which something of the
house is left is not shown at all.
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
    """ClickHouse's message without what is ours in it."""
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
        return f"the engine cannot run this statement: {name}"
    return message[:500]
