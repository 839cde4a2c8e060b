"""Search through a real server: pages, versions, filters, freshness, answers from memory."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.catalog.v1 import catalog_service_pb2
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as pb
from tests.process import ServerProcess
from tests.search.shop import THINGS, Shop, connected, products

COUNT = 80


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ServerProcess(tmp_path_factory.mktemp("shop")) as server, connected(server) as made:
        made.fill(products(COUNT))
        yield made


def search(shop: Shop, **fields: Any) -> pb.SearchResponse:
    return shop.search.Search(pb.SearchRequest(**fields))


def ids(response: pb.SearchResponse) -> list[str]:
    return [result.product.product_id for result in response.results]


def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and the first field that is named."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else ""
    return caught.value.code(), info.reason, field  # type: ignore[attr-defined]


def test_words_and_meaning_find_what_they_should(shop: Shop) -> None:
    for mode in (search_pb2.HYBRID, search_pb2.LEXICAL, search_pb2.VECTOR):
        found = search(shop, query="straw hat", mode=mode, limit=5)
        assert all("Straw Hat" in result.product.name for result in found.results), mode
    assert "Lamp" in search(shop, query="something that gives light in the evening", limit=1).results[0].product.name
    typo = search(shop, query="sraw haat", mode=search_pb2.LEXICAL, limit=3)
    assert all("Straw Hat" in result.product.name for result in typo.results)


def test_the_id_of_a_product_finds_it_first(shop: Shop) -> None:
    found = search(shop, query="P0042", explain=True, limit=1).results[0]
    assert found.product.product_id == "p0042"
    assert found.explanation.exact


def test_filters_totals_and_facets_are_exact(shop: Shop) -> None:
    everything = products(COUNT)
    wanted = [p for p in everything if p.brand == "brand-1" and 10 <= p.price <= 60 and p.attributes["batch"] == "2"]
    response = search(
        shop,
        filters=search_pb2.ProductFilter(
            brands=["BRAND-1"], min_price=10, max_price=60, attributes={"batch": search_pb2.Values(values=["2"])}
        ),
        facets=["colour", "category", "price", "attributes.batch"],
        limit=100,
    )
    assert sorted(ids(response)) == sorted(p.product_id for p in wanted)
    assert response.total == len(wanted)
    facets = {facet.name: {value.value: value.count for value in facet.values} for facet in response.facets}
    assert facets["colour"] == {c: n for c in ("red", "blue") if (n := sum(p.colour == c for p in wanted))}
    assert facets["category"]["Shop"] == len(wanted)
    assert facets["attributes.batch"] == {"2": len(wanted)}
    assert sum(facets["price"].values()) == len(wanted)
    subtree = search(shop, filters=search_pb2.ProductFilter(categories=["Shop/hat"]), limit=0)
    assert (subtree.total, len(subtree.results)) == (sum("hat" in THINGS[n % 8] for n in range(COUNT)), 0)


@pytest.mark.parametrize("query", ["", "hat"])
@pytest.mark.parametrize("mode", [search_pb2.HYBRID, search_pb2.LEXICAL, search_pb2.VECTOR])
def test_pages_show_everything_once_and_one_version(shop: Shop, query: str, mode: search_pb2.SearchMode) -> None:
    first = search(shop, query=query, mode=mode, limit=7)
    whole = search(shop, query=query, mode=mode, limit=1000)
    shop.fill([Product(product_id="later", name="Felt hat, new", price=3)])
    try:
        seen, token, versions = ids(first), first.next_page_token, {first.index_version}
        while token:
            page = search(shop, query=query, mode=mode, limit=7, page_token=token)
            seen += ids(page)
            versions.add(page.index_version)
            token = page.next_page_token
    finally:
        shop.wait(shop.catalog.DeleteProduct(catalog_service_pb2.DeleteProductRequest(product_id="later")).commit)
    assert len(versions) == 1
    assert seen == ids(whole)
    assert len(seen) == len(set(seen)) == first.total


@pytest.mark.parametrize("mode", [search_pb2.HYBRID, search_pb2.LEXICAL, search_pb2.VECTOR])
def test_pages_of_products_that_are_all_alike_repeat_none(shop: Shop, mode: search_pb2.SearchMode) -> None:
    alike = [Product(product_id=f"twin-{number:02}", name="Copper kettle", brand="Twins") for number in range(40)]
    shop.fill(alike)
    filters = search_pb2.ProductFilter(brands=["twins"])
    page = search(shop, query="copper kettle", mode=mode, filters=filters, limit=7)
    seen = ids(page)
    while page.next_page_token:
        token = page.next_page_token
        page = search(shop, query="copper kettle", mode=mode, filters=filters, limit=7, page_token=token)
        seen += ids(page)
    assert sorted(seen) == [product.product_id for product in alike]
    offset = search(shop, query="copper kettle", mode=mode, filters=filters, limit=7, offset=30)
    rest = search(shop, query="copper kettle", mode=mode, filters=filters, limit=7, page_token=offset.next_page_token)
    assert len({*ids(offset), *ids(rest)}) == 10


def test_who_begins_a_search_ends_nobody_elses(shop: Shop) -> None:
    first = search(shop, query="hat", limit=3)
    second = search(shop, query="hat", limit=3, page_token=first.next_page_token)
    assert search(shop, query="hat", limit=3).results == first.results
    assert search(shop, query="hat", limit=3, offset=6).results
    third = search(shop, query="hat", limit=3, page_token=second.next_page_token)
    assert len({*ids(first), *ids(second), *ids(third)}) == 9


def test_sorting(shop: Shop) -> None:
    cheap = search(shop, sort=search_pb2.PRICE_ASCENDING, limit=3)
    assert [result.product.price for result in cheap.results] == [0, 1, 2]
    dear = search(shop, query="lamp", sort=search_pb2.PRICE_DESCENDING, limit=3)
    assert all("Lamp" in result.product.name for result in dear.results)
    prices = [result.product.price for result in dear.results]
    assert prices == sorted(prices, reverse=True)
    assert dear.total == sum("lamp" in THINGS[n % 8] for n in range(COUNT))


def test_a_change_is_seen_in_results_and_filters_at_once(shop: Shop) -> None:
    changed = products(COUNT)[8]
    changed.price, changed.name = 7777.5, "Desk Lamp 8, polished"
    try:
        shop.fill([changed])
        found = search(shop, filters=search_pb2.ProductFilter(min_price=7000))
        assert [(r.product.price, r.product.name) for r in found.results] == [(7777.5, "Desk Lamp 8, polished")]
        assert search(shop, query="polished", mode=search_pb2.LEXICAL).total == 1
    finally:
        shop.fill([products(COUNT)[8]])
    assert search(shop, query="polished", mode=search_pb2.LEXICAL).total == 0


def test_what_is_not_active_is_not_found_and_what_is_deleted_neither(shop: Shop) -> None:
    shop.fill([Product(product_id="hidden", name="Velvet curtain", is_active=False)])
    assert "hidden" not in ids(search(shop, query="velvet curtain"))
    shop.fill([Product(product_id="hidden", name="Velvet curtain")])
    assert ids(search(shop, query="velvet curtain"))[0] == "hidden"
    shop.wait(shop.catalog.DeleteProduct(catalog_service_pb2.DeleteProductRequest(product_id="hidden")).commit)
    assert "hidden" not in ids(search(shop, query="velvet curtain"))


def test_the_same_search_is_answered_from_memory_until_something_changes(shop: Shop) -> None:
    assert not search(shop, query="a chair for the garden").cached
    again = search(shop, query="a chair for the garden")
    assert again.cached
    assert again.results[0].product.name  # the products come with it
    shop.fill([Product(product_id="new-chair", name="Garden chair of steel")])
    after = search(shop, query="a chair for the garden")
    assert not after.cached
    assert "new-chair" in ids(after)
    shop.wait(shop.catalog.DeleteProduct(catalog_service_pb2.DeleteProductRequest(product_id="new-chair")).commit)


def test_neighbours_of_vectors(shop: Shop) -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(3, 384)).astype("<f4")
    as_values = [search_pb2.Vector(values=vector.tolist()) for vector in vectors]
    as_bytes = [search_pb2.Vector(packed=vector.tobytes()) for vector in vectors]
    one = shop.search.SearchVectors(pb.SearchVectorsRequest(vectors=as_values, limit=4))
    other = shop.search.SearchVectors(pb.SearchVectorsRequest(vectors=as_bytes, limit=4))
    assert list(one.neighbours) == list(other.neighbours)
    assert [len(each.results) for each in one.neighbours] == [4, 4, 4]
    scores = [result.score for result in one.neighbours[0].results]
    assert scores == sorted(scores, reverse=True)


def test_the_like_of_a_product_is_not_the_product(shop: Shop) -> None:
    found = shop.search.SearchSimilar(pb.SearchSimilarRequest(product_id="p0003", limit=5))
    assert len(found.results) == 5
    assert "p0003" not in [result.product.product_id for result in found.results]
    assert "Hat" in found.results[0].product.name


def test_many_searches_are_answered_each_on_its_own(shop: Shop) -> None:
    good, bad = pb.SearchRequest(query="hat", limit=1), pb.SearchRequest(query="hat", facets=["prize"])
    answers = shop.search.BatchSearch(pb.BatchSearchRequest(requests=[good, bad, good])).responses
    assert [each.WhichOneof("result") for each in answers] == ["response", "error", "response"]
    assert answers[0].response.results[0].product == answers[2].response.results[0].product
    assert answers[2].response.cached


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.SearchRequest(query="x" * 10_000), "INVALID_FIELD", "query"),
        (pb.SearchRequest(limit=1_000_000), "INVALID_FIELD", "limit"),
        (pb.SearchRequest(limit=-1), "INVALID_FIELD", "limit"),
        (pb.SearchRequest(offset=10_001), "INVALID_FIELD", "offset"),
        (pb.SearchRequest(facets=["colour", "prize"]), "INVALID_FIELD", "facets[1]"),
        (pb.SearchRequest(page_token="?"), "INVALID_PAGE_TOKEN", "page_token"),
        (
            pb.SearchRequest(filters=search_pb2.ProductFilter(min_price=2, max_price=1)),
            "INVALID_FIELD",
            "filters.min_price",
        ),
        (
            pb.SearchRequest(filters=search_pb2.ProductFilter(min_price=float("nan"))),
            "INVALID_FIELD",
            "filters.min_price",
        ),
    ],
)
def test_what_is_wrong_is_named(shop: Shop, request_: pb.SearchRequest, reason: str, field: str) -> None:
    assert refused(lambda: shop.search.Search(request_)) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


def test_a_token_of_another_search_is_refused(shop: Shop) -> None:
    token = search(shop, query="hat", limit=1).next_page_token
    wrong = pb.SearchRequest(query="lamp", limit=1, page_token=token)
    assert refused(lambda: shop.search.Search(wrong))[1] == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    "vector",
    [
        search_pb2.Vector(values=[1.0, 2.0]),
        search_pb2.Vector(values=[0.0] * 384),
        search_pb2.Vector(values=[float("nan")] + [0.0] * 383),
        search_pb2.Vector(values=[float("inf")] + [0.0] * 383),
        search_pb2.Vector(packed=b"123"),
        search_pb2.Vector(),
        search_pb2.Vector(values=[1.0] * 384, packed=b"\0" * 1536),
    ],
)
def test_vectors_that_are_none_are_named(shop: Shop, vector: search_pb2.Vector) -> None:
    good = search_pb2.Vector(values=[1.0] * 384)
    code, reason, field = refused(lambda: shop.search.SearchVectors(pb.SearchVectorsRequest(vectors=[good, vector])))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VECTOR")
    assert field.startswith("vectors[1]")


def test_nothing_to_find_is_an_answer_with_a_reason(shop: Shop) -> None:
    nothing = search(shop, query="lamp", filters=search_pb2.ProductFilter(brands=["none such"]))
    assert (list(nothing.results), nothing.total, nothing.reason) == ([], 0, "no product passes the filters")
    words = search(shop, query="qqqxxyz", mode=search_pb2.LEXICAL)
    assert (words.total, words.reason) == (0, "no product has a word of the query")
    behind = search(shop, query="", offset=5000)
    assert "begins behind them" in behind.reason
    contradiction = search_pb2.ProductFilter(product_ids=["p0001"], exclude_product_ids=["p0001"])
    assert search(shop, filters=contradiction).total == 0


def test_the_index_says_how_it_is_and_can_be_rebuilt(shop: Shop) -> None:
    operation = shop.search.RebuildIndex(pb.RebuildIndexRequest(request_id="again"))
    assert shop.search.RebuildIndex(pb.RebuildIndexRequest(request_id="again")).name == operation.name
    deadline = time.monotonic() + 60
    index = shop.search.GetIndex(pb.GetIndexRequest()).index
    while not (index.base_size == index.size and index.state == "READY" and index.snapshot_commit == index.commit):
        assert time.monotonic() < deadline, index
        time.sleep(0.05)
        index = shop.search.GetIndex(pb.GetIndexRequest()).index
    assert (index.delta_size, index.tombstones, index.pending_vectors) == (0, 0, 0)
    assert index.recall_at_10 == 1.0
    assert index.memory_bytes > 0
