"""Runs the statements of a read and joins their rows on window and dimensions."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeAlias, TypeVar

from penstock import limits
from penstock.errors import TooCostly
from penstock.kpis.catalog import Need
from penstock.kpis.formula import Aggregate, Function, Value
from penstock.kpis.sources import Selection, Statement, running_statements, statements
from penstock.storage.engine import Engine, Row

P = ParamSpec("P")
T = TypeVar("T")
# A window's number and the values of the dimensions.
Key: TypeAlias = tuple[int, tuple[str, ...]]
Values: TypeAlias = dict[Aggregate, Value]
ROWS_AT_ONCE = 500  # they are joined within a millisecond, hardly more than it takes to hand them to another thread


async def read(engine: Engine, selection: Selection, aggregates: Sequence[Aggregate]) -> dict[Key, Values]:
    """The aggregates of each window and combination of dimensions that has events (or sessions).

    Raises TooCostly (TOO_MANY_ROWS) where they are more than are allowed.
    """
    found, _ = await _joined(engine, statements(selection, aggregates))
    return found


async def read_with_total(
    engine: Engine, selection: Selection, aggregates: Sequence[Aggregate]
) -> tuple[dict[Key, Values], Values]:
    """The same, and those of all windows and dimensions together; these are empty where there is nothing."""
    found, total = await _joined(engine, statements(selection, aggregates, total=True))
    await apart(len(found), _add_up, aggregates, found, total)
    return found, total


async def apart(size: int, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Does what may take long over so many rows in another thread, and what does not at once."""
    if size <= ROWS_AT_ONCE:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


def _add_up(aggregates: Sequence[Aggregate], found: Mapping[Key, Values], total: Values) -> None:
    for aggregate in aggregates:
        if aggregate.function is not Function.UNIQUE:
            for values in found.values():
                total[aggregate] = _sum(aggregate, total, values)


async def read_running(
    engine: Engine, selection: Selection, need: Need, found: Mapping[Key, Values]
) -> dict[Key, Values]:
    """The same from the start of the range up to each window's end, for the keys of `found` and its aggregates."""
    uniques, _ = await _joined(engine, running_statements(selection, need.running))
    return await apart(len(found), _summed, need.running, found, uniques)


def _summed(
    aggregates: Sequence[Aggregate], found: Mapping[Key, Values], uniques: Mapping[Key, Values]
) -> dict[Key, Values]:
    so_far: dict[tuple[str, ...], Values] = defaultdict(dict)
    result: dict[Key, Values] = {}
    for key in sorted(found):
        before = so_far[key[1]]
        now = dict(before)
        for aggregate in aggregates:
            if aggregate.function is Function.UNIQUE:
                counted = uniques.get(key, {}).get(aggregate)
                now[aggregate] = before.get(aggregate, 0) if counted is None else counted
            else:
                now[aggregate] = _sum(aggregate, before, found[key])
        so_far[key[1]] = result[key] = now
    return result


def _sum(aggregate: Aggregate, left: Values, right: Values) -> Value:
    """Of both sides; one that was not read there, because there was nothing, is empty."""
    return left.get(aggregate, aggregate.empty) + right.get(aggregate, aggregate.empty)  # type: ignore[operator]


async def _joined(engine: Engine, wanted: Sequence[Statement]) -> tuple[dict[Key, Values], Values]:
    tables = await asyncio.gather(*(engine.rows(each.sql, each.bindings) for each in wanted))
    return await apart(sum(map(len, tables)), _join, wanted, tables)


def _join(wanted: Sequence[Statement], tables: Sequence[Sequence[Row]]) -> tuple[dict[Key, Values], Values]:
    joined: dict[Key, Values] = defaultdict(dict)
    total: Values = {}
    for statement, rows in zip(wanted, tables, strict=True):
        if len(rows) > limits.KPI_QUERY_ROWS_MAX:
            raise too_many()
        numbers = statement.number_of()
        first, behind = 1 + statement.split, 1 + statement.split + len(statement.aggregates)
        for row in rows:
            window, *rest = row.values()
            number = int(window) if numbers is None else numbers[window]
            key = number, tuple(map(str, rest[: first - 1]))
            joined[key].update(zip(statement.aggregates, rest[first - 1 : behind - 1], strict=True))
        if rows:
            total.update(zip(statement.totals, [*rows[0].values()][behind:], strict=True))
    return dict(joined), total


def too_many() -> TooCostly:
    """The answer would have more rows than are allowed."""
    return TooCostly(
        f"the answer has more than {limits.KPI_QUERY_ROWS_MAX:,} rows: a coarser grain, a shorter range, fewer"
        " dimensions or a filter make them fewer",
        reason="TOO_MANY_ROWS",
    )
