"""Lines of feeds become products, whatever their fields are called."""

import json

import pytest

from penstock import limits
from penstock.catalog.lines import LineReader
from penstock.catalog.upload import Uploads
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import InvalidInput
from tests.catalog.conftest import House


def read(**fields: object) -> Product:
    return LineReader().product(json.dumps(fields).encode())


def test_feeds_spell_fields_in_many_ways() -> None:
    product = read(
        id="7",
        title="Chair",
        manufacturer="Oak & Co",
        category="Home > Furniture > Chairs",
        price="19.90",
        listPrice=25,
        stock="3",
        inStock="yes",
        color="brown",
        image="a.png",
        link="https://shop.example/7",
        rating="4.5",
        merchantName="Shop",
    )
    assert (product.product_id, product.name, product.brand) == ("7", "Chair", "Oak & Co")
    assert list(product.category_path) == ["Home", "Furniture", "Chairs"]
    assert (product.price, product.rrp_price, product.stock_quantity, product.in_stock) == (19.9, 25.0, 3, True)
    assert (product.colour, product.image_url, product.product_url) == ("brown", "a.png", "https://shop.example/7")
    assert (product.average_rating, product.merchant_name) == (4.5, "Shop")


def test_what_has_no_field_is_kept() -> None:
    product = read(
        product_id="7", name="Chair", Legs=4, tags=["a", "b"], attributes={"wood": "oak"}, fashion={"fit": "x", "y": 1}
    )
    assert dict(product.attributes) == {"Legs": "4", "tags": '["a","b"]', "wood": "oak", "fashion.y": "1"}
    assert product.fashion.fit == "x"


def test_what_was_read_can_be_written_back() -> None:
    product = read(product_id="7", name="Chair", create_time="2026-01-01T00:00:00Z", category_path=["A", "B"])
    assert not product.attributes
    assert list(product.category_path) == ["A", "B"]


@pytest.mark.parametrize(
    ("line", "reason", "named"),
    [
        (b'{"product_id": "1"', "INVALID_JSON", "line 1"),
        (b"[1]", "INVALID_JSON", "object"),
        (b'{"product_id": "1"}', "INVALID_FIELD", "name"),
        (b'{"name": "x"}', "INVALID_FIELD", "product_id"),
        (b'{"id": "1", "name": "x", "price": "cheap"}', "INVALID_FIELD", "price"),
        (b'{"id": "1", "name": "x", "price": -1}', "INVALID_FIELD", "price"),
        (b'{"id": "1", "name": "x", "rating": 9}', "INVALID_FIELD", "average_rating"),
        (b'{"id": "1", "name": "x", "inStock": "maybe"}', "INVALID_FIELD", "inStock"),
        (b'{"id": "1", "name": "x", "stock": 1e99}', "INVALID_FIELD", "stock"),
        (b'{"id": "a\\u0007b", "name": "x"}', "INVALID_FIELD", "product_id"),
        (b'{"id": "1", "name": "x", "currency": "euros"}', "INVALID_FIELD", "currency"),
    ],
)
def test_a_bad_line_names_what_to_mend(line: bytes, reason: str, named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        LineReader().product(line)
    assert refused.value.reason == reason
    assert named in refused.value.message


async def test_an_upload_stores_the_good_lines_and_tells_the_bad(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPLOAD_PRODUCTS", 4)
    body = b"".join(b'{"id": "%d", "name": "Thing %d"}\n' % (n, n) if n % 5 else b"{nonsense\n\n" for n in range(1, 21))

    async def pieces() -> object:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    done = await Uploads(shop.writer).store("default", pieces())  # type: ignore[arg-type]
    assert (done.created, done.rejected) == (16, 4)
    assert [bad.line for bad in done.errors] == [5, 11, 17, 23]
    assert {bad.reason for bad in done.errors} == {"INVALID_JSON"}
    assert done.commit == shop.log.head


async def test_an_endless_line_is_refused_and_what_came_before_stays(shop: House) -> None:
    async def pieces() -> object:
        yield b'{"id": "1", "name": "x"}\n'
        for _ in range(20):
            yield b"x" * 100_000

    with pytest.raises(InvalidInput) as refused:
        await Uploads(shop.writer).store("default", pieces())  # type: ignore[arg-type]
    assert refused.value.reason == "LINE_TOO_LONG"
