"""Search over gRPC."""

import asyncio
import time
from dataclasses import replace

from google.longrunning import operations_proto_pb2
from google.protobuf.message import Message

from penstock import limits
from penstock.cache.local import Asked
from penstock.cache.popular import Popular
from penstock.cache.results import Kind, Results
from penstock.cache.warming import PAUSE_S, Warmed
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import PenstockError
from penstock.observation import note_stage
from penstock.rpc.call import Call
from penstock.rpc.operations import Operations, Report
from penstock.rpc.status import status_of
from penstock.search import wire
from penstock.search.hosted import View
from penstock.search.index import Except, Filter
from penstock.search.index.document import Ints
from penstock.search.indexes import Indexes
from penstock.search.lane import SearchLane, Vectors
from penstock.search.pages import Pages
from penstock.search.query import HowFound
from penstock.search.searcher import Searcher
from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as pb

# Answers hold ids; what products are is put in when an answer is given, so that a price is never of another time.
SEARCHES = Kind("search", ttl_s=300.0, trust_s=300.0)


class SearchService:
    """Serves `penstock.search.v1.SearchService`."""

    def __init__(
        self, indexes: Indexes, searcher: Searcher, lane: SearchLane, results: Results, operations: Operations
    ) -> None:
        self._indexes = indexes
        self._searcher = searcher
        self._lane = lane
        self._results = results
        self._operations = operations
        self._pages = Pages()
        self._popular = Popular()

    def tenants(self) -> set[str]:
        """Those who search."""
        return self._popular.tenants()

    def version(self, tenant: str) -> str | None:
        """What the tenant's answers depend on now."""
        return self._indexes.content(tenant)

    async def warm(self, tenant: str, limit: int) -> Warmed:
        """Searches for what was searched for most. Raises Overloaded, Unavailable."""
        cached = []
        for key in self._popular.most(tenant, at_least=limits.POPULAR_SEARCHES_MIN, limit=limit):
            answer = await self._searched(pb.SearchRequest.FromString(key), tenant, time.perf_counter())
            cached.append(answer.cached)
            await asyncio.sleep(PAUSE_S)
        return Warmed(cached.count(False), cached.count(True))

    async def Search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse:
        if not request.page_token:
            self._popular.note(call.tenant, request.SerializeToString(deterministic=True))
        return await self._searched(request, call.tenant, call.started)

    async def SearchVectors(self, request: pb.SearchVectorsRequest, call: Call) -> pb.SearchVectorsResponse:
        view = (await self._indexes.of(call.tenant)).view
        vectors = wire.vectors_of(request.vectors, view.encoder.dimensions)
        limit = request.limit or limits.NEIGHBOURS_DEFAULT
        started = time.perf_counter()
        found = await self._lane.nearest(
            view.version, vectors, limit, wire.filter_of(request.filters), tenant=call.tenant
        )
        timings = search_pb2.Timings(vector=_ms(started))
        started = time.perf_counter()
        response = pb.SearchVectorsResponse(
            neighbours=[
                pb.Neighbours(results=_results(view, hits.numbers, hits.scores, ids_only=request.ids_only))
                for hits in found.hits
            ],
            plan=wire.plan(HowFound.of(found.plan, found.matches)),
            index_version=view.version.number,
            reason="" if found.matches else _nothing(view),
        )
        timings.fetch, timings.total = _ms(started), _ms(call.started)
        response.took_ms.CopyFrom(timings)
        return response

    async def BatchSearch(self, request: pb.BatchSearchRequest, call: Call) -> pb.BatchSearchResponse:
        # One after the other: a call must not take more of the threads than others have.
        answers = []
        for each in request.requests:
            started = time.perf_counter()
            try:
                answers.append(pb.BatchSearchResult(response=await self._searched(each, call.tenant, started)))
            except PenstockError as error:
                answers.append(pb.BatchSearchResult(error=status_of(error)))
        return pb.BatchSearchResponse(responses=answers)

    async def SearchSimilar(self, request: pb.SearchSimilarRequest, call: Call) -> pb.SearchSimilarResponse:
        view = (await self._indexes.of(call.tenant)).view
        vector = await self._searcher.vector_of(view, request.product_id)
        others = Filter((*wire.filter_of(request.filters).conditions, Except(frozenset((request.product_id,)))))
        limit = request.limit or limits.NEIGHBOURS_DEFAULT
        started = time.perf_counter()
        found = await self._lane.nearest(view.version, vector[None, :], limit, others, tenant=call.tenant)
        took_ms = _ms(started)
        hits = found.hits[0]
        response = pb.SearchSimilarResponse(
            results=_results(view, hits.numbers, hits.scores, ids_only=request.ids_only),
            plan=wire.plan(HowFound.of(found.plan, found.matches)),
            index_version=view.version.number,
            reason="" if found.matches else _nothing(view),
        )
        response.took_ms.CopyFrom(search_pb2.Timings(vector=took_ms, total=_ms(call.started)))
        return response

    async def GetIndex(self, request: pb.GetIndexRequest, call: Call) -> pb.GetIndexResponse:
        return pb.GetIndexResponse(index=wire.index((await self._indexes.of(call.tenant)).state()))

    async def RebuildIndex(self, request: pb.RebuildIndexRequest, call: Call) -> operations_proto_pb2.Operation:
        hosted = await self._indexes.of(call.tenant)

        async def work(report: Report) -> Message:
            await hosted.rebuild()
            return pb.GetIndexResponse(index=wire.index(hosted.state()))

        return self._operations.start(call.tenant, request.request_id, work)

    async def _searched(self, request: pb.SearchRequest, tenant: str, started: float) -> pb.SearchResponse:
        view = (await self._indexes.of(tenant)).view
        shown: tuple[str, ...] = ()
        place = wire.place_of(tenant, request)
        search = wire.asked(request) + place.first.to_bytes(4, "little")
        if place.version:
            before = self._pages.shown(tenant, place.version, search, place.offset)
            view, shown = before.view, before.product_ids
        query = replace(wire.query_of(request, place.offset), shown=shown)

        async def load() -> bytes:
            found = await self._searcher.search(view, query)
            return wire.found(tenant, found, request, place, view.version.number).SerializeToString()

        # Behind a first page an answer depends on what that showed, so it is of this version and this server alone.
        content = f"{place.version}" if place.version else view.content
        key = search + place.offset.to_bytes(4, "little")
        answer = await self._results.get(Asked(kind=SEARCHES.name, tenant=tenant, key=key, version=content), load)
        response = pb.SearchResponse.FromString(answer.value)
        response.cached = answer.cached
        if not answer.cached:
            for stage, ms in response.took_ms.ListFields():
                note_stage(stage.name, ms)
        self._turned(view, request, place, search, shown, response)
        fetching = time.perf_counter()
        if not request.ids_only:
            kept = wire.filled(response.results, view.products)
            if len(kept) != len(response.results):
                del response.results[:]
                response.results.extend(kept)
        response.took_ms.fetch = _ms(fetching)
        response.took_ms.total = _ms(started)
        return response

    def _turned(
        self,
        view: View,
        request: pb.SearchRequest,
        place: wire.Place,
        search: bytes,
        shown: tuple[str, ...],
        response: pb.SearchResponse,
    ) -> None:
        """Makes the answer, which may come from another server or version of the same, one of this version."""
        if response.next_page_token:
            # What lies before a first page at an offset was never shown; the pages behind it leave as much out.
            seen = (*(shown or ("",) * place.first), *(each.product.product_id for each in response.results))
            self._pages.keep(search, view, seen)
            behind = wire.Place(view.version.number, place.first, len(seen))
            response.next_page_token = wire.page_token(view.products.tenant, request, behind)
        response.index_version = view.version.number


def _results(view: View, numbers: Ints, scores: Vectors, *, ids_only: bool) -> list[search_pb2.SearchResult]:
    results = []
    # The message is made in one step: ten results by way of an Item take 40 µs, so 15.
    for product_id, score in zip(view.version.product_ids(numbers), scores.tolist(), strict=True):
        if ids_only:
            results.append(search_pb2.SearchResult(product=Product(product_id=product_id), score=score))
        elif (stored := view.products.get(product_id)) is not None:
            results.append(search_pb2.SearchResult(product=stored.product, score=score))
    return results


def _nothing(view: View) -> str:
    return "no product passes the filters" if view.version.size else "the catalogue is empty"


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
