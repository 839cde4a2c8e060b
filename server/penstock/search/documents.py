"""Products as documents of the index."""

from penstock.catalog.product import attributes_of
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.search.index import Document, Number

_KEYWORDS = ("brand", "brand_id", "merchant_id", "category_id", "colour", "size", "currency")
_LABELS = ("colour", "size", "merchant_name")
_SHORT_CHARS_MAX = 64  # longer attribute values are texts of their own, and no words to find a product by


def document(product: Product) -> Document:
    """What the index keeps of a product, without its vector."""
    attributes = attributes_of(product)
    keywords = {name: value for name in _KEYWORDS if (value := getattr(product, name))}
    if product.merchant_name:
        keywords["merchant"] = product.merchant_name
    # Those of clothes have the names that filters and facets call them by already.
    keywords |= {
        name if name.startswith("fashion.") else f"attributes.{name}": value for name, value in attributes.items()
    }
    labels = [getattr(product, name) for name in _LABELS]
    labels += [*product.category_path, *(value for value in attributes.values() if len(value) <= _SHORT_CHARS_MAX)]
    return Document(
        product_id=product.product_id,
        title=product.name,
        description=product.description,
        brand=product.brand,
        labels=" ".join(filter(None, labels)),
        codes=tuple(filter(None, (product.sku, product.model))),
        numbers=_numbers(product),
        in_stock=product.in_stock,
        is_active=product.is_active,
        keywords=keywords,
        category_path=tuple(product.category_path),
    )


def _numbers(product: Product) -> dict[Number, float]:
    numbers = {
        Number.REVIEW_COUNT: float(product.review_count),
        Number.CREATED: product.create_time.seconds + product.create_time.nanos / 1e9,
    }
    if product.HasField("price"):
        numbers[Number.PRICE] = product.price
    if product.HasField("average_rating"):
        numbers[Number.RATING] = product.average_rating
    if product.HasField("quality_score"):
        numbers[Number.QUALITY] = product.quality_score
    if product.HasField("stock_quantity"):
        numbers[Number.STOCK] = float(product.stock_quantity)
    return numbers
