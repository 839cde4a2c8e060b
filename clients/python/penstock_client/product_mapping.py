"""From the rows of a file to products as feeds have them: names and values, for `catalog.upload` to read."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TypeAlias

from penstock.catalog.v1.catalog_pb2 import Fashion, Product
from penstock_client.products import SERVER_SET

Row: TypeAlias = Mapping[str, object]
Fields: TypeAlias = dict[str, object]

FIELDS = frozenset(each.name for each in Product.DESCRIPTOR.fields) - {*SERVER_SET, "fashion", "attributes"}
FASHION = frozenset(f"fashion.{each.name}" for each in Fashion.DESCRIPTOR.fields)
ATTRIBUTE = "attributes."
# A shop that sold nothing of a product for so long is taken to have none; Online Retail has no stock figures.
STOCK_DAYS = 30


@dataclass(frozen=True, slots=True)
class ProductMapping:
    """How rows of a file become products.

    `each` makes a product of one row; `whole`, where it is set, makes products of all rows together.
    """

    each: Callable[[Row], Fields]
    whole: Callable[[Iterable[Row]], Iterator[Fields]] | None = None
    needs: frozenset[str] = frozenset()  # columns that the file must have
    columns: tuple[str, ...] = ()  # of a CSV file without a header
    delimiter: str = ","


def parse_product_mapping(arguments: Sequence[str], *, delimiter: str = ",", header: bool = True) -> ProductMapping:
    """What the command line says: `field=column` pairs, several with commas between them. Raises ValueError."""
    pairs: dict[str, str] = {}
    for argument in arguments:
        # A comma inside of a constant separates nothing: behind one that does, a field and its `=` follow.
        for pair in re.split(r",(?=[\w.]+=)", argument):
            name, equals, source = pair.partition("=")
            if not equals or not source:
                raise ValueError(f"{pair} is no field=column")
            pairs[name.strip()] = source
    return product_mapping(pairs, delimiter=delimiter, header=header)


def product_mapping(pairs: Mapping[str, str], *, delimiter: str = ",", header: bool = True) -> ProductMapping:
    """A mapping from `field → column`, or `field → 'constant'` in quotes.

    Fields are those of Product, `fashion.NAME` and `attributes.NAME`. A column that is not mapped keeps its name: it is
    that field if the catalogue knows one by it, else an attribute. A file without a header has columns c1, c2, … as far
    as the mapping names them. Raises ValueError for a field that a product has not.
    """
    for name in pairs:
        if name not in FIELDS | FASHION and not name.startswith(ATTRIBUTE):
            known = ", ".join(sorted(FIELDS))
            raise ValueError(f"{name} is no field of a product; the fields are {known}, fashion.NAME, attributes.NAME")
    constants = {name: value[1:-1] for name, value in pairs.items() if re.fullmatch(r"(['\"]).*\1", value)}
    sources = {name: column for name, column in pairs.items() if name not in constants}
    taken = {*sources.values(), *pairs}

    def each(row: Row) -> Fields:
        made: Fields = {column: value for column, value in row.items() if column not in taken}
        attributes: Fields = {}
        for name, value in (*((name, row.get(column)) for name, column in sources.items()), *constants.items()):
            if name.startswith(ATTRIBUTE):
                attributes[name.removeprefix(ATTRIBUTE)] = value
            else:
                made[name] = value
        return {**made, "attributes": attributes} if attributes else made

    numbered = [int(column[1:]) for column in sources.values() if re.fullmatch(r"c[1-9]\d?", column)]
    columns = () if header else tuple(f"c{n}" for n in range(1, max(numbered, default=1) + 1))
    return ProductMapping(each, needs=frozenset(sources.values()), columns=columns, delimiter=delimiter)


def _retrotech(row: Row) -> Fields:
    described = (str(row[name]).strip() for name in ("short_description", "long_description"))
    return {
        "product_id": row["upc"],
        "name": row["name"],
        "brand": str(row["manufacturer"]).strip(),
        "description": "\n".join(dict.fromkeys(filter(None, described))),
    }


def _titled(row: Row) -> Fields:
    # Dollars, but for what says otherwise: `19.99 gbp`. These lists write 0.0 where they have no price.
    amount, _, currency = str(row["price"] or "").partition(" ")
    return {
        "product_id": row["id"],
        "name": row.get("title") or row.get("name"),
        "description": row["description"],
        "brand": row.get("manufacturer"),
        "price": amount if re.search("[1-9]", amount) else None,
        "currency": currency.strip().upper() or "USD",
    }


_ESHOP_CATEGORIES = {"1": "Trousers", "2": "Skirts", "3": "Blouses", "4": "Sale"}
_ESHOP_COLOURS = {
    "1": "beige", "2": "black", "3": "blue", "4": "brown", "5": "burgundy", "6": "grey", "7": "green", "8": "navy blue",
    "9": "multicoloured", "10": "olive", "11": "pink", "12": "red", "13": "violet", "14": "white",
}  # fmt: skip


def _eshop_clothing(rows: Iterable[Row]) -> Iterator[Fields]:
    """Clicks name a model, its category, colour and price: the model is what most of its clicks say."""
    said: dict[str, Counter[tuple[str, ...]]] = {}
    for row in rows:
        model = str(row["page 2 (clothing model)"])
        columns = ("page 1 (main category)", "colour", "price")
        said.setdefault(model, Counter())[tuple(str(row[column]) for column in columns)] += 1
    for model, counts in said.items():
        ((category, colour, price), _), *_ = counts.most_common(1)
        shelf, shade = _ESHOP_CATEGORIES.get(category), _ESHOP_COLOURS.get(colour)
        if shelf is None or shade is None:
            raise ValueError(f"model {model} is of category {category!r} and colour {colour!r}, which are none")
        yield {
            "product_id": model,
            "name": f"{shelf} {model}, {shade}",
            "model": model,
            "category_path": ["Clothing", shelf],
            "colour": shade,
            "price": price,
            "currency": "USD",
        }


@dataclass(slots=True)
class _Sold:
    """What order lines say of one product."""

    names: Counter[str] = field(default_factory=Counter)
    prices: list[float] = field(default_factory=list)
    last: datetime = datetime.min


def _online_retail(rows: Iterable[Row]) -> Iterator[Fields]:
    """Order lines name a product, and what it was sold for: its name is the commonest, its price the median.

    Lines without a price are corrections of stock, whose description is a remark. Codes without four digits are
    postage, fees and the like, and no products. Raises ValueError for a date that cannot be read.
    """
    sold: dict[str, _Sold] = {}
    newest = datetime.min
    for row in rows:
        code, name, price = str(row["StockCode"]), str(row["Description"] or ""), float(str(row["UnitPrice"] or 0))
        if price <= 0 or not name or str(row["InvoiceNo"]).startswith("C"):
            continue
        when = row["InvoiceDate"]
        when = when if isinstance(when, datetime) else datetime.fromisoformat(str(when))
        one = sold.setdefault(code, _Sold())
        one.names[name.strip()] += 1
        one.prices.append(price)
        one.last, newest = max(one.last, when), max(newest, when)
    for code, one in sold.items():
        if not re.search(r"\d{4}", code):
            continue
        yield {
            "product_id": code,
            # Of names that are equally common, always the same.
            "name": min(one.names, key=lambda name: (-one.names[name], name)),
            "price": median(one.prices),
            "currency": "GBP",
            "in_stock": (newest - one.last).days <= STOCK_DAYS,
        }


def _as_it_is(row: Row) -> Fields:
    return dict(row)


PRODUCT_PRESETS: dict[str, ProductMapping] = {
    "online-retail": ProductMapping(_as_it_is, _online_retail),
    "eshop-clothing": ProductMapping(_as_it_is, _eshop_clothing, delimiter=";"),
    "retrotech": ProductMapping(_retrotech),
    "abt-buy": ProductMapping(_titled, delimiter="|"),
    "amazon-google": ProductMapping(_titled, delimiter="#"),
}


def finite(value: object) -> object:
    """A value as JSON can have it: of floats those that are numbers; NaN is how dataframes write that there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
