"""What a product is: one form for what clients leave to the server, so that equal products are equal bytes."""

from datetime import datetime

from penstock.catalog.v1.catalog_pb2 import Fashion, Product

FASHION = tuple(field.name for field in Fashion.DESCRIPTOR.fields)
_IMAGES = ("merchant_image_url", "feed_image_url", "large_image_url")


def completed(sent: Product, currency: str) -> Product:
    """The product with all that has a default, and without what only the server sets."""
    product = Product()
    product.CopyFrom(sent)
    product.ClearField("create_time")
    product.ClearField("update_time")
    product.currency = product.currency or currency
    if not product.HasField("in_stock"):
        product.in_stock = not (product.HasField("stock_quantity") and product.stock_quantity == 0)
    if not product.HasField("is_active"):
        product.is_active = True
    product.image_url = product.image_url or next(filter(None, (getattr(product, name) for name in _IMAGES)), "")
    return product


def stamped(product: Product, before: Product | None, time: datetime) -> Product:
    """The completed product with its times, given the one that it replaces."""
    made = Product()
    made.CopyFrom(product)
    made.update_time.FromDatetime(time)
    made.create_time.CopyFrom(before.create_time if before is not None else made.update_time)
    return made


def same(one: Product, other: Product) -> bool:
    """Whether two products differ in nothing but the server's times."""
    return _without_times(one) == _without_times(other)


def serialised(product: Product) -> bytes:
    """The bytes that the catalogue keeps."""
    return product.SerializeToString(deterministic=True)


def attributes_of(product: Product) -> dict[str, str]:
    """The attributes, those of clothes among them as `fashion.NAME`."""
    found = dict(product.attributes)
    for name in FASHION:
        value = getattr(product.fashion, name)
        if value:
            found[f"fashion.{name}"] = value
    return found


def _without_times(product: Product) -> Product:
    bare = Product()
    bare.CopyFrom(product)
    bare.ClearField("create_time")
    bare.ClearField("update_time")
    return bare
