"""What one statement of a user may take, as ClickHouse's settings; and which of them an error speaks of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penstock import limits
from penstock.processors import processors


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: `value` is ClickHouse's, `unit` says of what."""

    value: int
    unit: str


# For every statement; what a lane bounds otherwise is given beside.
LIMITS: Mapping[str, Limit] = {
    "max_execution_time": Limit(limits.SQL_SECONDS_MAX, "seconds"),
    "max_memory_usage": Limit(limits.SQL_MEMORY_BYTES_MAX, "bytes"),
    "max_threads": Limit(min(limits.SQL_THREADS_MAX, processors()), "threads"),
    "max_rows_to_read": Limit(limits.SQL_ROWS_READ_MAX, "rows"),
    "max_bytes_to_read": Limit(limits.SQL_BYTES_READ_MAX, "bytes"),
    "max_columns_to_read": Limit(500, "columns"),
    "max_rows_to_group_by": Limit(20_000_000, "rows"),
    "max_rows_in_distinct": Limit(20_000_000, "rows"),
    "max_rows_in_set": Limit(20_000_000, "rows"),
    "max_rows_in_join": Limit(20_000_000, "rows"),
    "max_temporary_columns": Limit(5_000, "columns"),
    "max_temporary_data_on_disk_size_for_query": Limit(4 * limits.SQL_MEMORY_BYTES_MAX, "bytes"),
    "max_subquery_depth": Limit(50, "levels"),
    "max_recursive_cte_evaluation_depth": Limit(1_000, "levels"),
    "max_query_size": Limit(limits.SQL_TEXT_BYTES_MAX, "bytes"),
    "max_parser_depth": Limit(1_000, "levels"),
    "max_parser_backtracks": Limit(100_000, "steps"),
    "max_ast_depth": Limit(1_000, "levels"),
    "max_ast_elements": Limit(50_000, "elements"),
    "max_expanded_ast_elements": Limit(200_000, "elements"),
    "function_range_max_elements_in_block": Limit(50_000_000, "elements"),
}
# An answer is held in memory as a whole; a stream is not.
ANSWER_LIMITS: Mapping[str, Limit] = {
    "max_result_bytes": Limit(20 * limits.SQL_RESULT_BYTES_MAX, "bytes"),
}

# What else a statement of a user cannot do, besides `readonly`, which is set last and holds all of them fast.
NARROW: Mapping[str, str | int] = {
    "read_overflow_mode": "throw",
    "result_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
    "group_by_overflow_mode": "throw",
    "distinct_overflow_mode": "throw",
    "set_overflow_mode": "throw",
    "join_overflow_mode": "throw",
    "allow_ddl": 0,
    "allow_introspection_functions": 0,
    "allow_get_client_http_header": 0,
    "use_query_cache": 0,
    # A view leaves out other tenants' rows in a PREWHERE of its own (queries/views.py); nothing is to join it there.
    "optimize_move_to_prewhere": 0,
    "readonly": 1,
}
# chDB only: there, SQL can otherwise name a variable of the Python program and read it.
NARROW_EMBEDDED: Mapping[str, str | int] = {"allow_python_table_function": 0}

# How results are written; see RunSqlResponse.data in the contract.
WRITING: Mapping[str, str | int] = {
    "session_timezone": "UTC",
    "date_time_output_format": "iso",
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 0,
    "output_format_json_quote_denormals": 0,
    "output_format_json_named_tuples_as_objects": 1,
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_compression_method": "lz4_frame",
}

# Codes of ClickHouse that say that a limit was reached, and which one; None: its message names the setting.
_BY_CODE: Mapping[int, str | None] = {
    158: None,  # TOO_MANY_ROWS
    159: "max_execution_time",  # TIMEOUT_EXCEEDED
    160: "max_execution_time",  # TOO_SLOW
    161: "max_columns_to_read",  # TOO_MANY_COLUMNS
    162: "max_subquery_depth",  # TOO_DEEP_SUBQUERIES
    165: "max_temporary_columns",  # TOO_MANY_TEMPORARY_COLUMNS
    167: "max_ast_depth",  # TOO_DEEP_AST
    168: "max_ast_elements",  # TOO_BIG_AST
    191: None,  # SET_SIZE_LIMIT_EXCEEDED
    241: "max_memory_usage",  # MEMORY_LIMIT_EXCEEDED
    306: None,  # TOO_DEEP_RECURSION
    307: "max_bytes_to_read",  # TOO_MANY_BYTES
    396: None,  # TOO_MANY_ROWS_OR_BYTES
}
_BY_PHRASE: tuple[tuple[str, str], ...] = (
    ("rows to GROUP BY", "max_rows_to_group_by"),
    ("for IN-set", "max_rows_in_set"),
    ("for JOIN", "max_rows_in_join"),
    ("for DISTINCT", "max_rows_in_distinct"),
    ("parse depth", "max_parser_depth"),
    ("for result", "max_result_bytes"),
    ("temporary", "max_temporary_data_on_disk_size_for_query"),
)
_SETTING = re.compile(r"\bmax_\w+")
# The whole server's memory, not the statement's: it says something about the moment.
_TOTAL_MEMORY = re.compile(r"\btotal\) memory limit|\bmemory limit exceeded for (?:user|the server)|User memory", re.I)
_OVERLOAD_CODES = frozenset({173, 202, 439})


def limit_reached(code: int | None, message: str, setting_of: Mapping[str, Limit]) -> str | None:
    """The setting whose bound stopped a statement, of those in `setting_of`; None when none did."""
    if is_overload(code, message):
        return None
    if code == 69 and "function range" in message:  # ARGUMENT_OUT_OF_BOUND, of many other things too
        return "function_range_max_elements_in_block"
    if code == 62:  # SYNTAX_ERROR
        return "max_query_size" if "max_query_size" in message else None
    if code is None or code not in _BY_CODE:
        return None
    by_code = _BY_CODE[code]
    named = by_code or next((name for name in _SETTING.findall(message) if name in setting_of), None)
    return named or next((name for phrase, name in _BY_PHRASE if phrase in message), None)


def is_overload(code: int | None, message: str) -> bool:
    """Whether the error is of what the server does besides, so that the same statement may run in a moment."""
    return code in _OVERLOAD_CODES or (code == 241 and _TOTAL_MEMORY.search(message) is not None)
