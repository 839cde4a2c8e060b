"""How a statement would run, from ClickHouse's own EXPLAIN."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from penstock.queries.runner import Prepared
from penstock.storage.engine import Engine
from penstock.storage.user_sql.lane import Lane, UserSql
from penstock.storage.user_sql.statement import Statement

_PLAN = "EXPLAIN PLAN indexes = 1, json = 1\n{text}"
_ESTIMATE = "EXPLAIN ESTIMATE\n{text}"
_ROW_BYTES = """
SELECT table, sum(data_uncompressed_bytes) / sum(rows) AS row_bytes
FROM system.parts
WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}
GROUP BY table
HAVING sum(rows) > 0
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    depth: int
    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class Index:
    """What one index left to read."""

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
    rows: int
    bytes: float
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
            self._sql.answer(Statement(_PLAN.format(text=prepared.text), prepared.parameters), Lane.PLAN),
            self._sql.answer(Statement(_ESTIMATE.format(text=prepared.text), prepared.parameters), Lane.PLAN),
        )
        root = json.loads("".join(str(row[0]) for row in plan.rows))[0]["Plan"]
        nodes = list(_nodes(root, 0))
        steps = tuple(Step(depth, str(node["Node Type"]), _described(node)) for depth, node in nodes)
        return Plan(steps, await self._reads([node for _, node in nodes], estimate.rows))

    async def _reads(
        self, nodes: Sequence[Mapping[str, object]], estimated: Sequence[Sequence[object]]
    ) -> tuple[Read, ...]:
        tables = [str(row[1]) for row in estimated]
        if not tables:
            return ()
        sizes = {row["table"]: row["row_bytes"] for row in await self._engine.rows(_ROW_BYTES, {"tables": tables})}
        reads = []
        for _, table, parts, rows, granules in estimated:
            indexes = [index for node in nodes if _table(node) == table for index in _indexes(node)]
            count = _count(rows)
            bytes_max = count * sizes.get(str(table), 0.0)
            reads.append(Read(str(table), _count(parts), _count(granules), count, bytes_max, tuple(indexes)))
        return tuple(reads)


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
    for index in found:
        yield Index(
            str(index.get("Type", "")),
            str(index.get("Name", "")),
            tuple(map(str, index.get("Keys", []))),
            _count(index.get("Initial Parts", 0)),
            _count(index.get("Selected Parts", 0)),
            _count(index.get("Initial Granules", 0)),
            _count(index.get("Selected Granules", 0)),
        )


def _count(value: object) -> int:
    assert isinstance(value, int | str)
    return int(value)
