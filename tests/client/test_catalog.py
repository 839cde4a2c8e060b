"""`client.catalog` against a real server, async and sync."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import penstock
from penstock_client import Product, product
from penstock_client.catalog import ProductLike
from tests.client.test_real import free_port
from tests.process import ServerProcess


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[penstock.Client]:
    async with penstock.Client(server.target) as opened:
        yield opened


@pytest.fixture
def brand() -> str:
    """A brand of the test's own."""
    return f"brand {uuid.uuid4()}"


async def test_products_are_stored_read_and_removed(client: penstock.Client, brand: str) -> None:
    lamp = product(f"{brand} 1", "Lamp", brand=brand, price=12.5, category_path="Home/Lighting")
    assert (await client.catalog.upsert(lamp)).created == 1
    both: list[ProductLike] = [lamp, {"product_id": f"{brand} 2", "name": "Sofa", "brand": brand, "in_stock": False}]
    answer = await client.catalog.upsert(both)
    assert (answer.created, answer.updated, answer.unchanged) == (1, 0, 1)
    dearer = await client.catalog.upsert({"product_id": lamp.product_id, "name": "Lamp", "brand": brand, "price": 20})
    assert (dearer.updated, dearer.commit) == (1, answer.commit + 1)
    found = await client.catalog.get(lamp.product_id)
    assert (found.price, found.in_stock, list(found.category_path)) == (20, True, [])
    assert (await client.catalog.get(lamp.product_id, as_of=answer.commit)).price == 12.5

    assert await client.catalog.delete(lamp.product_id) > dearer.commit
    with pytest.raises(penstock.NotFound, match="PRODUCT_NOT_FOUND"):
        await client.catalog.get(lamp.product_id)
    with pytest.raises(penstock.NotFound):
        await client.catalog.delete(lamp.product_id)
    assert (await client.catalog.get(lamp.product_id, as_of=dearer.commit)).price == 20
    with pytest.raises(penstock.OutOfRange):
        await client.catalog.get(lamp.product_id, as_of=10**9)


async def test_lists_go_through_all_pages_of_one_version(client: penstock.Client, brand: str) -> None:
    async def listed(**filters: object) -> list[str]:
        found = client.catalog.list(brand=brand, page_size=7, **filters)  # type: ignore[arg-type]
        return [each.name async for each in found]

    rows = [
        product(f"{brand} {n:03}", f"P{n}", brand=brand, price=n, in_stock=n % 2 == 0, category_path=["A", f"B{n % 3}"])
        for n in range(30)
    ]
    loaded = await client.catalog.load(rows, batch=11)
    assert (loaded.created, loaded.commit > 0) == (30, True)
    assert await listed() == [f"P{n}" for n in range(30)]
    assert await listed(in_stock=True, price=(5, 10)) == ["P6", "P8", "P10"]
    assert await listed(price=(None, 2)) == ["P0", "P1", "P2"]
    assert await listed(category="A/B1") == [f"P{n}" for n in range(1, 30, 3)]
    await client.catalog.upsert(product(f"{brand} 000", "changed", brand=brand, is_active=False))
    assert await listed(as_of=loaded.commit) == [f"P{n}" for n in range(30)]
    assert await listed(include_inactive=True) == ["changed", *(f"P{n}" for n in range(1, 30))]
    assert len(await listed()) == 29


async def test_a_refused_product_ends_a_load(client: penstock.Client, brand: str) -> None:
    """Batches before it are stored."""
    rows = [{"product_id": f"{brand} {n}", "name": "P" if n != 25 else ""} for n in range(40)]
    with pytest.raises(penstock.InvalidRequest) as refused:
        await client.catalog.load(rows, batch=10)
    assert refused.value.violations[0].field == "products[5].name"
    assert (await client.catalog.get(f"{brand} 0")).name == "P"
    with pytest.raises(penstock.NotFound):
        await client.catalog.get(f"{brand} 25")


def lines(brand: str, count: int) -> list[bytes]:
    """Products as a feed has them."""
    return [
        json.dumps({"id": f"{brand} {n}", "title": f"P{n}", "Price": str(n), "shelf": n}).encode() + b"\n"
        for n in range(count)
    ]


async def test_uploads_come_from_files_bytes_and_iterators(client: penstock.Client, brand: str, tmp_path: Path) -> None:
    rows = lines(brand, 5_000)
    rows[17] = b"no json\n"
    rows[18] = json.dumps({"id": f"{brand} 18", "title": "P", "price": "dear"}).encode() + b"\n"
    first = await client.catalog.upload(rows)
    assert (first.created, first.rejected) == (4_998, 2)
    assert [(each.line, each.reason) for each in first.errors] == [(18, "INVALID_JSON"), (19, "INVALID_FIELD")]
    file = tmp_path / "products.ndjson"
    file.write_bytes(b"".join(rows))

    async def pieces() -> AsyncIterator[bytes]:
        for each in rows:
            yield each

    for source in (file, str(file), b"".join(rows), iter(rows), pieces()):
        again = await client.catalog.upload(source)
        assert (again.created, again.updated, again.unchanged, again.rejected) == (0, 0, 4_998, 2)
    stored = await client.catalog.get(f"{brand} 7")
    assert (stored.name, stored.price, dict(stored.attributes)) == ("P7", 7, {"shelf": "7"})
    assert (await client.catalog.upload(b"")).commit == 0


async def test_an_upload_that_the_server_ends_says_why(client: penstock.Client, brand: str) -> None:
    """However much of it is still to be sent."""

    async def endless() -> AsyncIterator[bytes]:
        for each in lines(brand, 10):
            yield each
        for _ in range(200):
            yield b"x" * 1_000_000

    with pytest.raises(penstock.InvalidRequest, match="LINE_TOO_LONG"):
        await client.catalog.upload(endless())


async def test_an_error_of_the_source_is_raised_as_it_is(client: penstock.Client) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"{}\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.catalog.upload(source())
    with pytest.raises(FileNotFoundError):
        await client.catalog.upload("no such file")


async def test_a_load_goes_on_when_the_server_comes_back(tmp_path: Path) -> None:
    """Killed in the middle of it: all of it is stored, and what was sent twice is there once."""
    server = ServerProcess(tmp_path / "data", "--grpc-port", str(free_port()))
    with server:
        killed = False

        async def source() -> AsyncIterator[Product]:
            nonlocal killed
            for n in range(3_000):
                if n == 1_500:
                    killed = True
                    server.kill()
                    await asyncio.to_thread(server.start)
                yield product(f"p{n}", f"P{n}")

        async with penstock.Client(server.target) as client:
            await client.catalog.load(source(), batch=100)
            assert killed
            assert [each.name async for each in client.catalog.list()] == sorted(f"P{n}" for n in range(3_000))


def test_sync(server: ServerProcess, brand: str) -> None:
    with penstock.SyncClient(server.target) as client:
        client.catalog.upsert(product(f"{brand} 1", "Lamp", brand=brand))
        client.catalog.load(product(f"{brand} {n}", "Lamp", brand=brand) for n in range(2, 5))
        assert client.catalog.upload(lines(f"{brand} up", 3)).created == 3
        assert [each.name for each in client.catalog.list(brand=brand)] == ["Lamp"] * 4
        client.catalog.delete(f"{brand} 1")
        assert len(list(client.catalog.list(brand=brand))) == 3
