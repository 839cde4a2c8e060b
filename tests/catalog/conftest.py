"""A catalogue over a fresh engine."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from penstock.catalog.products import Catalogue
from penstock.catalog.reader import ProductReader
from penstock.catalog.writer import CatalogueWriter
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine


@dataclass(frozen=True)
class House:
    """A catalogue's parts."""

    log: CommitLog
    catalogue: Catalogue
    writer: CatalogueWriter
    reader: ProductReader


def house(engine: ClickHouseEngine, log: CommitLog) -> House:
    """A catalogue that knows nothing but what is stored."""
    catalogue = Catalogue(engine, log)
    return House(log, catalogue, CatalogueWriter(engine, log, catalogue, "EUR"), ProductReader(engine, log, catalogue))


@pytest.fixture
async def shop(engine: ClickHouseEngine, commit_log: CommitLog) -> AsyncIterator[House]:
    """A catalogue that can be written."""
    made = house(engine, commit_log)
    made.writer.start()
    yield made
    await made.writer.stop()
    await made.catalogue.stop()
