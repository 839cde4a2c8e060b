"""What the tests of queries share: a house of two tenants, and the statements kept beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from penstock.storage.engine import ClickHouseEngine
from tests.queries.house import fill
from tests.queries.serving import area as area
from tests.queries.serving import stub as stub
from tests.queries.serving import target as target

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Hostile:
    """A statement that must be refused, with the code that one of the reasons must have."""

    group: str
    code: str
    sql: str


def hostile(file: str = "@FILE", port: int = 1) -> list[Hostile]:
    """The corpus, with a real file and a real port in it."""
    groups = yaml.safe_load((_HERE / "hostile.yaml").read_text(encoding="utf-8"))
    return [
        Hostile(group, code, str(sql).replace("@FILE", file).replace("@PORT", str(port)))
        for group, codes in groups.items()
        for code, statements in codes.items()
        for sql in statements
    ]


def good() -> Iterator[str]:
    """Statements that must pass."""
    groups = yaml.safe_load((_HERE / "good.yaml").read_text(encoding="utf-8"))
    return (sql for statements in groups.values() for sql in statements)


@pytest.fixture
async def house(engine: ClickHouseEngine) -> ClickHouseEngine:
    """An engine with rows of two tenants."""
    await fill(engine)
    return engine
