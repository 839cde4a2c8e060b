"""Rules for operators and functions."""

import re

from sqlglot import exp

from penstock.queries import allowed
from penstock.queries.printing import Printer, RuleBook, spoken, type_text
from penstock.queries.reading import FUNCTION_MARK, PARAMETERS_END

rule = RuleBook()

OPERATORS: dict[type[exp.Expr], str] = {
    exp.And: "AND", exp.Or: "OR", exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%",
    exp.IntDiv: "DIV", exp.DPipe: "||", exp.EQ: "=", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">",
    exp.GTE: ">=", exp.NullSafeEQ: "<=>",
}  # fmt: skip
_FRAME_BOUNDS = frozenset(("UNBOUNDED", "CURRENT ROW"))
_FRAME_SIDES = frozenset(("", "PRECEDING", "FOLLOWING"))
_AGGREGATE_TEXT = re.compile(r"(\w+)(?:\([\d., ]*\))?", re.ASCII)


@rule(*OPERATORS, parts="this expression safe typed")
def operator(printer: Printer, node: exp.Expr) -> str:
    word = OPERATORS[type(node)]
    operands = [node.expression]
    left = node.this
    # A long chain of AND leans to the left as deeply as it is long.
    while type(left) is type(node):
        operands.append(left.expression)
        left = left.this
    return f" {word} ".join([printer.operand(each) for each in (left, *reversed(operands))])


@rule(exp.Not, parts="this")
def not_(printer: Printer, node: exp.Not) -> str:
    return f"NOT {printer.operand(node.this)}"


@rule(exp.Neg, parts="this")
def negative(printer: Printer, node: exp.Neg) -> str:
    return f"-{printer.operand(node.this)}"


@rule(exp.Like, exp.ILike, parts="this expression negate")
def like(printer: Printer, node: exp.Expr) -> str:
    word = ("NOT " if node.args.get("negate") else "") + type(node).__name__.upper()
    return f"{printer.operand(node.this)} {word} {printer.operand(node.expression)}"


@rule(exp.Between, parts="this low high")
def between(printer: Printer, node: exp.Between) -> str:
    low, high = node.args["low"], node.args["high"]
    return f"{printer.operand(node.this)} BETWEEN {printer.operand(low)} AND {printer.operand(high)}"


@rule(exp.Is, parts="this expression")
def is_(printer: Printer, node: exp.Is) -> str:
    if not isinstance(node.expression, exp.Null):
        return printer.refuse(node, "UNSUPPORTED_SYNTAX", "IS goes with NULL only")
    return f"{printer.operand(node.this)} IS NULL"


@rule(exp.In, parts="this expressions query field")
def in_(printer: Printer, node: exp.In) -> str:
    left, query, field = printer.operand(node.this), node.args.get("query"), node.args.get("field")
    if query:
        return f"{left} IN {printer.query(query)}"
    members = [field] if field else node.expressions
    if len(members) == 1 and _is_name(members[0]):
        # ClickHouse reads a lone name after IN as a table, in parentheses too.
        message = "a name alone after IN is a table to ClickHouse; write IN (SELECT …), or has(array, value)"
        return printer.refuse(members[0], "IN_TABLE", message)
    return f"{left} IN {printer.operand(field)}" if field else f"{left} IN ({printer.list(members)})"


@rule(exp.Exists, parts="this")
def exists(printer: Printer, node: exp.Exists) -> str:
    if not isinstance(node.this, exp.Query):
        return printer.refuse(node, "SYNTAX_ERROR", "EXISTS is followed by a SELECT in parentheses")
    return f"EXISTS {printer.query(node.this)}"


@rule(exp.Case, parts="this ifs default")
def case(printer: Printer, node: exp.Case) -> str:
    subject, default = node.this, node.args.get("default")
    made = "CASE " + (f"{printer.print(subject)} " if subject else "")
    for each in node.args["ifs"]:
        made += f"WHEN {printer.print(each.this)} THEN {printer.print(each.args['true'])} "
    return made + (f"ELSE {printer.print(default)} " if default else "") + "END"


@rule(exp.If, parts="this true false")
def if_(printer: Printer, node: exp.If) -> str:
    false = node.args.get("false")
    if not isinstance(false, exp.Expr):
        return printer.refuse(node, "SYNTAX_ERROR", "write condition ? one : other")
    return f"if({printer.list((node.this, node.args['true'], false))})"


@rule(exp.Extract, parts="this expression")
def extract(printer: Printer, node: exp.Extract) -> str:
    unit = node.this.name.upper() if isinstance(node.this, exp.Var) else ""
    if unit not in allowed.EXTRACT_UNITS:
        return printer.refuse(node, "SYNTAX_ERROR", "write EXTRACT(DAY FROM x), or another unit of time")
    return f"EXTRACT({unit} FROM {printer.print(node.expression)})"


@rule(exp.Anonymous, parts="this expressions")
def function(printer: Printer, node: exp.Anonymous) -> str:
    marked, name = str(node.this), _name(node)
    if not (marked.startswith(FUNCTION_MARK) or name == "extract") or not allowed.is_function(name):
        return printer.refuse(node, "FUNCTION_NOT_ALLOWED", f"the function {name!r} is not allowed or not known")
    arguments = node.expressions
    if None in arguments:  # sqlglot's own EXTRACT, without its second one
        return printer.refuse(node, "SYNTAX_ERROR", f"{name!r} lacks an argument")
    ends = [index for index, each in enumerate(arguments) if each.name == PARAMETERS_END]
    if len(ends) > 1 or (ends and not allowed.is_aggregate(name)):
        return printer.refuse(node, "SYNTAX_ERROR", f"{name!r} is followed by one pair of parentheses")
    parameters = f"({printer.list(arguments[: ends[0]])})" if ends else ""
    rest = arguments[ends[0] + 1 :] if ends else arguments
    if len(rest) == 1 and isinstance(rest[0], exp.Distinct):
        return f"{name}{parameters}({_distinct(printer, rest[0], name)})"
    return f"{name}{parameters}({printer.list(rest) if ends else _arguments(printer, node, name)})"


