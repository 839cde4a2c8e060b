"""Search, from the wire and to it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock import limits
from penstock.catalog.products import TenantProducts
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import invalid_field
from penstock.rpc.tokens import token, values_of
from penstock.search.hosted import State
from penstock.search.index import (
    Between,
    BuildState,
    Category,
    Condition,
    Except,
    FacetCounts,
    Filter,
    InStock,
    Keywords,
    Number,
    Only,
    Order,
)
from penstock.search.lane import Vectors
from penstock.search.query import Counted, Found, HowFound, Item, Mode, Query, Why
from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as pb

_MODES = {
    search_pb2.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    search_pb2.HYBRID: Mode.HYBRID,
    search_pb2.LEXICAL: Mode.LEXICAL,
    search_pb2.VECTOR: Mode.VECTOR,
}
_ORDERS = {
    search_pb2.SORT_UNSPECIFIED: None,
    search_pb2.RELEVANCE: None,
    search_pb2.PRICE_ASCENDING: Order.PRICE_ASCENDING,
    search_pb2.PRICE_DESCENDING: Order.PRICE_DESCENDING,
    search_pb2.RATING: Order.RATING,
    search_pb2.NEWEST: Order.NEWEST,
}
_TOKEN = "search"


def filter_of(sent: search_pb2.ProductFilter, field: str = "filters") -> Filter:
    """The conditions that a filter says. Raises InvalidInput for bounds that no number can keep."""
    conditions: list[Condition] = []
    if sent.HasField("min_price") or sent.HasField("max_price"):
        low = sent.min_price if sent.HasField("min_price") else None
        high = sent.max_price if sent.HasField("max_price") else None
        if low is not None and high is not None and low > high:
            raise invalid_field(f"{field}.min_price", f"is more than max_price, {high:g}: no price can be both")
        conditions.append(Between(Number.PRICE, low, high))
    if sent.HasField("min_rating"):
        conditions.append(Between(Number.RATING, sent.min_rating, None))
    if sent.HasField("in_stock"):
        conditions.append(InStock(sent.in_stock))
    for names, values in (
        (("brand", "brand_id"), sent.brands),
        (("merchant", "merchant_id"), sent.merchants),
        (("colour",), sent.colours),
        (("size",), sent.sizes),
    ):
        if values:
            conditions.append(Keywords(names, tuple(values)))
    if sent.categories:
        paths = tuple(tuple(filter(None, each.split("/"))) for each in sent.categories)
        conditions.append(Category(tuple(filter(None, paths)), tuple(sent.categories)))
    for name in sorted(sent.attributes):
        keyword = name if name.startswith("fashion.") else f"attributes.{name}"
        conditions.append(Keywords((keyword,), tuple(sent.attributes[name].values)))
    if sent.product_ids:
        conditions.append(Only(frozenset(sent.product_ids)))
    if sent.exclude_product_ids:
        conditions.append(Except(frozenset(sent.exclude_product_ids)))
    return Filter(tuple(conditions))


def query_of(request: pb.SearchRequest, offset: int) -> Query:
    """The search that a request asks for, from `offset` on. Raises InvalidInput."""
    return Query(
        text=request.query.strip(),
        filter=filter_of(request.filters),
        limit=request.limit if request.HasField("limit") else limits.SEARCH_RESULTS_DEFAULT,
        offset=offset,
        order=_ORDERS[request.sort],
        facets=tuple(request.facets),
        mode=_MODES[request.mode],
        explain=request.explain,
    )


def asked(request: pb.SearchRequest) -> bytes:
    """Names what a request asks for, its page and its form apart."""
    bare = pb.SearchRequest()
    bare.CopyFrom(request)
    for name in ("page_token", "offset", "ids_only"):
        bare.ClearField(name)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins."""

    version: int  # of the index that it shows; 0: the newest
    first: int  # the offset at which the first page began
    offset: int  # that of this one


def page_token(tenant: str, request: pb.SearchRequest, place: Place) -> str:
    """Where the next page begins."""
    return token(tenant, _TOKEN, [place.version, place.first, place.offset, asked(request).hex()[:16]])


def place_of(tenant: str, request: pb.SearchRequest) -> Place:
    """Where the page of a request begins.

    Raises InvalidInput (INVALID_PAGE_TOKEN), also for a token that another request was given.
    """
    if not request.page_token:
        return Place(0, request.offset, request.offset)
    if request.offset:
        raise invalid_field("offset", "goes not with page_token, which says where the page begins")
    wrong = invalid_field("page_token", "is not one that this search gave", reason="INVALID_PAGE_TOKEN")
    version, first, offset, request_name = values_of(tenant, _TOKEN, request.page_token, (int, int, int, str), wrong)
    place = Place(int(version), int(first), int(offset))
    if request_name != asked(request).hex()[:16] or not 0 <= place.first <= place.offset <= limits.SEARCH_DEPTH_MAX:
        raise wrong
    return place


