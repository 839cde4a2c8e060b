"""Building products, filters, vectors and interactions."""

import struct
import sys
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.catalog.v1.catalog_pb2 import Fashion, Product
from penstock.feedback.v1 import feedback_pb2
from penstock.recommendations.v1 import recommendations_pb2
from penstock.search.v1.search_pb2 import ProductFilter, Values
from penstock_client import Filters, interaction, product
from penstock_client.feedback import InteractionDetails
from penstock_client.filters import product_filter
from penstock_client.products import SERVER_SET, ProductFields, as_product
from penstock_client.search import packed

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def test_all_that_can_be_said_of_a_product() -> None:
    """Every field of the contract that a client may set has a name here, and no other."""
    ours = {field.name for field in Product.DESCRIPTOR.fields} - {*SERVER_SET}
    assert ProductFields.__required_keys__ | ProductFields.__optional_keys__ == ours
    fields = {field.name for field in feedback_pb2.Interaction.DESCRIPTOR.fields}
    assert {*InteractionDetails.__annotations__, "user_id", "product_id", "interaction_type"} == fields


def test_a_product() -> None:
    made = product(
        "p1",
        "Lamp",
        price=Decimal("12.50"),
        rrp_price=None,
        category_path="Home/Lighting",
        fashion={"gender": "women"},
        attributes={"dimmable": True, "watts": 7, "note": None},
        in_stock=False,
        stock_quantity=0,
    )
    assert made == Product(
        product_id="p1",
        name="Lamp",
        price=12.5,
        category_path=["Home", "Lighting"],
        fashion=Fashion(gender="women"),
        attributes={"dimmable": "true", "watts": "7"},
        in_stock=False,
        stock_quantity=0,
    )
    assert not made.HasField("rrp_price")
    assert as_product({"product_id": "p1", "name": "Lamp", "category_path": ["Home"]}).category_path == ["Home"]
    assert as_product(made) is made


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(TypeError, match="watts: no field of a product"):
        as_product({"product_id": "p", "name": "P", "watts": 7})
    with pytest.raises(TypeError, match="name"):
        as_product({"product_id": "p"})
    with pytest.raises(TypeError, match="brnd: no filter"):
        product_filter({"brnd": "Acme"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plce: no field"):
        interaction("u", "p", "click", plce=1)  # type: ignore[call-arg]
    with pytest.raises(KeyError):
        interaction("u", "p", "stare")  # type: ignore[arg-type]


def test_filters() -> None:
    """One value or several, a pair of bounds of which either may be missing."""
    everything = Filters(
        price=(Decimal(10), None),
        in_stock=False,
        brand="Acme",
        merchant=("m1", "m2"),
        category=["Home/Lighting", "c7"],
        colour={"red"},
        size="M",
        min_rating=3.5,
        attributes={"material": ["wool", "silk"], "fashion.gender": "women"},
        only=["p1"],
        exclude=(each for each in ("p2", "p3")),
    )
    assert product_filter(everything) == ProductFilter(
        min_price=10,
        in_stock=False,
        brands=["Acme"],
        merchants=["m1", "m2"],
        categories=["Home/Lighting", "c7"],
        colours=["red"],
        sizes=["M"],
        min_rating=3.5,
        attributes={"material": Values(values=["wool", "silk"]), "fashion.gender": Values(values=["women"])},
        product_ids=["p1"],
        exclude_product_ids=["p2", "p3"],
    )
    assert set(everything) == set(Filters.__annotations__)
    assert product_filter({"price": None, "brand": None}) == ProductFilter()
    assert product_filter(None) is None
    message = ProductFilter(brands=["x"])
    assert product_filter(message) is message
    with pytest.raises(ValueError, match="pair"):
        product_filter({"price": (1, 2, 3)})  # type: ignore[arg-type]


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_a_vector_is_the_same_from_whatever_it_comes(numbers: list[float]) -> None:
    expected = struct.pack(f"<{len(numbers)}f", *numbers)
    sources = (
        numbers, tuple(numbers), expected, np.array(numbers, ">f8"), np.array(numbers, "f4"),
        np.array([numbers, numbers], "f4").T[:, 1],
    )  # fmt: skip
    for source in sources:
        assert packed(source).packed == expected


def test_what_is_no_vector_is_refused() -> None:
    with pytest.raises(TypeError, match="list of vectors"):
        packed(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of vectors"):
        packed("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one dimension"):
        packed(np.zeros((2, 3)))
    assert "numpy" in sys.modules  # else the arrays above were no arrays to it


def test_an_interaction() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    made = interaction("u", "p", "rating", context="search", position=3, query="lamp", rating=4.5, timestamp=when)
    assert (made.interaction_type, made.context) == (feedback_pb2.RATING, recommendations_pb2.SEARCH)
    assert (made.position, made.query, made.rating) == (3, "lamp", 4.5)
    assert made.timestamp.ToDatetime(tzinfo=UTC) == when
    assert interaction("u", "p", "view", request_id="r").request_id == "r"
    assert made.request_id != interaction("u", "p", "view").request_id != ""
    assert not interaction("u", "p", "view").HasField("position")
    with pytest.raises(ValueError, match="no time zone"):
        interaction("u", "p", "view", timestamp=datetime(2026, 1, 2))
