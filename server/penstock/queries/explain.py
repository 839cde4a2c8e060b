"""How a statement would run, from ClickHouse's own EXPLAIN; without what it says of other tenants' rows.

Tables hold the rows of all tenants, sorted by tenant. So what the primary key leaves to read is the tenant's, but for
the blocks at the two ends of its rows; what there was before, and what partitions leave, is everybody's.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from penstock.queries.runner import Prepared
from penstock.storage.engine import Engine, quoted
from penstock.storage.user_sql.lane import Lane, UserSql
from penstock.storage.user_sql.statement import Statement, Usage

_PLAN = "EXPLAIN PLAN indexes = 1, json = 1\n{text}"
_ESTIMATE = "EXPLAIN ESTIMATE\n{text}"
_ROW_BYTES = """
SELECT avg(byteSize(*)) AS row_bytes
FROM (SELECT * FROM {table} WHERE tenant = {{tenant:String}} LIMIT 1000)
"""
_OWN = "PrimaryKey"  # the index that leaves the tenant's blocks


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    depth: int
    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class Index:
    """What one index left to read, 0 where that is more than the tenant's."""

    type: str
    name: str
    keys: tuple[str, ...]
    parts_before: int
    parts: int
    granules_before: int
    granules: int


@dataclass(frozen=True, slots=True)
class Read:
    """What is read of one table, at most."""

    table: str
    parts: int
    granules: int
    rows: int  # in whole blocks
    bytes: float  # by the mean of some of the tenant's rows
    indexes: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a statement would run."""

    steps: tuple[Step, ...]
    reads: tuple[Read, ...]


class Explainer:
    """Asks the engine for plans. Raises what running the statement would, of what is found out before it runs."""

    def __init__(self, sql: UserSql, engine: Engine) -> None:
        self._sql = sql
        self._engine = engine

    async def explain(self, prepared: Prepared) -> Plan:
        """The plan of a statement; the statement does not run."""
        plan, estimate = await asyncio.gather(
            *(
                self._sql.answer(
                    Statement(sql.format(text=prepared.text), prepared.parameters, tenant=prepared.tenant), Lane.PLAN
                )
                for sql in (_PLAN, _ESTIMATE)
            )
        )
        root = json.loads("".join(str(row[0]) for row in plan.rows))[0]["Plan"]
        nodes = list(_nodes(root, 0))
        steps = tuple(Step(depth, str(node["Node Type"]), _described(node)) for depth, node in nodes)
        reads = [await self._read(prepared.tenant, [node for _, node in nodes], row) for row in estimate.rows]
        return Plan(steps, tuple(reads))

    async def _read(self, tenant: str, nodes: Sequence[Mapping[str, object]], estimated: Sequence[object]) -> Read:
        table, parts, rows, granules = str(estimated[1]), *map(_count, estimated[2:])
        indexes = tuple(index for node in nodes if _table(node) == table for index in _indexes(node))
        count = Usage(rows).rounded().rows_read
        [found] = await self._engine.rows(_ROW_BYTES.format(table=quoted([table])), {"tenant": tenant})
        row_bytes = found["row_bytes"] if isfinite(found["row_bytes"]) else 0.0  # without rows there is no mean
        return Read(table, parts, granules, count, count * row_bytes, indexes)


def _nodes(node: Mapping[str, object], depth: int) -> Iterator[tuple[int, Mapping[str, object]]]:
    yield depth, node
    below = node.get("Plans", [])
    assert isinstance(below, list)
    for each in below:
        yield from _nodes(each, depth + 1)


def _described(node: Mapping[str, object]) -> str:
    description = str(node.get("Description", ""))
    return _table(node) if _table(node) else description


def _table(node: Mapping[str, object]) -> str:
    if not str(node["Node Type"]).startswith("ReadFrom"):
        return ""
    return str(node.get("Description", "")).rpartition(".")[2]


def _indexes(node: Mapping[str, object]) -> Iterator[Index]:
    found = node.get("Indexes", [])
    assert isinstance(found, list)
    own_before = False  # whether what comes to an index is the tenant's
    for index in found:
        own = own_before or index.get("Type") == _OWN
        yield Index(
            str(index.get("Type", "")),
            str(index.get("Name", "")),
            tuple(map(str, index.get("Keys", []))),
            _count(index.get("Initial Parts", 0)) if own_before else 0,
            _count(index.get("Selected Parts", 0)) if own else 0,
            _count(index.get("Initial Granules", 0)) if own_before else 0,
            _count(index.get("Selected Granules", 0)) if own else 0,
        )
        own_before = own


def _count(value: object) -> int:
    assert isinstance(value, int | str)
    return int(value)