def _name(node: exp.Anonymous) -> str:
    return str(node.this).removeprefix(FUNCTION_MARK)


def _distinct(printer: Printer, node: exp.Distinct, name: str) -> str:
    """The arguments of an aggregate of different values.

    ClickHouse puts DISTINCT behind the name, whatever it is the name of: f(DISTINCT x) is fDistinct(x) to it.
    """
    if not allowed.is_aggregate(f"{name}Distinct"):
        return printer.refuse(node, "FUNCTION_NOT_ALLOWED", f"{name!r} takes no DISTINCT; only aggregates do")
    if not node.expressions or node.args.get("on"):
        return printer.refuse(node, "SYNTAX_ERROR", "DISTINCT is followed by what is to differ")
    return f"DISTINCT {printer.list(node.expressions)}"


def _arguments(printer: Printer, node: exp.Anonymous, name: str) -> str:
    """The arguments, those that are types or aggregates in a text among them."""
    printed = [printer._item(each) for each in node.expressions]
    type_at, aggregate_at = allowed.TYPE_ARGUMENTS.get(name), allowed.AGGREGATE_ARGUMENTS.get(name)
    if type_at is not None and len(printed) > 1:
        printed[type_at] = type_text(printer, node.expressions[type_at])
    if aggregate_at is not None and printed:
        named = node.expressions[aggregate_at]
        match = _AGGREGATE_TEXT.fullmatch(named.name) if isinstance(named, exp.Literal) and named.is_string else None
        if match is None or not allowed.is_aggregate(match[1]):
            printer.refuse(named, "FUNCTION_NOT_ALLOWED", f"{name} takes the name of a listed aggregate, as a text")
    return ", ".join(printed)


@rule(exp.Lambda, parts="this expressions")
def lambda_(printer: Printer, node: exp.Lambda) -> str:
    return f"({printer.list(node.expressions)}) -> {printer.operand(node.this)}"


@rule(exp.IgnoreNulls, exp.RespectNulls, parts="this")
def nulls(printer: Printer, node: exp.Expr) -> str:
    return f"{printer.print(node.this)} {'IGNORE' if isinstance(node, exp.IgnoreNulls) else 'RESPECT'} NULLS"


@rule(exp.Filter, parts="this expression")
def filter_(printer: Printer, node: exp.Filter) -> str:
    called = node.this
    name = _name(called) if isinstance(called, exp.Anonymous) else spoken(called)
    # This, too, ClickHouse puts behind the name: f(x) FILTER (WHERE y) is fIf(x, y) to it.
    distinct = "Distinct" if any(isinstance(each, exp.Distinct) for each in called.expressions) else ""
    if not allowed.is_aggregate(f"{name}{distinct}If"):
        return printer.refuse(node, "FUNCTION_NOT_ALLOWED", f"{name!r} takes no FILTER; only aggregates do")
    return f"{printer.print(called)} FILTER ({printer.print(node.expression).strip()})"


@rule(exp.Window, parts="this partition_by order spec alias over")
def window(printer: Printer, node: exp.Window) -> str:
    args = node.args
    alias = [printer.print(args["alias"])] if args.get("alias") else []
    parts = [f"PARTITION BY {printer.list(args['partition_by'])}"] if args.get("partition_by") else []
    parts += [printer.print(args[part]).strip() for part in ("order", "spec") if args.get(part)]
    if args.get("over") != "OVER":  # a window with a name of its own, after WINDOW
        return f"{printer.print(node.this)} AS ({' '.join((*alias, *parts))})"
    over = alias[0] if alias and not parts else f"({' '.join((*alias, *parts))})"
    return f"{printer.print(node.this)} OVER {over}"


@rule(exp.WindowSpec, parts="kind start start_side end end_side")
def frame(printer: Printer, node: exp.WindowSpec) -> str:
    args = node.args
    kind = args.get("kind")
    if kind not in ("ROWS", "RANGE", "GROUPS"):
        return printer.refuse(node, "SYNTAX_ERROR", "a frame is of ROWS, RANGE or GROUPS")
    start = _bound(printer, node, args.get("start"), args.get("start_side"))
    if not args.get("end"):
        return f"{kind} {start}"
    return f"{kind} BETWEEN {start} AND {_bound(printer, node, args['end'], args.get('end_side'))}"


def _bound(printer: Printer, node: exp.Expr, bound: object, side: object) -> str:
    if (side or "") not in _FRAME_SIDES or (isinstance(bound, str) and bound not in _FRAME_BOUNDS):
        return printer.refuse(node, "SYNTAX_ERROR", "a frame ends at rows PRECEDING or FOLLOWING, or CURRENT ROW")
    return f"{bound if isinstance(bound, str) else printer.print(bound)} {side or ''}".strip()


def _is_name(node: exp.Expr) -> bool:
    """Whether the node is nothing but a name, however it is wrapped."""
    while isinstance(node, (exp.Paren, exp.Alias)):
        node = node.this
    return isinstance(node, (exp.Column, exp.Identifier, exp.Dot, exp.Star, exp.Table))
