"""The made-up shop: the same each time, its filters as wide as they say; what is compared with is exact."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from loadtest import shop
from loadtest.calls import CONCURRENCY, calls, calls_per_s, percentiles_ms
from loadtest.stocked import Stock, make
from loadtest.texts import queries
from loadtest.vectors import ONE_IN, WIDTHS, answered, exact, filters, requests, serving
from penstock.search.documents import document
from penstock.search.index import texts_to_encode
from penstock.search.stored_vectors import digest_of
from penstock.search.v1 import search_service_pb2 as pb

PRODUCTS = 2_000


@pytest.fixture(scope="module")
def stock() -> Stock:
    """What is in a small shop."""
    return shop.stock(PRODUCTS)


def test_a_shop_is_the_same_each_time(stock: Stock) -> None:
    shop.vectors.cache_clear()
    again = shop.stock(PRODUCTS)
    assert stock.vectors is not None
    assert again.vectors is not None
    assert stock.vectors.tobytes() == again.vectors.tobytes()
    assert stock.products == again.products
    assert stock.interactions == again.interactions


def test_every_product_has_a_text_of_its_own_and_a_unit_vector(stock: Stock) -> None:
    assert len({digest_of(texts_to_encode(document(each))) for each in stock.products}) == PRODUCTS
    assert stock.vectors is not None
    assert np.allclose(np.linalg.norm(stock.vectors, axis=1), 1.0, atol=1e-6)


def test_products_of_a_kind_are_nearer_than_others(stock: Stock) -> None:
    assert stock.vectors is not None
    kinds = shop.kind_of(PRODUCTS)
    likeness = stock.vectors @ stock.vectors.T
    np.fill_diagonal(likeness, np.nan)
    same = kinds[:, None] == kinds[None, :]
    assert np.nanmean(likeness[same]) > 0.6 > 0.2 > abs(np.nanmean(likeness[~same]))


def test_a_filter_lets_through_its_share(stock: Stock) -> None:
    made, queries_ = shop.vectors(PRODUCTS)
    some = shop.Shop(Path(), made, queries_, shop.prices(PRODUCTS))
    assert sorted(some.prices) == list(range(1, PRODUCTS + 1))
    by_name = {each.name: each for each in filters(some)}
    for width in WIDTHS[:-1]:
        for how in ("scattered", "together"):
            if (each := by_name.get(f"{how}_{width * 100:g}pct")) is not None:
                assert each.lets_through is not None
                assert each.lets_through.sum() == pytest.approx(width * PRODUCTS, abs=1)
    kinds = shop.kind_of(PRODUCTS)
    together, scattered = by_name["together_10pct"].lets_through, by_name["scattered_10pct"].lets_through
    assert together is not None
    assert scattered is not None
    assert len(set(kinds[together].tolist())) < len(set(kinds[scattered].tolist())) / 3
    for each in ONE_IN:
        chosen = by_name.get(f"scattered_{100 / each:g}pct")
        has = np.array([f"one_in_{each}" in product.attributes for product in stock.products])
        assert chosen is None or (chosen.lets_through == has).all()


def test_what_is_exact_is_the_last_of_the_ten(stock: Stock) -> None:
    made, queries_ = shop.vectors(PRODUCTS)
    among = np.arange(PRODUCTS) % 7 == 0
    wanted = np.sort(queries_[:30] @ made[among].T, axis=1)[:, -10]
    assert exact(made, queries_[:30], among) == pytest.approx(wanted)
    few = np.arange(PRODUCTS) < 3
    assert exact(made, queries_[:30], few) == pytest.approx((queries_[:30] @ made[few].T).min(axis=1))


def test_texts_are_asked_once() -> None:
    asked = queries(Random(1))
    assert len(set(asked)) == len(asked) > 10_000


async def test_callers_take_turns_and_every_call_is_counted() -> None:
    seen: Counter[int] = Counter()

    async def call(number: int) -> bytes:
        seen[number] += 1
        await asyncio.sleep(0.001)
        return b""

    waits_s: list[float] = []
    await calls(call, 100, waits_s)
    assert sum(seen.values()) == len(waits_s) == 100
    assert set(seen) == set(range(CONCURRENCY))
    rate = await calls_per_s(call, 0.1, again := [])
    assert rate > 0
    assert sum(seen.values()) == 100 + len(again)
    assert percentiles_ms([0.001, 0.002, 0.003], 50) == {"p50_ms": pytest.approx(2.0)}


async def test_a_folder_is_served_with_the_vectors_that_were_given(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    await asyncio.to_thread(make, folder, _small, learn=True)
    made, queries_ = shop.vectors(PRODUCTS)
    some = shop.Shop(folder, made, queries_, shop.prices(PRODUCTS))
    async with serving(some) as (target, index):
        assert (index.size, index.pending_vectors, index.delta_size) == (PRODUCTS, 0, 0)
        for each in filters(some):
            truth = exact(made, queries_[:20], each.lets_through)
            right = await answered(target, requests(queries_[:20], ids_only=True, filters=each.filter), some, truth)
            assert right.recall == 1.0  # a base as small as this compares all
        wrong = np.full(20, 2.0, np.float32)
        assert (await answered(target, requests(queries_[:20], ids_only=True), some, wrong)).recall == 0.0


def _small() -> Stock:
    return shop.stock(PRODUCTS)


def test_a_request_has_the_vector_as_it_is() -> None:
    _, queries_ = shop.vectors(PRODUCTS)
    (body,) = requests(queries_[:1], ids_only=True)
    parsed = pb.SearchVectorsRequest.FromString(body)
    assert np.frombuffer(parsed.vectors[0].packed, "<f4").tolist() == queries_[0].tolist()
    assert parsed.ids_only
