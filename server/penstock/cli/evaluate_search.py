"""How good searches are, by people's judgements of which products answer which query."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import pyarrow as pa

from penstock.catalog.v1.catalog_pb2 import Product
from penstock_client import Client
from penstock_client.search import Mode

CUT = 10
AT_ONCE = 4  # searches under way: as many as keep a server on two cores busy


@dataclass(frozen=True, slots=True)
class Judgements:
    """Products, and how relevant which of them is for which query."""

    products: Sequence[Product]
    relevance: Mapping[str, Mapping[str, float]]  # by query and product id
    worthless: float  # the relevance that is worth nothing

    @property
    def middle(self) -> float:
        """Of the scale: what is above it counts as found."""
        greatest = max(each for judged in self.relevance.values() for each in judged.values())
        return (self.worthless + greatest) / 2


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over queries, at ten results."""

    ndcg: float  # gain 2^(relevance - worthless) - 1, ÷ log2(1 + place), as a share of the best possible order
    mrr: float  # 1 ÷ place of the first relevant one
    hit_rate: float  # queries with a relevant one among the ten
    judged: float  # share of the results that somebody judged; the others count as worthless


def judgements(tables: Sequence[pa.Table]) -> Judgements:
    """From columns `query`, `relevance`, and `product_id`, or `title` and `description` that make a product.

    Without ids, equal texts are one product. Of a pair that is judged more than once the mean counts. The scale begins
    at 1, or at 0 where anything is judged so. Raises ValueError for a relevance that is no number, or no rows.
    """
    queries, titles, descriptions, ids = (
        [text for rows in tables for text in _texts(rows, name)]
        for name in ("query", "title", "description", "product_id")
    )
    relevances = [number for rows in tables for number in _numbers(rows, "relevance")]
    if not relevances:
        raise ValueError("there are no judgements in it")
    products: dict[str, Product] = {}
    names: dict[tuple[str, str], str] = {}
    judged: dict[str, dict[str, list[float]]] = {}
    for query, relevance, title, description, given in zip(queries, relevances, titles, descriptions, ids, strict=True):
        product_id = given or names.setdefault((title, description), f"product-{len(names) + 1}")
        products.setdefault(product_id, Product(product_id=product_id, name=title, description=description))
        judged.setdefault(query, {}).setdefault(product_id, []).append(relevance)
    means = {query: {each: fmean(values) for each, values in of.items()} for query, of in judged.items()}
    least = min(relevances)
    return Judgements(list(products.values()), means, 1.0 if least >= 1 else min(0.0, least))


async def searched(client: Client, queries: Iterable[str], mode: Mode) -> Mapping[str, Sequence[str]]:
    """The ids of the first ten results of each query."""
    found: dict[str, Sequence[str]] = {}
    waiting = iter(queries)

    async def one_after_another() -> None:
        for query in waiting:
            answer = await client.search.search(query, mode=mode, limit=CUT, ids_only=True)
            found[query] = [each.product.product_id for each in answer.results]

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return found


def quality(judged: Judgements, found: Mapping[str, Sequence[str]]) -> Quality:
    """How good the results are; queries of which nothing is worth anything are left out.

    Raises ValueError if all are.
    """
    middle = judged.middle
    of = [
        _of_one(judged.worthless, middle, relevance, found[query])
        for query, relevance in judged.relevance.items()
        if max(relevance.values()) > judged.worthless
    ]
    if not of:
        raise ValueError("no product is relevant for any query")
    return Quality(*(fmean(column) for column in zip(*of, strict=True)))


def _of_one(
    worthless: float, middle: float, relevance: Mapping[str, float], ids: Sequence[str]
) -> tuple[float, float, float, float]:
    gains = [_gain(relevance.get(each, worthless) - worthless) for each in ids]
    best = sorted((_gain(each - worthless) for each in relevance.values()), reverse=True)[:CUT]
    relevant = [place for place, each in enumerate(ids, 1) if relevance.get(each, -math.inf) > middle]
    known = sum(each in relevance for each in ids) / len(ids) if ids else 0.0
    return _discounted(gains) / _discounted(best), 1 / relevant[0] if relevant else 0.0, float(bool(relevant)), known


def _gain(above_worthless: float) -> float:
    return float(2**above_worthless - 1)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))


def _texts(rows: pa.Table, name: str) -> list[str]:
    if name not in rows.column_names:
        return [""] * rows.num_rows
    return ["" if each is None else str(each) for each in rows[name].to_pylist()]


def _numbers(rows: pa.Table, name: str) -> list[float]:
    try:
        numbers = [float(each) for each in _texts(rows, name)]
    except ValueError as error:
        raise ValueError(f"{name} has a value that is no number: {error}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} has a value that is not finite")
    return numbers
