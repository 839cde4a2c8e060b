"""Products as rows of their table."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from penstock.catalog.product import attributes_of, serialised
from penstock.catalog.v1.catalog_pb2 import Product

_MONEY = pa.decimal128(18, 6)
_TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("product_id", pa.string()),
        ("commit", pa.int64()),
        ("deleted", pa.bool_()),
        *((name, pa.string()) for name in ("name", "description", "brand", "brand_id", "merchant_id", "merchant_name")),
        ("category_id", pa.string()),
        ("category_path", pa.list_(pa.string())),
        ("price", _MONEY),
        ("rrp_price", _MONEY),
        ("currency", pa.string()),
        ("in_stock", pa.bool_()),
        ("stock_quantity", pa.int32()),
        *((name, pa.string()) for name in ("image_url", "product_url", "colour", "size")),
        ("quality_score", pa.float64()),
        ("average_rating", pa.float64()),
        ("review_count", pa.int32()),
        ("is_active", pa.bool_()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("sku", pa.string()),
        ("model", pa.string()),
        ("create_time", _TIME),
        ("update_time", _TIME),
        ("message", pa.binary()),
    ]
)
_PLAIN = (
    *("name", "description", "brand", "brand_id", "merchant_id", "merchant_name", "category_id", "currency"),
    *("in_stock", "image_url", "product_url", "colour", "size", "review_count", "is_active", "sku", "model"),
)
_OPTIONAL = ("stock_quantity", "quality_score", "average_rating")


def rows(changes: Iterable[tuple[str, str, Product | None]], commit: int, time: datetime) -> pa.Table:
    """The rows of one commit, of (tenant, product id, product) with None for a removal."""
    made = [
        _row(tenant, product_id, product, commit) if product else _tombstone(tenant, product_id, commit, time)
        for tenant, product_id, product in changes
    ]
    return pa.Table.from_pylist(made, SCHEMA)


def _row(tenant: str, product_id: str, product: Product, commit: int) -> Mapping[str, Any]:
    return {
        "tenant": tenant,
        "product_id": product_id,
        "commit": commit,
        "deleted": False,
        **{name: getattr(product, name) for name in _PLAIN},
        **{name: getattr(product, name) if product.HasField(name) else None for name in _OPTIONAL},
        "price": _money(product.price) if product.HasField("price") else None,
        "rrp_price": _money(product.rrp_price) if product.HasField("rrp_price") else None,
        "category_path": list(product.category_path),
        "attributes": sorted(attributes_of(product).items()),
        "create_time": product.create_time.ToDatetime(UTC),
        "update_time": product.update_time.ToDatetime(UTC),
        "message": serialised(product),
    }


def _tombstone(tenant: str, product_id: str, commit: int, time: datetime) -> Mapping[str, Any]:
    empty = {name: "" for name in SCHEMA.names if SCHEMA.field(name).type == pa.string()}
    return {
        **empty,
        "tenant": tenant,
        "product_id": product_id,
        "commit": commit,
        "deleted": True,
        "category_path": [],
        "in_stock": False,
        "review_count": 0,
        "is_active": False,
        "attributes": [],
        "create_time": time,
        "update_time": time,
        "message": b"",
    }


def _money(amount: float) -> Decimal:
    return round(Decimal(amount), 6)
