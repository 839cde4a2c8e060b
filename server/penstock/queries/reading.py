"""From text to sqlglot's tree.

What sqlglot reads of ClickHouse is close to what ClickHouse reads, and changed by ways of other dialects: it makes
`toStartOfHour(x)` a DATE_TRUNC, and forgets how it was written. So names of functions are marked before the parser sees
them: it takes each for one that it does not know, and leaves name and arguments as they are. The marks cannot be
written by a user, whose names without quotes are ASCII. sqlglot's parser is compiled (4 × as fast), so it cannot
be subclassed; tokens can be changed.
"""

import logging
import re
from collections.abc import Sequence

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import SqlglotError

from penstock import limits
from penstock.queries.verdict import Position, Reason

FUNCTION_MARK = "ƒ"
PARAMETERS_END = "ƒ)("  # stands between the parameters and the arguments of quantile(0.9)(x)


class _Dialect(ClickHouse):
    INDEX_OFFSET = 0  # subscripts stay as they are written


_DIALECT = _Dialect()

# Keywords to sqlglot, functions when a parenthesis follows.
_ALSO_FUNCTIONS = frozenset(
    (
        TokenType.ISNULL,
        TokenType.RANGE,
        TokenType.FORMAT,
        TokenType.LEFT,
        TokenType.RIGHT,
        TokenType.REPLACE,
        TokenType.ANY,
    )
)
# Functions that sqlglot reads as what they are: they take a type, a unit, or a pattern of column names.
_KEPT = frozenset(("cast", "extract", "columns"))
_FIRST = frozenset((TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN))
_OPENING = frozenset((TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE))
_CLOSING = frozenset((TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE))
_ALL_OR_DISTINCT = frozenset((TokenType.ALL, TokenType.DISTINCT))
_ENDS_ARGUMENT = frozenset((TokenType.COMMA, TokenType.R_PAREN))
_ESCAPE = re.compile(r"\\(x[0-7][0-9A-Fa-f]|[^x])", re.DOTALL)
_BODY = frozenset((TokenType.STRING, TokenType.IDENTIFIER))

_NOT_READ = "the statement cannot be read; it must be one SELECT of ClickHouse's"
# What sqlglot raises, besides its own errors, on text that is hardly SQL.
_STUMBLES = (LookupError, TypeError, ValueError, AttributeError, AssertionError)

# Otherwise it writes a warning, with the statement in it, for what it takes for a command.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


class Unreadable(Exception):
    """The text cannot be read as one statement."""

    def __init__(self, code: str, message: str, position: Position) -> None:
        super().__init__(message)
        self.reason = Reason(code, message, position)


def read(sql: str) -> exp.Expr:
    """The tree of the one statement in `sql`. Raises Unreadable."""
    tokens = _tokens(sql)
    _check(tokens, sql)
    try:
        trees = _DIALECT.parser().parse(_marked(tokens), sql)
    except SqlglotError as error:
        raise _syntax_error(error, sql) from error
    except RecursionError as error:
        raise Unreadable("TOO_COMPLEX", "the statement is nested too deeply", Position(1, 1)) from error
    except _STUMBLES as error:
        raise Unreadable("SYNTAX_ERROR", _NOT_READ, Position(1, 1)) from error
    if len(trees) != 1 or trees[0] is None:
        raise Unreadable("NOT_ONE_STATEMENT", "send exactly one statement", Position(1, 1))
    return trees[0]


def read_type(text: str) -> exp.DataType | None:
    """The type that a text names, as in JSONExtract(x, 'Array(String)'); None when it names none."""
    try:
        (kind,) = _DIALECT.parse_into(exp.DataType, text)
    except (SqlglotError, RecursionError, *_STUMBLES):
        return None
    return kind if isinstance(kind, exp.DataType) else None


def position(sql: str, offset: int) -> Position:
    """Line and column of the character at `offset`."""
    return Position(sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset))


def _tokens(sql: str) -> list[Token]:
    if len(sql.encode(errors="surrogatepass")) > limits.SQL_BYTES_MAX:
        raise Unreadable("TOO_LONG", f"the statement is longer than {limits.SQL_BYTES_MAX} bytes", Position(1, 1))
    for offset, character in enumerate(sql):
        if not character.isprintable() and character not in "\n\r\t":
            message = f"the character U+{ord(character):04X} cannot stand in a statement; bind it as a parameter"
            raise Unreadable("FORBIDDEN_CHARACTER", message, position(sql, offset))
    try:
        return _DIALECT.tokenize(sql)
    except SqlglotError as error:
        raise _syntax_error(error, sql) from error
    except _STUMBLES as error:
        raise Unreadable("SYNTAX_ERROR", _NOT_READ, Position(1, 1)) from error


