"""A saved index of another database: the same products, as many commits, and other values in them."""

import random
import shutil
from pathlib import Path

import grpc
import pytest

from penstock.catalog.v1.catalog_pb2 import Product
from tests.faults.journal import Journal
from tests.faults.shop.check import Checker, until
from tests.faults.shop.writers import ProductWriter
from tests.process import ServerProcess
from tests.search.shop import Shop

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

COUNT = 20
NAME = "shelf0"


def shelf(step: int) -> dict[str, Product]:
    """Products by id, of which only the ids are the same for every `step`."""
    return {
        f"{NAME}-{number:02}": Product(
            product_id=f"{NAME}-{number:02}",
            name=f"Lamp of {step}",
            brand=NAME,
            price=step * (number + 1),
            currency="EUR",
            in_stock=True,
            is_active=True,
            sku=f"{step}x{number}",
            attributes={"change": f"{step}/{number}"},
        )
        for number in range(COUNT)
    }


def fill(data_dir: Path, products: dict[str, Product]) -> None:
    """A server stores the products, in one commit, and ends in good order, with its index saved."""
    with ServerProcess(data_dir) as server, grpc.insecure_channel(server.target) as channel:
        Shop(channel).fill(list(products.values()))


async def test_the_index_of_another_database_is_not_taken_for_its_own(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    fill(own, shelf(1))
    fill(other, shelf(3))
    shutil.rmtree(own / "index")
    shutil.copytree(other / "index", own / "index")
    journal = Journal(tmp_path / "journal.jsonl")
    writer = ProductWriter(NAME, 0, 0, journal)
    writer.told.unsure = [dict(shelf(1))]
    with ServerProcess(own) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            checker = Checker(channel, random.Random(0))
            assert await checker.catalogue([writer]) == []
            await until(checker.opened)
            assert await checker.index([writer]) == []
    journal.close()
