"""Finding products."""

from __future__ import annotations

import sys
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict
from uuid import uuid4

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as Packed

from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as pb
from penstock.search.v1.search_pb2 import Index, SearchResult, Vector
from penstock.search.v1.search_service_pb2_grpc import SearchServiceStub
from penstock_client.connection import Connection
from penstock_client.errors import Error, from_status
from penstock_client.filters import FilterLike, product_filter
from penstock_client.operation import Operation, found, unpacked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PAGE_RESULTS = 100

Mode = Literal["hybrid", "lexical", "vector"]
Sort = Literal["relevance", "price_ascending", "price_descending", "rating", "newest"]
# Numbers, or the same as little-endian 32-bit floats.
VectorLike: TypeAlias = "Sequence[float] | npt.NDArray[np.floating[Any]] | bytes"

_MODES = {
    None: search_pb2.SEARCH_MODE_UNSPECIFIED,
    "hybrid": search_pb2.HYBRID,
    "lexical": search_pb2.LEXICAL,
    "vector": search_pb2.VECTOR,
}
_SORTS = {
    None: search_pb2.SORT_UNSPECIFIED,
    "relevance": search_pb2.RELEVANCE,
    "price_ascending": search_pb2.PRICE_ASCENDING,
    "price_descending": search_pb2.PRICE_DESCENDING,
    "rating": search_pb2.RATING,
    "newest": search_pb2.NEWEST,
}


class SearchFields(TypedDict, total=False):
    """One search of many."""

    query: str
    filters: FilterLike
    limit: int | None
    page_token: str
    offset: int
    sort: Sort | None
    facets: Sequence[str]
    mode: Mode | None
    explain: bool
    ids_only: bool


SearchLike: TypeAlias = str | SearchFields | pb.SearchRequest


