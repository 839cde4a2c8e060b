"""What ClickHouse's errors, and those on the way to it, mean to the rest of Penstock."""

import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError

from penstock.errors import Overloaded, TimedOut, Unavailable

log = structlog.get_logger()

# Codes that say something about the moment, not about the statement.
_TIMEOUT = {159, 160, 209}
_OVERLOAD = {202, 241}
_AWAY = {3, 74, 75, 76, 210, 225, 242, 243, 252, 285, 286, 319, 394, 999}
# What a server answers to a user or a database that it does not let in: at the start that is a setting to mend, later
# it is one more way of being away.
REFUSED = {81, 192, 193, 194, 497, 516}


def outcome_is_known(error: DatabaseError) -> bool:
    """Whether ClickHouse itself says that the statement failed; otherwise it may have, or yet come to, its effect."""
    return error.code is not None and not isinstance(error, OperationalError)


def translated(error: ClickHouseError) -> Exception:
    """The error to raise in its place; itself when the statement is wrong, which is a fault of this program."""
    if not isinstance(error, DatabaseError) or isinstance(error, OperationalError):
        return _away(error)
    if error.code in _TIMEOUT:
        return TimedOut("the database did not finish in time", reason="DEADLINE_EXCEEDED")
    if error.code in _OVERLOAD:
        return Overloaded("the database is at its memory or query limit", reason="OVERLOADED", retry_after_s=1.0)
    # Without a code the answer is not ClickHouse's: something between says that it cannot be reached.
    nameless = error.code is None and type(error) is DatabaseError
    return _away(error) if nameless or error.code in _AWAY or error.code in REFUSED else error


def _away(error: Exception) -> Unavailable:
    log.warning("storage unavailable", error=str(error)[:500])
    return Unavailable("the database cannot be reached", reason="STORAGE_UNAVAILABLE", retry_after_s=1.0)
