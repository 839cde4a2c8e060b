"""The gate: what SQL of users may run, and as what.

Everything is refused that is not known to be harmless; THREAT_MODEL.md says what that rests on. Two steps, each default
deny:

1. `reading`: one statement, within bounds, becomes a tree.
2. `printing`: each node of the tree is printed by a rule of its own (`rules`), or refused. Functions, types and tables
   are on lists (`allowed`, `views`).

The user's text itself never runs. What is printed is plain enough that there is one way to read it; that ClickHouse's
own parser reads it so, and that sqlglot reads it back as the same tree, is for the tests to show on generated
statements: at run time each would cost as much again as the gate does.
"""

from collections.abc import Collection
from functools import lru_cache

import structlog
from sqlglot import exp

from penstock import limits
from penstock.queries.printing import VIEW_MARK, Printer, TooComplex
from penstock.queries.reading import Unreadable, read
from penstock.queries.rules import RULES
from penstock.queries.verdict import Checked, Position, Reason, Refused
from penstock.queries.views import VIEWS

log = structlog.get_logger()
START = Position(1, 1)


class Gate:
    """Decides what runs. It has no state but a memory of statements that it decided on, and touches nothing."""

    def __init__(self, remembered: int = limits.SQL_CHECKED_MAX) -> None:
        self._decide = lru_cache(maxsize=remembered)(_decide)

    def check(self, sql: str, parameters: Collection[str] = ()) -> Checked | Refused:
        """What may run of `sql`, for which values of `parameters` were sent; or why nothing may. Never raises."""
        if len(parameters) > limits.SQL_PARAMETERS_MAX:
            return _refused("TOO_COMPLEX", f"more than {limits.SQL_PARAMETERS_MAX} parameters")
        return self._decide(sql, frozenset(parameters))


def _decide(sql: str, parameters: frozenset[str]) -> Checked | Refused:
    try:
        return _checked(sql, parameters)
    except Unreadable as error:
        return Refused((error.reason,))
    except (TooComplex, RecursionError):
        return _refused("TOO_COMPLEX", "the statement is nested too deeply")
    except Exception:
        # A fault of sqlglot or of the rules must not open the gate, and must be mended: the log has it.
        log.exception("the SQL gate failed on a statement and refused it")
        return _refused("UNSUPPORTED_SYNTAX", "the statement could not be understood")


def _checked(sql: str, parameters: frozenset[str]) -> Checked | Refused:
    tree = read(sql)
    if not isinstance(tree, exp.Query):
        return _refused("NOT_A_SELECT", "only SELECT runs here, also with WITH in front")
    printer = Printer(RULES, sql, parameters)
    printed = printer.print(tree)
    if printer.reasons:
        return Refused(
            tuple(sorted(printer.reasons, key=lambda reason: (reason.position.line, reason.position.column)))
        )
    if len(printed) > limits.SQL_PRINTED_BYTES_MAX:
        return _refused("TOO_LONG", "the statement is too long")
    pieces = printed.split(VIEW_MARK)
    return Checked(
        pieces=tuple(VIEWS[piece] if index % 2 else piece for index, piece in enumerate(pieces)),
        views=tuple(sorted(printer.views)),
        parameters=printer.parameters,
        ordered=bool(tree.args.get("order")),
        limited=bool(tree.args.get("limit")),
    )


def _refused(code: str, message: str) -> Refused:
    return Refused((Reason(code, message, START),))
