"""From sqlglot's tree to the SQL that runs: the allow-list of syntax.

Each kind of node that may stand in a statement has one rule, in `rules`, which names the parts that it may have and
prints them. A node without a rule, or with a part that its rule does not name, is refused. So nothing reaches the
engine that no rule printed, and what is printed leaves no room for another reading: every name of the user's is in
backticks, every text is escaped by `text`, every function is on the list, every operand of an operator is in
parentheses where it could be read otherwise, and tables are not names but whole subqueries, put in later.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar, cast

from sqlglot import exp

from penstock import limits
from penstock.queries.reading import position, read_type
from penstock.queries.verdict import Reason
from penstock.queries.views import RESERVED_PREFIX

VIEW_MARK = "\0"  # stands around the name of a view in what is printed
CTE_PREFIX = f"{RESERVED_PREFIX}with_"

Rule: TypeAlias = "Callable[[Printer, exp.Expr], str]"
Rules: TypeAlias = "Mapping[type[exp.Expr], tuple[frozenset[str], Rule]]"
N = TypeVar("N", bound=exp.Expr)

# Parts of a SELECT that people write and that do not run here.
_CLAUSES = {
    "settings": ("SETTINGS_NOT_ALLOWED", "SETTINGS cannot be given here; remove them"),
    "format": ("FORMAT_NOT_ALLOWED", "FORMAT cannot be given here; choose the format in the request"),
    "into": ("INTO_NOT_ALLOWED", "INTO writes, and only reading is allowed; remove it"),
    "sample": (
        "SAMPLE_NOT_ALLOWED",
        "SAMPLE needs a sampling key, which no view has; use WHERE cityHash64(visitor) % 10 = 0",
    ),
    "prewhere": ("PREWHERE_NOT_ALLOWED", "write WHERE; the engine moves what it can to PREWHERE by itself"),
    "totals": ("TOTALS_NOT_ALLOWED", "WITH TOTALS is no row of the result; use WITH ROLLUP or GROUPING SETS"),
    "with_fill": ("FILL_NOT_ALLOWED", "WITH FILL makes rows without bound; join with arrayJoin(range(…)) instead"),
    "is_global": ("GLOBAL_NOT_ALLOWED", "remove GLOBAL; the engine plans the reading of tables by itself"),
    "global_": ("GLOBAL_NOT_ALLOWED", "remove GLOBAL; the engine plans the reading of tables by itself"),
    "recursive": ("RECURSIVE_NOT_ALLOWED", "WITH RECURSIVE has no bound; join the table with itself instead"),
    "pivots": ("UNSUPPORTED_SYNTAX", "PIVOT is not ClickHouse's; use sumIf and its kind"),
}
NODES: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Final: ("FINAL_NOT_ALLOWED", "remove FINAL; the views hold one row of each already"),
    exp.Apply: ("APPLY_NOT_ALLOWED", "APPLY takes a function by its name; write out the columns"),
    exp.Values: ("TABLE_FUNCTION_NOT_ALLOWED", "VALUES is no table here; use SELECT arrayJoin([…])"),
    exp.Lateral: ("UNSUPPORTED_SYNTAX", "LATERAL is not ClickHouse's; use ARRAY JOIN"),
    exp.Command: ("NOT_A_SELECT", "only SELECT runs here"),
    exp.Distinct: ("UNSUPPORTED_SYNTAX", "DISTINCT stands behind SELECT, or first in the parentheses of an aggregate"),
    exp.Describe: ("NOT_A_SELECT", "only SELECT runs here"),
    exp.RawString: ("UNSUPPORTED_SYNTAX", "write texts as '…', not as $$…$$"),
    exp.SessionParameter: ("UNSUPPORTED_SYNTAX", "@@ names a setting of the server; remove it"),
    exp.JSONExtract: ("UNSUPPORTED_SYNTAX", "-> stands in the arguments of functions of arrays only"),
    exp.Parameter: ("UNSUPPORTED_SYNTAX", "write a parameter as {name:Type}"),
}

_ESCAPES = {"\\": "\\\\", "'": "\\'"} | {chr(code): f"\\x{code:02X}" for code in (*range(32), 127)}
_ESCAPED = str.maketrans(_ESCAPES)

_OPERANDS = (exp.Column, exp.Literal, exp.Paren, exp.Anonymous, exp.Identifier, exp.Subquery, exp.Placeholder)


class TooComplex(Exception):
    """The tree is deeper than the bound."""


def text(value: str) -> str:
    """A text as a literal that ends where it should, whatever is in it."""
    return f"'{value.translate(_ESCAPED)}'"


class RuleBook:
    """Gathers rules: `@rule(exp.Like, parts="this expression")` makes a function the one for nodes of that kind, which
    may have those parts and no others."""

    def __init__(self) -> None:
        self.rules: dict[type[exp.Expr], tuple[frozenset[str], Rule]] = {}

    def __call__(self, *kinds: type[exp.Expr], parts: str = "") -> Callable[[Callable[["Printer", N], str]], object]:
        def register(rule: Callable[["Printer", N], str]) -> Callable[["Printer", N], str]:
            for kind in kinds:
                self.rules[kind] = (frozenset(parts.split()), cast(Rule, rule))
            return rule

        return register


class Printer:
    """Prints one tree, and gathers why it must not run."""

    def __init__(self, rules: Rules, sql: str, given: Iterable[str]) -> None:
        self._rules = rules
        self._sql = sql
        self.given = frozenset(given)  # names of the parameters that were sent
        self.ctes: list[str] = []  # names that WITH gave and that can be read here
        self._depth = 0
        self._nearest = 0  # offset of the node last seen that knows its own
        self.reasons: list[Reason] = []
        self.views: set[str] = set()
        self.parameters: dict[str, str] = {}

    def refuse(self, node: exp.Expr, code: str, message: str) -> str:
        """Notes a reason; what is printed in the node's place does not matter any more."""
        found = next((each.meta["start"] for each in node.walk() if "start" in each.meta), self._nearest)
        reason = Reason(code, message, position(self._sql, found))
        if reason not in self.reasons:
            self.reasons.append(reason)
        return ""

    def print(self, node: object) -> str:
        """The node as SQL. Raises TooComplex."""
        if not isinstance(node, exp.Expr):
            raise TypeError(f"{type(node).__name__} is no node")
        self._nearest = node.meta.get("start", self._nearest)
        found = self._rules.get(type(node))
        if found is None:
            code, message = NODES.get(type(node), ("UNSUPPORTED_SYNTAX", f"{spoken(node)} is not supported here"))
            return self.refuse(node, code, message)
        parts, rule = found
        for part, value in node.args.items():
            if value and part not in parts:
                code, message = _CLAUSES.get(part, ("UNSUPPORTED_SYNTAX", f"{spoken(node)} cannot have {part!r} here"))
                self.refuse(value if isinstance(value, exp.Expr) else node, code, message)
        self._depth += 1
        if self._depth > limits.SQL_TREE_DEPTH_MAX:
            raise TooComplex
        printed = rule(self, node)
        self._depth -= 1
        return printed

    def list(self, nodes: Iterable[object]) -> str:
        """The nodes, with commas."""
        return ", ".join([self._item(node) for node in nodes])

    def _item(self, node: object) -> str:
        return self.query(node) if isinstance(node, exp.Query) else self.print(node)

    def query(self, node: exp.Expr) -> str:
        """A query inside of another, in parentheses."""
        return self.print(node) if isinstance(node, exp.Subquery) else f"({self.print(node)})"

    def operand(self, node: exp.Expr) -> str:
        """The node with parentheses, unless it is one that no operator beside it can take apart."""
        if isinstance(node, exp.Lambda):  # of AND(x -> 1, 2), which sqlglot takes for the operator
            return self.refuse(node, *NODES[exp.JSONExtract])
        printed = self.print(node)
        return printed if isinstance(node, _OPERANDS) else f"({printed})"


def type_text(printer: Printer, node: exp.Expr) -> str:
    """A type that stands in a text, read and printed again like any other."""
    if isinstance(node, exp.Literal) and node.is_string:
        kind = read_type(node.name)
        if kind is not None:
            return text(printer.print(kind))
    return printer.refuse(node, "TYPE_NOT_ALLOWED", "name the type as a text: 'UInt64'")


def quoted(name: str) -> str:
    """A name in backticks; it must have none of its own, nor backslashes."""
    return f"`{name}`"


def spoken(node: exp.Expr) -> str:
    """What a person would call the node."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()
