"""Reads the catalogue as it is, and as it was: one product, or lists."""

from base64 import b64decode
from dataclasses import dataclass
from string import Template

from penstock import limits
from penstock.catalog.products import Catalogue, Stored
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.catalog.writer import not_found
from penstock.errors import invalid_field
from penstock.rpc.tokens import token, values_of
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.storage.version import Version

_ONE = Template("""
SELECT commit, base64Encode(message) AS message
FROM $products
""")
# The conditions come after the newest row of each product was found: an older row that fits does not count.
_MATCHING = """
    ({category_id:String} = '' OR category_id = {category_id:String})
    AND (empty({category:Array(String)})
        OR arraySlice(category_path, 1, length({category:Array(String)})) = {category:Array(String)})
    AND ({brand:String} = '' OR brand = {brand:String})
    AND ({merchant_id:String} = '' OR merchant_id = {merchant_id:String})
    AND ({in_stock:Int8} < 0 OR in_stock = {in_stock:Int8})
    AND (isNull({min_price:Nullable(Float64)}) OR price >= {min_price:Nullable(Float64)})
    AND (isNull({max_price:Nullable(Float64)}) OR price <= {max_price:Nullable(Float64)})
    AND (is_active OR {include_inactive:UInt8})
"""
_PAGE = Template(f"""
SELECT product_id, base64Encode(message) AS message
FROM $products
WHERE product_id > {{after:String}} AND {_MATCHING}
ORDER BY product_id
LIMIT {{limit:UInt32}}
""")
_TOTAL = Template(f"SELECT count() AS n FROM $products WHERE {_MATCHING}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which products to list; what is empty or None asks for no particular one."""

    category_id: str = ""
    category: tuple[str, ...] = ()
    brand: str = ""
    merchant_id: str = ""
    in_stock: bool | None = None
    min_price: float | None = None
    max_price: float | None = None
    include_inactive: bool = False

    def parameters(self) -> dict[str, object]:
        """For the statements."""
        return {
            "category_id": self.category_id,
            "category": list(self.category),
            "brand": self.brand,
            "merchant_id": self.merchant_id,
            "in_stock": -1 if self.in_stock is None else int(self.in_stock),
            "min_price": self.min_price,
            "max_price": self.max_price,
            "include_inactive": int(self.include_inactive),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Products by id, and where the next page begins; empty at the end."""

    products: list[Product]
    next_token: str
    total: int
    version: int


class ProductReader:
    """Reads products."""

    def __init__(self, engine: Engine, commit_log: CommitLog, catalogue: Catalogue) -> None:
        self._engine = engine
        self._log = commit_log
        self._catalogue = catalogue

    async def get(self, tenant: str, product_id: str, version: int = 0) -> Stored:
        """A product, as of a version where one is given. Raises NotFound, OutOfRange, Unavailable."""
        if version:
            seen = await self._log.as_of(commit=version, tenant=tenant)
            relation = seen.newest("products", "product_id = {product_id:String}")
            rows = await self._engine.rows(
                _ONE.substitute(products=relation), {"tenant": tenant, "product_id": product_id}
            )
            found = Stored(b64decode(rows[0]["message"]), rows[0]["commit"]) if rows else None
        else:
            found = (await self._catalogue.of(tenant)).get(product_id)
        if found is None:
            raise not_found(product_id)
        return found

    async def page(self, tenant: str, wanted: Wanted, *, size: int, page_token: str, version: int = 0) -> Page:
        """A page of at most `size` products. Raises InvalidInput (INVALID_PAGE_TOKEN), OutOfRange, Unavailable."""
        size = size or limits.PAGE_ROWS_DEFAULT
        after = ""
        if page_token:
            wrong = invalid_field("page_token", "is not one that this method gave", reason="INVALID_PAGE_TOKEN")
            first, then = values_of(tenant, "products", page_token, (int, str), wrong)
            version, after = int(first), str(then)
        # A catalogue that was never written has no version yet.
        seen: Version = await self._log.as_of(commit=version, tenant=tenant) if version else self._log.version
        products = seen.relation("products")
        parameters = {"tenant": tenant, **wanted.parameters()}
        rows = await self._engine.rows(
            _PAGE.substitute(products=products), {**parameters, "after": after, "limit": size + 1}
        )
        total = await self._engine.rows(_TOTAL.substitute(products=products), parameters)
        more = len(rows) > size
        return Page(
            [Product.FromString(b64decode(row["message"])) for row in rows[:size]],
            token(tenant, "products", [seen.commit, rows[size - 1]["product_id"]]) if more else "",
            int(total[0]["n"]),
            seen.commit,
        )
