"""A second opinion on what runs: what ClickHouse's own parser makes of it.

The gate rests on sqlglot's reading and on its own printing. This asks the engine how it reads the printed text, and
finds what should not be there.
"""

import re
from collections.abc import Iterator

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from penstock.queries import allowed
from penstock.queries.printing import CTE_PREFIX
from penstock.queries.views import VIEWS

_LINE = re.compile(r"(?P<indent> *)(?P<kind>[\w:]+)(?: (?P<name>.*?))?(?: \(alias .*?\))?(?: \(children \d+\))?")
_TABLES = frozenset(table for view in VIEWS.values() for table in view.reads)
# Names that the engine has for operators and forms of syntax.
_OPERATORS = """
    and or not plus minus multiply divide modulo intDiv concat equals notEquals less lessOrEquals greater
    greaterOrEquals isNotDistinctFrom negate like notLike ilike notILike in notIn isNull isNotNull exists tuple array
    arrayElement tupleElement lambda CAST _CAST if caseWithExpression caseWithoutExpression multiIf countIf toYear
    toMonth toDayOfMonth map ROLLUP CUBE
    """
_KINDS = """
    SelectWithUnionQuery SelectIntersectExceptQuery SelectQuery ExpressionList WithElement Subquery TablesInSelectQuery
    TablesInSelectQueryElement TableExpression TableIdentifier TableJoin ArrayJoin Identifier Function Literal Asterisk
    QualifiedAsterisk ColumnsTransformerList ColumnsExceptTransformer ColumnsReplaceTransformer ColumnsRegexpMatcher
    WindowDefinition WindowListElement OrderByElement QueryParameter DataType NameTypePair TupleDataType Explain
    Replacement ColumnsReplaceTransformer::Replacement StorageOrderByElement TupleDataType
    """


def objections(client: Client, sql: str, parameters: dict[str, object]) -> list[str]:
    """What the engine reads in `sql` that no printed statement should have."""
    try:
        lines = [row[0] for row in client.query(f"EXPLAIN AST {sql}", parameters=parameters or None).result_rows]
    except ClickHouseError as error:
        if "SYNTAX_ERROR" in str(error):
            return []  # what it cannot read it cannot run
        raise
    if lines and lines[-1].strip() == "Identifier Native":
        lines.pop()  # the FORMAT that the client adds
    return list(_objections(lines))


def _objections(lines: list[str]) -> Iterator[str]:
    parsed = [_LINE.fullmatch(line) for line in lines]
    for index, (line, match) in enumerate(zip(lines, parsed, strict=True)):
        if match is None:
            yield f"not understood: {line!r}"
            continue
        kind, name = match["kind"], match["name"] or ""
        if kind not in _KINDS.split():
            yield f"{kind} {name}"
        elif kind == "TableIdentifier" and name not in _TABLES and not name.startswith(CTE_PREFIX):
            yield f"the table {name}"
        elif kind == "Function" and name not in _OPERATORS.split() and not allowed.is_function(name):
            yield f"the function {name}"
        elif kind == "Function" and name in ("in", "notIn"):
            # Children of the argument list, which is the next line, are two deeper than the function.
            depth = len(match["indent"]) + 2
            arguments = []
            for each in parsed[index + 1 :]:
                if each is None or len(each["indent"]) <= len(match["indent"]):
                    break
                if len(each["indent"]) == depth:
                    arguments.append(each)
            if arguments and arguments[-1]["kind"] in ("Identifier", "TableIdentifier"):
                yield f"IN {arguments[-1]['name']}"
