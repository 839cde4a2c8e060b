"""Rules for what a query is made of: WITH, SELECT and its clauses, joins, UNION."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlglot import exp

from penstock.queries.printing import CTE_PREFIX, NODES, VIEW_MARK, Printer, RuleBook, quoted, spoken
from penstock.queries.reading import FUNCTION_MARK
from penstock.queries.views import VIEWS

rule = RuleBook()

_SIDES = frozenset(("", "LEFT", "RIGHT", "FULL", "INNER"))
_KINDS = frozenset(("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI", "ANY", "ALL", "ASOF"))
# What ARRAY JOIN may name. sqlglot takes {x:Array(String)} for a map there.
_ARRAYS = (exp.Column, exp.Columns, exp.Anonymous, exp.Array, exp.Cast, exp.CastToStrType, exp.Subquery)


@rule(
    exp.Select,
    parts="with_ distinct expressions from_ joins where group having windows qualify order cluster limit offset",
)
def select(printer: Printer, node: exp.Select) -> str:
    args = node.args
    with _with(printer, args.get("with_")) as prefix:
        # Names of tables first, so that reasons come in a sensible order; the text is put together afterwards.
        source = printer.print(args["from_"]) if args.get("from_") else ""
        if args.get("joins") and not source:
            printer.refuse(args["joins"][0], "SYNTAX_ERROR", "a JOIN stands behind FROM")
        joins = "".join(printer.print(join) for join in args.get("joins") or ())
        distinct = _distinct(printer, args["distinct"]) if args.get("distinct") else ""
        made = f"{prefix}SELECT {distinct}{printer.list(args['expressions'])}{source}{joins}"
        for part in ("where", "group", "having"):
            made += printer.print(args[part]) if args.get(part) else ""
        if args.get("windows"):
            made += " WINDOW " + printer.list(args["windows"])
        for part in ("qualify", "order", "cluster", "limit", "offset"):
            made += printer.print(args[part]) if args.get(part) else ""
        return made


@rule(exp.Union, exp.Except, exp.Intersect, parts="with_ this expression distinct")
def set_operation(printer: Printer, node: exp.SetOperation) -> str:
    operands: list[exp.Expr] = [node.expression]
    left: exp.Expr = node.this
    same = (type(node), node.args.get("distinct"))
    while isinstance(left, exp.SetOperation) and not left.args.get("with_"):
        if (type(left), left.args.get("distinct")) != same:
            break
        operands.append(left.expression)
        left = left.this
    if not all(isinstance(each, exp.Query) for each in (left, *operands)):
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", "UNION, INTERSECT and EXCEPT stand between two SELECT")
    distinct = node.args.get("distinct")
    word = type(node).__name__.upper() + (" DISTINCT" if distinct else " ALL" if isinstance(node, exp.Union) else "")
    with _with(printer, node.args.get("with_")) as prefix:
        # ClickHouse wants a plain SELECT after WITH.
        first = printer.print(left) if prefix and isinstance(left, exp.Select) else printer.query(left)
        if prefix and not isinstance(left, exp.Select):
            first = f"SELECT * FROM {first}"
        return prefix + f" {word} ".join([first, *(printer.query(each) for each in reversed(operands))])


@contextmanager
def _with(printer: Printer, node: exp.With | None) -> Iterator[str]:
    before = len(printer.ctes)
    prefix = printer.print(node) + " " if node else ""
    yield prefix
    del printer.ctes[before:]


@rule(exp.With, parts="expressions")
def with_(printer: Printer, node: exp.With) -> str:
    return "WITH " + printer.list(node.expressions)


@rule(exp.CTE, parts="this alias scalar")
def cte(printer: Printer, node: exp.CTE) -> str:
    alias = node.args["alias"]
    name = alias.this if isinstance(alias, exp.TableAlias) else None
    if not isinstance(name, exp.Identifier) or alias.args.get("columns"):
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", "give each part of WITH one name, as name AS (SELECT …)")
    if node.args.get("scalar"):
        return f"{printer.print(node.this)} AS {printer.print(name)}"
    if not isinstance(node.this, exp.Query):
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", "write name AS (SELECT …), or expression AS name")
    query = printer.print(node.this)
    if name.name in VIEWS:
        printer.refuse(name, "NAME_TAKEN", f"{name.name!r} is a view; give this part of WITH another name")
    if name.name in printer.ctes:
        printer.refuse(name, "NAME_TAKEN", f"{name.name!r} is a part of WITH already; choose another name")
    printer.print(name)
    printer.ctes.append(name.name)
    return f"{quoted(CTE_PREFIX + name.name)} AS ({query})"


@rule(exp.Subquery, parts="this alias")
def subquery(printer: Printer, node: exp.Subquery) -> str:
    if not isinstance(node.this, exp.Query):
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", "parentheses hold a whole SELECT; name tables without them")
    return f"({printer.print(node.this)}){_alias(printer, node)}"


@rule(exp.From, parts="this")
def from_(printer: Printer, node: exp.From) -> str:
    return f" FROM {_source(printer, node.this)}"


def _source(printer: Printer, node: exp.Expr) -> str:
    if isinstance(node, (exp.Table, exp.Subquery)):
        return printer.print(node)
    if type(node) in NODES:
        return printer.print(node)
    if isinstance(node, exp.Unnest):
        return printer.refuse(
            node, "TABLE_FUNCTION_NOT_ALLOWED", "UNNEST is no table here; use arrayJoin or ARRAY JOIN"
        )
    return printer.refuse(node, "UNKNOWN_TABLE", f"{spoken(node)} is no table; {_the_views()}")


@rule(exp.Table, parts="this db catalog alias")
def table(printer: Printer, node: exp.Table) -> str:
    if isinstance(node.this, exp.Func):
        name = str(node.this.name).removeprefix(FUNCTION_MARK) or type(node.this).__name__
        message = f"the table function {name!r} is not allowed; {_the_views()}"
        return printer.refuse(node, "TABLE_FUNCTION_NOT_ALLOWED", message)
    if not isinstance(node.this, exp.Identifier):
        return printer.refuse(node, "UNKNOWN_TABLE", f"a table must be named; {_the_views()}")
    if node.args.get("db") or node.args.get("catalog"):
        return printer.refuse(node, "QUALIFIED_TABLE", f"name tables without a database; {_the_views()}")
    name = node.this.name
    if name in printer.ctes:
        return f"{quoted(CTE_PREFIX + name)}{_alias(printer, node) or ' AS ' + printer.print(node.this)}"
    if name not in VIEWS:
        return printer.refuse(node, "UNKNOWN_TABLE", f"there is no table {name!r}; {_the_views()}")
    printer.views.add(name)
    return f"{VIEW_MARK}{name}{VIEW_MARK}{_alias(printer, node) or f' AS {quoted(name)}'}"


def _alias(printer: Printer, node: exp.Expr) -> str:
    alias = node.args.get("alias")
    return f" AS {printer.print(alias)}" if alias else ""


@rule(exp.TableAlias, parts="this")
def table_alias(printer: Printer, node: exp.TableAlias) -> str:
    return printer.print(node.this)


@rule(exp.Join, parts="this expressions side kind on using")
def join(printer: Printer, node: exp.Join) -> str:
    side, kind = node.side, node.kind
    if kind == "ARRAY":
        outer = "LEFT " if side == "LEFT" else ""
        return f" {outer}ARRAY JOIN {', '.join([_array(printer, each) for each in (node.this, *node.expressions)])}"
    if side not in _SIDES or kind not in _KINDS or node.expressions:
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", f"{side} {kind} JOIN is not supported here".strip())
    on, using = node.args.get("on"), node.args.get("using")
    if not (on or using or kind == "CROSS"):
        printer.refuse(
            node, "JOIN_WITHOUT_CONDITION", "give the JOIN a condition with ON or USING, or write CROSS JOIN"
        )
    made = f" {' '.join(filter(None, (side, kind)))} JOIN {_source(printer, node.this)}"
    if on:
        made += f" ON {printer.print(on)}"
    return made + (f" USING ({printer.list(using)})" if using else "")


def _array(printer: Printer, node: exp.Expr) -> str:
    """One array of ARRAY JOIN, printed so that sqlglot could read it: without parentheses about it."""
    array = node.this if isinstance(node, exp.Alias) else node
    if not isinstance(array, _ARRAYS):
        message = "ARRAY JOIN takes columns, arrays and functions; write arrayConcat(…) about anything else"
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", message)
    if array is node or isinstance(array, exp.Columns):
        return printer.print(node)
    return f"{printer.print(array)} AS {printer.print(node.args['alias'])}"


@rule(exp.Where, exp.Having, exp.Qualify, parts="this")
def condition(printer: Printer, node: exp.Expr) -> str:
    return f" {type(node).__name__.upper()} {printer.print(node.this)}"


@rule(exp.Group, parts="expressions all cube rollup grouping_sets")
def group(printer: Printer, node: exp.Group) -> str:
    args = node.args
    if args.get("all"):
        return " GROUP BY ALL"
    made = [printer.print(each) for each in node.expressions]
    suffix = ""
    for part in ("grouping_sets", "cube", "rollup"):
        for each in args.get(part) or ():
            if isinstance(each, (exp.Cube, exp.Rollup)) and not each.expressions:
                suffix = f" WITH {type(each).__name__.upper()}"
            else:
                made.append(printer.print(each))
    return f" GROUP BY {', '.join(made)}{suffix}"


@rule(exp.Cube, exp.Rollup, parts="expressions")
def cube(printer: Printer, node: exp.Expr) -> str:
    return f"{type(node).__name__.upper()}({printer.list(node.expressions)})"


@rule(exp.GroupingSets, parts="expressions")
def grouping_sets(printer: Printer, node: exp.GroupingSets) -> str:
    sets = [
        printer.print(each) if isinstance(each, (exp.Tuple, exp.Paren, exp.Subquery)) else f"({printer.print(each)})"
        for each in node.expressions
    ]
    return f"GROUPING SETS ({', '.join(sets)})"


@rule(exp.Order, parts="expressions")
def order(printer: Printer, node: exp.Order) -> str:
    only = node.expressions[0].this if len(node.expressions) == 1 else None
    if isinstance(only, exp.Column) and only.name.upper() == "ALL" and not only.this.args.get("quoted"):
        return f" ORDER BY ALL{' DESC' if node.expressions[0].args.get('desc') else ''}"
    return f" ORDER BY {printer.list(node.expressions)}"


@rule(exp.Ordered, parts="this desc nulls_first")
def ordered(printer: Printer, node: exp.Ordered) -> str:
    nulls = " NULLS FIRST" if node.args.get("nulls_first") else ""
    return f"{printer.print(node.this)}{' DESC' if node.args.get('desc') else ''}{nulls}"


@rule(exp.Cluster, parts="expressions")
def limit_by(printer: Printer, node: exp.Cluster) -> str:
    count, *columns = node.expressions
    return f" LIMIT {printer.print(count)} BY {printer.list(columns)}"


@rule(exp.Limit, parts="expression limit_options")
def limit(printer: Printer, node: exp.Limit) -> str:
    options = node.args.get("limit_options")
    return f" LIMIT {printer.print(node.expression)}{printer.print(options) if options else ''}"


@rule(exp.LimitOptions, parts="with_ties")
def limit_options(printer: Printer, node: exp.LimitOptions) -> str:
    return " WITH TIES" if node.args.get("with_ties") else ""


@rule(exp.Offset, parts="expression")
def offset(printer: Printer, node: exp.Offset) -> str:
    return f" OFFSET {printer.print(node.expression)}"


def _distinct(printer: Printer, node: exp.Distinct) -> str:
    on = node.args.get("on")
    return f"DISTINCT ON ({printer.list(_members(on))}) " if on else "DISTINCT "


def _members(node: exp.Expr) -> list[exp.Expr]:
    return node.expressions if isinstance(node, exp.Tuple) else [node]


def _the_views() -> str:
    return f"there are {', '.join(sorted(VIEWS))}"
