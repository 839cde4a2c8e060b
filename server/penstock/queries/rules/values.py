"""Rules for names, values, parameters and types."""

import re
from types import NoneType

from sqlglot import exp

from penstock import limits
from penstock.queries import allowed
from penstock.queries.printing import Printer, RuleBook, quoted, text, type_text
from penstock.queries.reading import FUNCTION_MARK
from penstock.queries.views import RESERVED_PREFIX

rule = RuleBook()

NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HEX = re.compile(r"[0-9A-Fa-f]{1,64}")
_BITS = re.compile(r"[01]{1,256}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# What a type stands in; one that is read from a text stands alone.
_TYPED = (exp.Cast, exp.CastToStrType, exp.Placeholder, exp.ColumnDef, exp.DataType, NoneType)
# Names that no view has and the engine would know.
_HIDDEN = re.compile(
    "tenant|run|_part|_part_(index|uuid|offset|starting_offset|granule_offset|data_version)|_partition_(id|value)"
    "|_sample_factor|_table|_database|_path|_file|_size|_time|_etag|_headers|_tags|_row_exists|_block_(number|offset)"
    "|_shard_num|_distance|_disk_name|_virtual_row"
)


@rule(exp.Identifier, parts="this quoted")
def identifier(printer: Printer, node: exp.Identifier) -> str:
    name = node.name
    if name.lower().startswith(RESERVED_PREFIX) or _HIDDEN.fullmatch(name):
        return printer.refuse(node, "RESERVED_NAME", f"the name {name!r} is reserved; choose another")
    if not name or len(name) > limits.SQL_NAME_CHARS_MAX or not name.isprintable() or {"`", "\\"} & {*name}:
        return printer.refuse(node, "BAD_NAME", "names are not empty, not long, and without backticks and backslashes")
    if name.startswith(FUNCTION_MARK):
        return printer.refuse(node, "SYNTAX_ERROR", "two pairs of parentheses follow each other only after a function")
    return quoted(name)


@rule(exp.Column, parts="this table db catalog")
def column(printer: Printer, node: exp.Column) -> str:
    parts = (node.args.get("catalog"), node.args.get("db"), node.args.get("table"), node.this)
    return ".".join([_element(printer, part) for part in parts if part])


def _element(printer: Printer, part: exp.Expr) -> str:
    """What may follow a dot: a name, the number of a tuple's element, or a star."""
    if isinstance(part, (exp.Identifier, exp.Star)) or (isinstance(part, exp.Literal) and part.is_int):
        return printer.print(part)
    return printer.refuse(part, "UNSUPPORTED_SYNTAX", "a dot is followed by the name of a column or of an element")


@rule(exp.Dot, parts="this expression")
def dot(printer: Printer, node: exp.Dot) -> str:
    left = printer.operand(node.this)
    if isinstance(node.this, exp.Literal):
        left = f"({left})"  # else the dot would be the number's own
    return f"{left}.{_element(printer, node.expression)}"


@rule(exp.Star, parts="except_ replace")
def star(printer: Printer, node: exp.Star) -> str:
    left_out, replaced = node.args.get("except_"), node.args.get("replace")
    return (
        "*"
        + (f" EXCEPT ({printer.list(left_out)})" if left_out else "")
        + (f" REPLACE ({printer.list(replaced)})" if replaced else "")
    )


@rule(exp.Columns, parts="this")
def columns(printer: Printer, node: exp.Columns) -> str:
    if not (isinstance(node.this, exp.Literal) and node.this.is_string):
        return printer.refuse(
            node, "UNSUPPORTED_SYNTAX", "COLUMNS takes a pattern as a text; else write out the columns"
        )
    return f"COLUMNS({printer.print(node.this)})"


@rule(exp.Alias, parts="this alias")
def alias(printer: Printer, node: exp.Alias) -> str:
    if _is_columns(node.this):
        # ClickHouse, which does not read this as a SELECT, would take (SELECT (*) AS x) for a function of that name.
        return printer.refuse(node, "SYNTAX_ERROR", "columns of a star or of COLUMNS keep their names; remove AS")
    return f"{printer.operand(node.this)} AS {printer.print(node.args['alias'])}"


def _is_columns(node: exp.Expr) -> bool:
    """Whether the node stands for columns, of which there may be any number."""
    while isinstance(node, (exp.Paren, exp.Column, exp.Dot)):
        node = node.expression if isinstance(node, exp.Dot) else node.this
    return isinstance(node, (exp.Star, exp.Columns))


@rule(exp.Literal, parts="this is_string")
def literal(printer: Printer, node: exp.Literal) -> str:
    if node.is_string:
        return text(node.name)
    return _matching(printer, node, NUMBER, node.name)


@rule(exp.HexString, parts="this is_integer")
def hex_string(printer: Printer, node: exp.HexString) -> str:
    return "0x" + _matching(printer, node, _HEX, node.name)


@rule(exp.BitString, parts="this is_integer")
def bit_string(printer: Printer, node: exp.BitString) -> str:
    return "0b" + _matching(printer, node, _BITS, node.name)


def _matching(printer: Printer, node: exp.Expr, pattern: re.Pattern[str], written: str) -> str:
    if pattern.fullmatch(written):
        return written
    return printer.refuse(node, "SYNTAX_ERROR", f"{written!r} is no number")


@rule(exp.Boolean, parts="this")
def boolean(printer: Printer, node: exp.Boolean) -> str:
    return "true" if node.this else "false"


@rule(exp.Null)
def null(printer: Printer, node: exp.Null) -> str:
    return "NULL"


@rule(exp.Placeholder, parts="this kind")
def parameter(printer: Printer, node: exp.Placeholder) -> str:
    name, kind = node.name, node.args.get("kind")
    if not isinstance(kind, exp.DataType):
        return printer.refuse(
            node, "PARAMETER_NOT_ALLOWED", f"the parameter {name!r} needs a type of values: {{x:String}}"
        )
    if not _PARAMETER.fullmatch(name) or name.lower().startswith(RESERVED_PREFIX):
        return printer.refuse(node, "RESERVED_NAME", f"a parameter cannot be named {name!r}")
    if name not in printer.given:
        printer.refuse(node, "PARAMETER_MISSING", f"no value was sent for the parameter {name!r}")
    printed = printer.print(kind)
    if printer.parameters.setdefault(name, printed) != printed:
        printer.refuse(node, "PARAMETER_NOT_ALLOWED", f"the parameter {name!r} has two types; give it one")
    return f"{{{name}:{printed}}}"


@rule(exp.Array, parts="expressions value_constructor")
def array(printer: Printer, node: exp.Array) -> str:
    return f"[{printer.list(node.expressions)}]"


@rule(exp.Tuple, parts="expressions")
def tuple_(printer: Printer, node: exp.Tuple) -> str:
    comma = "," if len(node.expressions) == 1 else ""
    return f"({printer.list(node.expressions)}{comma})"


@rule(exp.Struct, parts="expressions")
def struct(printer: Printer, node: exp.Struct) -> str:
    return f"tuple({printer.list(node.expressions)})"


@rule(exp.VarMap, parts="keys values")
def map_(printer: Printer, node: exp.VarMap) -> str:
    keys, values = node.args["keys"].expressions, node.args["values"].expressions
    if len(keys) != len(values):
        return printer.refuse(node, "SYNTAX_ERROR", "map takes keys and values in turn")
    return f"map({printer.list(each for pair in zip(keys, values, strict=True) for each in pair)})"


@rule(exp.Paren, parts="this")
def paren(printer: Printer, node: exp.Paren) -> str:
    return f"({printer.print(node.this)})"


@rule(exp.Bracket, parts="this expressions")
def bracket(printer: Printer, node: exp.Bracket) -> str:
    if len(node.expressions) != 1:
        return printer.refuse(node, "SYNTAX_ERROR", "a subscript is one value")
    return f"{printer.operand(node.this)}[{printer.list(node.expressions)}]"


@rule(exp.Cast, parts="this to")
def cast(printer: Printer, node: exp.Cast) -> str:
    return f"CAST({printer.print(node.this)} AS {printer.print(node.to)})"


@rule(exp.CastToStrType, parts="this to")
def cast_to_text(printer: Printer, node: exp.CastToStrType) -> str:
    return f"CAST({printer.print(node.this)}, {type_text(printer, node.args['to'])})"


@rule(exp.DataType, parts="this expressions nested nullable")
def data_type(printer: Printer, node: exp.DataType) -> str:
    if not isinstance(node.parent, _TYPED):
        return printer.refuse(node, "SYNTAX_ERROR", "a type stands where values are converted; see CAST")
    name = allowed.TYPES.get(node.this)
    if name is None:
        written = getattr(node.this, "value", node.this)
        return printer.refuse(
            node, "TYPE_NOT_ALLOWED", f"the type {written} is not allowed; use a plain one, Array, Map or Tuple"
        )
    made = name + (f"({printer.list(node.expressions)})" if node.expressions else "")
    return f"Nullable({made})" if node.args.get("nullable") else made


@rule(exp.DataTypeParam, parts="this")
def type_parameter(printer: Printer, node: exp.DataTypeParam) -> str:
    return printer.print(node.this)


@rule(exp.ColumnDef, parts="this kind")
def type_element(printer: Printer, node: exp.ColumnDef) -> str:
    return f"{printer.print(node.this)} {printer.print(node.args['kind'])}"


@rule(exp.Interval, parts="this unit")
def interval(printer: Printer, node: exp.Interval) -> str:
    unit = node.args.get("unit")
    name = unit.name.upper().removesuffix("S") if unit else ""
    if name not in allowed.INTERVAL_UNITS:
        return printer.refuse(node, "SYNTAX_ERROR", "write INTERVAL 1 DAY, or another unit of time")
    count = node.this
    plain = isinstance(count, exp.Literal) and NUMBER.fullmatch(count.name)
    return f"toInterval{name.capitalize()}({count.name if plain else printer.print(count)})"