def vectors_of(sent: Sequence[search_pb2.Vector], dimensions: int) -> Vectors:
    """(n, dimensions). Raises InvalidInput (INVALID_VECTOR) naming the first that is of another size.

    Whether they are finite and have a direction the index checks, once.
    """
    made = np.empty((len(sent), dimensions), dtype=np.float32)
    for place, each in enumerate(sent):
        packed = each.packed
        if packed and each.values:
            raise invalid_field(f"vectors[{place}]", "has both values and packed; send one", reason="INVALID_VECTOR")
        if len(packed) % 4:
            raise invalid_field(
                f"vectors[{place}].packed", "must be 32-bit floats, 4 bytes each", reason="INVALID_VECTOR"
            )
        values = np.frombuffer(packed, dtype="<f4") if packed else np.asarray(each.values, dtype=np.float32)
        if len(values) != dimensions:
            raise invalid_field(
                f"vectors[{place}]",
                f"has {len(values)} numbers; the index has {dimensions}",
                reason="INVALID_VECTOR",
            )
        made[place] = values
    return made


def found(tenant: str, found: Found, request: pb.SearchRequest, place: Place, version: int) -> pb.SearchResponse:
    """The answer, with the ids of products alone: what they are is put in when it is given."""
    behind = Place(version, place.first, place.offset + len(found.items))
    return pb.SearchResponse(
        results=[result(item) for item in found.items],
        total=found.total,
        facets=[_facet(each) for each in found.facets],
        next_page_token=page_token(tenant, request, behind) if found.more else "",
        took_ms=search_pb2.Timings(
            encode=found.timings.encode,
            filter=found.timings.filter,
            lexical=found.timings.lexical,
            vector=found.timings.vector,
            rank=found.timings.rank,
            facets=found.timings.facets,
        ),
        plan=plan(found.plan),
        index_version=version,
        reason=found.reason,
    )


def plan(how: HowFound) -> search_pb2.Plan:
    """How products were compared."""
    return search_pb2.Plan(kind=how.kind, reason=how.reason, matches=how.matches, candidates=how.candidates)


def result(item: Item) -> search_pb2.SearchResult:
    """One product that was found."""
    return search_pb2.SearchResult(
        product=Product(product_id=item.product_id),
        score=item.score,
        explanation=_explanation(item.why) if item.why is not None else None,
    )


def filled(results: Iterable[search_pb2.SearchResult], products: TenantProducts) -> list[search_pb2.SearchResult]:
    """The results with their products as they are now; those that are gone since are left out."""
    kept = []
    for each in results:
        stored = products.get(each.product.product_id)
        if stored is not None:
            each.product.ParseFromString(stored.message)
            kept.append(each)
    return kept


def index(state: State) -> search_pb2.Index:
    """How an index is."""
    status = state.index
    made = search_pb2.Index(
        state="LOADING"
        if state.loading
        else "BUILDING"
        if status.state is BuildState.BUILDING or state.coming
        else "READY",
        version=state.version,
        commit=state.commit,
        size=status.size,
        pending_vectors=status.pending_vectors,
        kind=status.kind,
        dimensions=state.dimensions,
        encoder=state.encoder,
        base_size=status.base_size,
        delta_size=status.delta_size,
        tombstones=status.tombstones,
        memory_bytes=status.memory_bytes,
        build_ms=status.build_ms or 0.0,
        snapshot_commit=state.snapshot_commit,
        snapshot_problem=state.snapshot_problem,
    )
    if status.recall is not None:
        made.recall_at_10 = status.recall.share
        made.recall_queries = status.recall.queries
        made.recall_time.FromDatetime(status.recall.time)
    if status.build_time is not None:
        made.build_time.FromDatetime(status.build_time)
    if state.snapshot_time is not None:
        made.snapshot_time.FromDatetime(state.snapshot_time)
    return made


def _explanation(why: Why) -> search_pb2.Explanation:
    return search_pb2.Explanation(
        lexical=why.lexical,
        similarity=why.similarity,
        exact=why.exact,
        matched_terms=why.matched_terms,
        text=why.text,
    )


def _facet(counted: Counted) -> search_pb2.Facet:
    values = counted.values
    if isinstance(values, FacetCounts):
        return search_pb2.Facet(
            name=counted.name,
            values=[search_pb2.FacetValue(value=each.value, count=each.count) for each in values.values],
            more_values=values.more_values,
        )
    return search_pb2.Facet(
        name=counted.name,
        values=[
            search_pb2.FacetValue(value=f"{each.low:g}..{each.high:g}", count=each.count) for each in values.ranges
        ],
        min=values.least,
        max=values.greatest,
    )