class SearchClient:
    """`client.search`.

    `filters` are such as `{"price": (10, 50), "brand": ["Acme", "Bolt"], "category": "Home/Lighting"}`; `Filters`
    names all of them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> SearchServiceStub:
        return SearchServiceStub(self._connection.channel)

    async def search(
        self,
        query: str = "",
        *,
        filters: FilterLike = None,
        limit: int | None = None,
        page_token: str = "",
        offset: int = 0,
        sort: Sort | None = None,
        facets: Sequence[str] = (),
        mode: Mode | None = None,
        explain: bool = False,
        ids_only: bool = False,
    ) -> pb.SearchResponse:
        """One page of at most `limit` results (20 by default); without a query, of what the filters match.

        `facets` are names such as `brand`, `price` or `attributes.material`, whose values are counted among all that
        matches. `next_page_token` of the answer is the next page's; `pages` and `results` go through all by themselves.
        """
        fields = SearchFields(
            query=query, filters=filters, limit=limit, page_token=page_token, offset=offset, sort=sort, facets=facets,
            mode=mode, explain=explain, ids_only=ids_only,
        )  # fmt: skip
        return await self._connection.read(self._stub.Search, _search(fields), pb.SearchResponse)

    async def pages(
        self,
        query: str = "",
        *,
        filters: FilterLike = None,
        page_size: int = PAGE_RESULTS,
        sort: Sort | None = None,
        facets: Sequence[str] = (),
        mode: Mode | None = None,
        explain: bool = False,
        ids_only: bool = False,
    ) -> AsyncIterator[pb.SearchResponse]:
        """All pages, up to 10,000 results, of one version of the index. Raises PageTokenExpired when that is gone."""
        fields = SearchFields(
            query=query, filters=filters, limit=page_size, sort=sort, facets=facets, mode=mode, explain=explain,
            ids_only=ids_only,
        )  # fmt: skip
        request = _search(fields)
        while True:
            page = await self._connection.read(self._stub.Search, request, pb.SearchResponse)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def results(
        self,
        query: str = "",
        *,
        filters: FilterLike = None,
        page_size: int = PAGE_RESULTS,
        sort: Sort | None = None,
        mode: Mode | None = None,
        explain: bool = False,
        ids_only: bool = False,
    ) -> AsyncIterator[SearchResult]:
        """All results, page after page."""
        async for page in self.pages(
            query, filters=filters, page_size=page_size, sort=sort, mode=mode, explain=explain, ids_only=ids_only
        ):
            for each in page.results:
                yield each

    async def batch(self, searches: Iterable[SearchLike]) -> Sequence[pb.SearchResponse | Error]:
        """Up to 100 searches in one call, each answered on its own: what it found, or the Error that it ended with.

        A search is a query, the arguments of `search` in a mapping, or a message.
        """
        request = pb.BatchSearchRequest(requests=[_search(each) for each in searches])
        answer = await self._connection.read(self._stub.BatchSearch, request, pb.BatchSearchResponse)
        return [each.response if each.HasField("response") else from_status(each.error) for each in answer.responses]

    async def vectors(
        self,
        vectors: Iterable[VectorLike],
        *,
        filters: FilterLike = None,
        limit: int = 0,
        ids_only: bool = False,
    ) -> pb.SearchVectorsResponse:
        """The nearest `limit` products (10 by default) of each of up to 100 vectors.

        Vectors are lists, the rows of a numpy array, or little-endian 32-bit floats as bytes.

        Raises InvalidRequest for a vector that is not of the index's dimensions.
        """
        request = pb.SearchVectorsRequest(
            vectors=[packed(each) for each in vectors], filters=product_filter(filters), limit=limit, ids_only=ids_only
        )
        return await self._connection.read(self._stub.SearchVectors, request, pb.SearchVectorsResponse)

    async def similar(
        self, product_id: str, *, filters: FilterLike = None, limit: int = 0, ids_only: bool = False
    ) -> pb.SearchSimilarResponse:
        """The `limit` products (10 by default) that are most like one, without it.

        Raises NotFound, and Conflict (VECTOR_PENDING) for a product that came a moment ago.
        """
        request = pb.SearchSimilarRequest(
            product_id=product_id, filters=product_filter(filters), limit=limit, ids_only=ids_only
        )
        return await self._connection.read(self._stub.SearchSimilar, request, pb.SearchSimilarResponse)

    async def index(self) -> Index:
        """How the index is: size, kind, build state, a measured recall, memory."""
        return (await self._connection.read(self._stub.GetIndex, pb.GetIndexRequest(), pb.GetIndexResponse)).index

    async def rebuild(self, *, request_id: str | None = None) -> Operation[Index]:
        """Builds the index anew beside the one that searches use.

        The same `request_id` again gives the same operation. Raises RunInProgress while another rebuild is under way.
        """
        request = pb.RebuildIndexRequest(request_id=request_id or str(uuid4()))
        # With its request_id the call starts nothing twice, so it may be tried again.
        started = await self._connection.read(self._stub.RebuildIndex, request, operations_pb2.Operation)
        return Operation(self._connection, started, _index)

    async def operation(self, operation_id: str) -> Operation[Index]:
        """A rebuild that was started before. Raises NotFound."""
        return Operation(self._connection, await found(self._connection, operation_id), _index)


def packed(vector: VectorLike) -> Vector:
    """A vector as it goes over the wire. Raises TypeError for what is no vector of numbers."""
    if isinstance(vector, bytes):
        return Vector(packed=vector)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(vector, numpy.ndarray):
        if vector.ndim != 1:
            raise TypeError(f"a vector has one dimension, not {vector.ndim}")
        return Vector(packed=vector.astype("<f4").tobytes())
    if not isinstance(vector, Sequence) or isinstance(vector, str):
        raise TypeError(f"{type(vector).__name__} is no vector: give a list of vectors, or an array of two dimensions")
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return Vector(packed=numbers.tobytes())


def _search(given: SearchLike) -> pb.SearchRequest:
    if isinstance(given, pb.SearchRequest):
        return given
    fields = SearchFields(query=given) if isinstance(given, str) else given
    unknown = sorted(set(fields) - set(SearchFields.__annotations__))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no argument of a search")
    return pb.SearchRequest(
        query=fields.get("query", ""),
        filters=product_filter(fields.get("filters")),
        limit=fields.get("limit"),
        page_token=fields.get("page_token", ""),
        offset=fields.get("offset", 0),
        sort=_SORTS[fields.get("sort")],
        facets=fields.get("facets", ()),
        mode=_MODES[fields.get("mode")],
        explain=fields.get("explain", False),
        ids_only=fields.get("ids_only", False),
    )


def _index(response: Packed) -> Index:
    return unpacked(pb.GetIndexResponse, response).index
