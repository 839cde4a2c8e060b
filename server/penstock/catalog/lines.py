"""Reads a product as feeds have it: a JSON object, with fields in any of the usual spellings.

What has a field goes there; what has none is kept in `attributes` under its own name. Nothing is dropped.
"""

import re
from collections.abc import Mapping

import orjson

from penstock import limits
from penstock.catalog.product import FASHION
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import invalid_field
from penstock.rest.json_values import Json, depth, json_object, number, snake_case, text, whole
from penstock.rpc.validation import Bounds

_TEXTS = frozenset(
    (
        *("product_id", "name", "description", "brand", "brand_id", "merchant_id", "merchant_name", "category_id"),
        *("currency", "image_url", "merchant_image_url", "feed_image_url", "large_image_url", "product_url"),
        *("colour", "size", "sku", "model"),
    )
)
_NUMBERS = frozenset(("price", "rrp_price", "quality_score", "average_rating"))
_WHOLES = frozenset(("stock_quantity", "review_count"))
_BOOLEANS = frozenset(("in_stock", "is_active"))
_ALIASES = {
    "id": "product_id",
    "title": "name",
    "product_name": "name",
    "brand_name": "brand",
    "manufacturer": "brand",
    "category": "category_path",
    "categories": "category_path",
    "merchant": "merchant_name",
    "list_price": "rrp_price",
    "image": "image_url",
    "link": "product_url",
    "url": "product_url",
    "color": "colour",
    "rating": "average_rating",
    "reviews": "review_count",
    "stock": "stock_quantity",
    "active": "is_active",
    "mpn": "model",
    "model_number": "model",
    "aw_image_url": "feed_image_url",
    "large_image": "large_image_url",
}
_PATH = re.compile(r"\s*[>/|]\s*")
_WORDS = {"true": True, "yes": True, "1": True, "in stock": True, "false": False, "no": False, "0": False}
_WORDS |= {"out of stock": False, "in_stock": True, "out_of_stock": False, "t": True, "f": False, "y": True, "n": False}


class LineReader:
    """Reads lines into products that keep the contract's bounds."""

    def __init__(self) -> None:
        self._bounds = Bounds()

    def product(self, line: bytes) -> Product:
        """The product in one JSON object. Raises InvalidInput with the position, or naming the field."""
        product = from_fields(json_object(line))
        self._bounds.check(product)
        return product


def from_fields(fields: Mapping[str, Json]) -> Product:
    """The product in named values. Raises InvalidInput naming the field as it was spelled."""
    product = Product()
    for spelled, value in fields.items():
        if value is None or value == "":
            continue
        snake = snake_case(spelled)
        _take(product, spelled, _ALIASES.get(snake, snake), value)
    return product


def _take(product: Product, spelled: str, name: str, value: Json) -> None:
    if name in _TEXTS:
        setattr(product, name, text(spelled, value))
    elif name in _NUMBERS:
        setattr(product, name, number(spelled, value))
    elif name in _WHOLES:
        setattr(product, name, whole(spelled, value))
    elif name in _BOOLEANS:
        setattr(product, name, _boolean(spelled, value))
    elif name == "category_path":
        product.category_path[:] = _path(spelled, value)
    elif name == "fashion" and isinstance(value, dict):
        for key, each in value.items():
            _fashion(product, f"{spelled}.{key}", snake_case(key), each)
    elif name.startswith("fashion."):
        _fashion(product, spelled, name.removeprefix("fashion."), value)
    elif name == "attributes" and isinstance(value, dict):
        for key, each in value.items():
            _attribute(product, key, each)
    elif name not in ("create_time", "update_time"):  # a list that was read here may be written back
        _attribute(product, spelled, value)


def _fashion(product: Product, spelled: str, name: str, value: Json) -> None:
    if name in FASHION:
        setattr(product.fashion, name, text(spelled, value))
    else:
        _attribute(product, spelled, value)


def _attribute(product: Product, key: str, value: Json) -> None:
    """Text stays text; everything else is kept as the JSON that it was."""
    if value is None:
        return
    if depth(value) > limits.JSON_DEPTH_MAX:
        raise invalid_field(key, f"is nested more than {limits.JSON_DEPTH_MAX} deep")
    product.attributes[key] = value if isinstance(value, str) else orjson.dumps(value).decode()


def _path(spelled: str, value: Json) -> list[str]:
    """`A > B > C`, `A/B/C` and `["A", "B", "C"]`."""
    if isinstance(value, list):
        return [text(spelled, each).strip() for each in value]
    return [name for name in _PATH.split(text(spelled, value).strip()) if name]


def _boolean(spelled: str, value: Json) -> bool:
    if isinstance(value, bool):
        return value
    found = _WORDS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if found is None:
        raise invalid_field(spelled, "must be true or false")
    return found
