"""From Python values to a `ProductFilter`."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TypeAlias, TypedDict

from penstock.search.v1.search_pb2 import ProductFilter, Values

OneOrMore: TypeAlias = str | Iterable[str]
# From and to, both included; None: no bound on that side.
PriceRange: TypeAlias = tuple[float | Decimal | None, float | Decimal | None]


class Filters(TypedDict, total=False):
    """Which products: those for which all of it holds; None is as good as absent.

    Of several values of one field any will do, and texts are compared without regard to case.
    `Filters(brand=["Acme", "Bolt"], price=(10, 50), in_stock=True)` is the same as the dict.
    """

    price: PriceRange | None
    in_stock: bool | None
    brand: OneOrMore | None  # by name or id
    merchant: OneOrMore | None  # by name or id
    category: OneOrMore | None  # "Home/Lighting", with what is below it; or a category id
    colour: OneOrMore | None
    size: OneOrMore | None
    min_rating: float | None
    attributes: Mapping[str, OneOrMore] | None  # those of clothes as "fashion.gender"
    only: OneOrMore | None  # product ids
    exclude: OneOrMore | None  # product ids


FilterLike: TypeAlias = Filters | ProductFilter | None


def product_filter(filters: FilterLike) -> ProductFilter | None:
    """The message; None for no filter. Raises TypeError for a name that is no filter, ValueError for a broken range."""
    if filters is None or isinstance(filters, ProductFilter):
        return filters
    unknown = sorted(set(filters) - set(Filters.__annotations__))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no filter; there are {', '.join(Filters.__annotations__)}")
    low, high = bounds(filters.get("price"))
    attributes = filters.get("attributes") or {}
    return ProductFilter(
        min_price=low,
        max_price=high,
        in_stock=filters.get("in_stock"),
        brands=_texts(filters.get("brand")),
        merchants=_texts(filters.get("merchant")),
        categories=_texts(filters.get("category")),
        colours=_texts(filters.get("colour")),
        sizes=_texts(filters.get("size")),
        min_rating=filters.get("min_rating"),
        attributes={key: Values(values=_texts(values)) for key, values in attributes.items()},
        product_ids=_texts(filters.get("only")),
        exclude_product_ids=_texts(filters.get("exclude")),
    )


def bounds(price: PriceRange | None) -> tuple[float | None, float | None]:
    """A range of prices as two numbers. Raises ValueError where it is no pair."""
    if price is None:
        return None, None
    if len(price) != 2:
        raise ValueError("a range of prices is a pair, such as (10, 50) or (None, 50)")
    low, high = price
    return (float(low) if low is not None else None), (float(high) if high is not None else None)


def _texts(values: OneOrMore | None) -> list[str]:
    if values is None:
        return []
    return [values] if isinstance(values, str) else list(values)
