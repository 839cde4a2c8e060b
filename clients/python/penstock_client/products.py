"""From Python values to a `Product`."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Required, TypedDict, Unpack, cast

from penstock.catalog.v1.catalog_pb2 import Fashion, Product
from penstock_client.fields import text

SERVER_SET = ("create_time", "update_time")


class ProductDetails(TypedDict, total=False):
    """What may be said of a product beside its id and name; None is as good as absent."""

    description: str | None
    brand: str | None
    brand_id: str | None
    merchant_id: str | None
    merchant_name: str | None
    category_id: str | None
    category_path: str | Sequence[str] | None  # "Home/Lighting" or ["Home", "Lighting"]
    price: float | Decimal | None
    rrp_price: float | Decimal | None
    currency: str | None
    in_stock: bool | None
    stock_quantity: int | None
    image_url: str | None
    merchant_image_url: str | None
    feed_image_url: str | None
    large_image_url: str | None
    product_url: str | None
    colour: str | None
    size: str | None
    fashion: Fashion | Mapping[str, str] | None
    quality_score: float | None
    average_rating: float | None
    review_count: int | None
    is_active: bool | None
    attributes: Mapping[str, object] | None
    sku: str | None
    model: str | None


class ProductFields(ProductDetails, total=False):
    """All of a product, as `catalog.upsert` takes it in a mapping."""

    product_id: Required[str]
    name: Required[str]


_KNOWN = frozenset((*ProductDetails.__annotations__, "product_id", "name"))


def product(product_id: str, name: str, **details: Unpack[ProductDetails]) -> Product:
    """Builds a product; what is None is left out.

    `category_path` is a text with `/` between the names, or the names. Values of `attributes` become text: True is
    "true", None is left out. The server, not this function, checks bounds. Raises TypeError for a name that is no
    field: what else is known of a product goes to `attributes`.
    """
    unknown = sorted(set(details) - _KNOWN)
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no field of a product; put what else is known into attributes")
    given: dict[str, object] = {field: value for field, value in details.items() if value is not None}
    path = given.pop("category_path", ())
    fashion = given.pop("fashion", None)
    attributes = cast(Mapping[str, object], given.pop("attributes", {}))
    for field in ("price", "rrp_price"):
        if field in given:
            given[field] = float(cast(float | Decimal, given[field]))
    return Product(
        product_id=product_id,
        name=name,
        category_path=[each for each in path.split("/") if each]
        if isinstance(path, str)
        else cast(Sequence[str], path),
        fashion=Fashion(**fashion) if isinstance(fashion, Mapping) else cast(Fashion | None, fashion),
        attributes={key: text(value) for key, value in attributes.items() if value is not None},
        **given,  # type: ignore[arg-type]  # what ProductDetails declares, without None
    )


def as_product(given: Product | Mapping[str, object]) -> Product:
    """A product as it is, or built of its fields. Raises TypeError for a mapping without `product_id` and `name`."""
    return given if isinstance(given, Product) else product(**cast(ProductFields, given))