def _check(tokens: Sequence[Token], sql: str) -> None:
    """Bounds what the parser is given, and refuses what it and the engine may read differently."""
    if not tokens:
        raise Unreadable("NOT_ONE_STATEMENT", "the statement is empty", Position(1, 1))
    if tokens[0].token_type not in _FIRST:
        raise _at(sql, tokens[0], "NOT_A_SELECT", "only SELECT runs here, also with WITH in front")
    if len(tokens) > limits.SQL_TOKENS_MAX:
        raise Unreadable("TOO_COMPLEX", f"more than {limits.SQL_TOKENS_MAX} words and signs", Position(1, 1))
    depth = joins = 0
    for token, following, third in zip(tokens, [*tokens[1:], None], [*tokens[2:], None, None], strict=False):
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        joins += token.token_type is TokenType.JOIN
        if depth > limits.SQL_DEPTH_MAX:
            raise _at(sql, token, "TOO_COMPLEX", f"nested deeper than {limits.SQL_DEPTH_MAX}")
        if joins > limits.SQL_JOINS_MAX:
            raise _at(sql, token, "TOO_COMPLEX", f"more than {limits.SQL_JOINS_MAX} joins")
        if token.token_type is TokenType.SEMICOLON and following is not None:
            raise _at(sql, following, "NOT_ONE_STATEMENT", "send one statement; nothing may follow the semicolon")
        if token.token_type not in _BODY and not token.text.isascii():
            message = f"{token.text!r} is not ASCII; names in other letters stand in backticks"
            raise _at(sql, token, "FORBIDDEN_CHARACTER", message)
        if token.token_type is TokenType.IDENTIFIER and following and following.token_type is TokenType.L_PAREN:
            raise _at(sql, token, "FUNCTION_NOT_ALLOWED", f"write the function {token.text!r} without quotes")
        if token.token_type in _BODY and "\\" in _ESCAPE.sub("", sql[token.start : token.end + 1]):
            # Of \\x without two digits, and of bytes that are no UTF-8, sqlglot and ClickHouse think differently.
            raise _at(
                sql,
                token,
                "SYNTAX_ERROR",
                "\\x takes two hexadecimal digits, at most 7F; bind other bytes as a parameter",
            )
        if token.token_type is TokenType.L_BRACE and (third is None or third.token_type is not TokenType.COLON):
            raise _at(sql, token, "UNSUPPORTED_SYNTAX", "write map('key', value), or {name:Type} for a parameter")
        if token.token_type is TokenType.UNION and (following is None or following.token_type not in _ALL_OR_DISTINCT):
            raise _at(sql, token, "UNION_AMBIGUOUS", "write UNION ALL or UNION DISTINCT")
        if following and third and _is_column(token, following, third):
            raise _at(sql, following, "SYNTAX_ERROR", f"a column named {following.text} stands in backticks")
        if token.token_type is TokenType.CLUSTER_BY:
            raise _at(sql, token, "SYNTAX_ERROR", "CLUSTER BY is not ClickHouse's")


def _is_column(token: Token, following: Token, third: Token) -> bool:
    """Whether ALL or DISTINCT stands where ClickHouse takes it for a column, as in f(DISTINCT, x); sqlglot drops it."""
    opened = token.token_type is TokenType.L_PAREN and following.token_type in _ALL_OR_DISTINCT
    return opened and third.token_type in _ENDS_ARGUMENT


def _marked(tokens: Sequence[Token]) -> list[Token]:
    """The tokens with functions marked, and with what sqlglot cannot read said in words that it can."""
    made: list[Token] = []
    types = [token.token_type for token in tokens] + [TokenType.SEMICOLON] * 3
    limit_by = False
    after_on = _after_on(types)
    for index, token in enumerate(tokens):
        kind = token.token_type
        if types[index + 1] is TokenType.L_PAREN and _is_function(tokens, index):
            made.append(_changed(token, TokenType.VAR, FUNCTION_MARK + token.text))
        elif index in after_on or index - 1 in after_on:
            made.append(token)
        elif kind is TokenType.R_PAREN and types[index + 1] is TokenType.L_PAREN:
            made += () if types[index - 1] is TokenType.L_PAREN else (_changed(token, TokenType.COMMA, ","),)
            made.append(_changed(token, TokenType.VAR, PARAMETERS_END))
        elif kind is TokenType.L_PAREN and index and types[index - 1] is TokenType.R_PAREN:
            made += () if types[index + 1] is TokenType.R_PAREN else (_changed(token, TokenType.COMMA, ","),)
        elif kind is TokenType.LIMIT and index + 2 < len(tokens) and tokens[index + 2].text.upper() == "BY":
            # sqlglot knows one LIMIT only; ClickHouse has LIMIT 2 BY x beside it. This keeps it as CLUSTER BY 2, x.
            made.append(_changed(token, TokenType.CLUSTER_BY, "CLUSTER BY"))
            limit_by = True
        elif limit_by and token.text.upper() == "BY":
            made.append(_changed(token, TokenType.COMMA, ","))
            limit_by = False
        else:
            made.append(token)
    return made


def _after_on(types: Sequence[TokenType]) -> set[int]:
    """Where DISTINCT ON (…) ends: parentheses behind it are the first column, not arguments."""
    opened: list[int] = []
    ends = set()
    for index, kind in enumerate(types):
        if kind is TokenType.L_PAREN:
            opened.append(index)
        elif kind is TokenType.R_PAREN and opened:
            at = opened.pop()
            if types[max(at - 2, 0) : at] == [TokenType.DISTINCT, TokenType.ON]:
                ends.add(index)
    return ends


def _is_function(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    if token.token_type is TokenType.REPLACE and index:
        return tokens[index - 1].token_type not in (TokenType.STAR, TokenType.R_PAREN)  # else SELECT * REPLACE (…)
    if token.token_type is TokenType.VAR:
        return token.text.lower() not in _KEPT and token.text.upper() != "BY"
    return token.token_type in _ALSO_FUNCTIONS


def _changed(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end)


def _at(sql: str, token: Token, code: str, message: str) -> Unreadable:
    return Unreadable(code, message, position(sql, token.start))


def _syntax_error(error: SqlglotError, sql: str) -> Unreadable:
    found = getattr(error, "errors", None) or [{}]
    line, column = found[0].get("line") or 1, found[0].get("col") or 1
    near = (found[0].get("highlight") or "").replace(FUNCTION_MARK, "")
    what = f"the statement cannot be read near {near!r}; it must be one SELECT of ClickHouse's" if near else _NOT_READ
    return Unreadable("SYNTAX_ERROR", what, Position(line, column))
