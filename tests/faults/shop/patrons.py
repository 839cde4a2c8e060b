"""Clients of a shop who know what the right answer is: what they ask twice, what they changed, what they counted."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.events.v1 import events_service_pb2, events_service_pb2_grpc
from penstock.events.v1.events_pb2 import Event
from penstock.kpis.v1 import kpis_service_pb2, kpis_service_pb2_grpc
from penstock.recommendations.v1 import recommendations_service_pb2, recommendations_service_pb2_grpc
from penstock.search.v1 import search_pb2, search_service_pb2, search_service_pb2_grpc
from tests.faults.shop.clicker import CALL_S_MAX

PAUSE_S = 0.03  # between two rounds of a client: so the load is bounded by the number of clients


class Patron(Protocol):
    """One client."""

    @property
    def rounds(self) -> int:
        """How often it did all that it does."""
        ...

    async def run(self, until: asyncio.Event) -> None:
        """Goes on until it is told. Raises AssertionError for a wrong answer, grpc.RpcError for none."""
        ...


class Reader:
    """Asks what it asked before, and compares the answer with those to the same questions in words that nobody used.

    They differ in a product to be left out that does not exist; so they are in no cache. One is asked before, the other
    after what may be in a cache.
    """

    def __init__(self, channel: grpc.aio.Channel, user: str) -> None:
        self.rounds = 0
        self.compared = 0
        self._user = user
        self._recommendations = recommendations_service_pb2_grpc.RecommendationServiceStub(channel)
        self._search = search_service_pb2_grpc.SearchServiceStub(channel)

    async def run(self, until: asyncio.Event) -> None:
        for words in itertools.cycle(("wool hat", "garden chair", "lamp")):
            if until.is_set():
                return
            await self._searches(words)
            await self._recommended()
            self.rounds += 1
            await asyncio.sleep(PAUSE_S)

    async def _searches(self, words: str) -> None:
        found = []
        for other in (_nobodys(), "", "", _nobodys()):
            filters = search_pb2.ProductFilter(colours=["red"], exclude_product_ids=[other] if other else [])
            request = search_service_pb2.SearchRequest(query=words, filters=filters, limit=20, facets=["brand"])
            answer = await self._search.Search(request, timeout=CALL_S_MAX)
            seen = [each.product.product_id for each in answer.results], answer.total, str(answer.facets)
            found.append((answer.index_version, seen))
            assert not (other and answer.cached)
        self._agree(words, found)

    async def _recommended(self) -> None:
        found = []
        for other in (_nobodys(), "", "", _nobodys()):
            request = recommendations_service_pb2.RecommendRequest(
                user_id=self._user, limit=20, exclude=[other] if other else []
            )
            answer = await self._recommendations.Recommend(request, timeout=CALL_S_MAX)
            seen = [each.product.product_id for each in answer.items], answer.session_size, answer.history_size
            found.append(((answer.index_version, answer.model_version), seen))
            assert not (other and answer.cached)
        self._agree(self._user, found)

    def _agree(self, what: str, found: Sequence[tuple[object, object]]) -> None:
        fresh, *known, fresh_again = found
        if fresh == fresh_again:  # else the catalogue or the model changed in between
            assert all(each == fresh for each in known), f"{what}: {known}, computed anew {fresh}"
            self.compared += 1


class Keeper:
    """Changes what products cost and whether there are any, and finds each change at once; nobody else changes them."""

    def __init__(self, channel: grpc.aio.Channel, products: Iterable[Product], pause_s: float) -> None:
        self.rounds = 0
        self._products = {each.product_id: each for each in products}
        for each in self._products.values():
            each.in_stock = True
        self._pause_s = pause_s
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self._search = search_service_pb2_grpc.SearchServiceStub(channel)

    async def stock(self) -> None:
        """Stores all products, and waits until they are found by what they mean."""
        await self._store(list(self._products.values()), lambda index: not index.pending_vectors)

    async def run(self, until: asyncio.Event) -> None:
        for name in itertools.cycle(list(self._products)):
            if until.is_set():
                return
            changed = self._products[name]
            changed.price += 1
            changed.in_stock = not changed.in_stock
            await self._store([changed])
            await self._browse()
            await self._browse()
            self.rounds += 1
            await asyncio.sleep(self._pause_s)

    async def _store(
        self, products: list[Product], ready: Callable[[search_pb2.Index], bool] = lambda index: True
    ) -> None:
        stored = await self._catalog.UpsertProducts(
            catalog_service_pb2.UpsertProductsRequest(products=products), timeout=CALL_S_MAX
        )
        async with asyncio.timeout(CALL_S_MAX):
            while True:  # an upsert is answered before searches see it where that takes more than half a second
                answer = await self._search.GetIndex(search_service_pb2.GetIndexRequest(), timeout=CALL_S_MAX)
                if answer.index.commit >= stored.commit and ready(answer.index):
                    return
                await asyncio.sleep(0.01)

    async def _browse(self) -> None:
        filters = search_pb2.ProductFilter(in_stock=True)
        request = search_service_pb2.SearchRequest(filters=filters, limit=1_000, sort=search_pb2.PRICE_ASCENDING)
        answer = await self._search.Search(request, timeout=CALL_S_MAX)
        shown = [(each.product.price, each.product.product_id) for each in answer.results]
        right = sorted((each.price, each.product_id) for each in self._products.values() if each.in_stock)
        wrong = set(shown) ^ set(right)
        assert shown == right, f"products are not as they were stored, cached: {answer.cached}: {wrong}"


class Tracker:
    """Sends purchases of a site of its own, and finds all of them counted; nobody else sends any of that site."""

    def __init__(self, channel: grpc.aio.Channel, site: str) -> None:
        self.rounds = 0
        self._site = site
        self._commits: list[tuple[int, int]] = []  # with how many events each; all are acknowledged
        self._began = int(time.time())
        self._events = events_service_pb2_grpc.EventServiceStub(channel)
        self._kpis = kpis_service_pb2_grpc.KpiServiceStub(channel)

    @property
    def sent(self) -> int:
        """Events that were acknowledged."""
        return self._counted(self._commits[-1][0]) if self._commits else 0

    async def run(self, until: asyncio.Event) -> None:
        for count in itertools.cycle((1, 2, 3)):
            if until.is_set():
                return
            await self._send(count)
            await self._counts()
            await self.metric(least=await self.latest())
            self.rounds += 1
            await asyncio.sleep(PAUSE_S)

    async def latest(self) -> int:
        """The count of the last hour; it is that of the commits that are in gold."""
        answer = await self._kpis.GetMetrics(kpis_service_pb2.GetMetricsRequest(site_id=self._site), timeout=CALL_S_MAX)
        value, right = sum(answer.recent_events.values()), self._counted(answer.freshness.commit)
        assert value == right, f"{value} as of {answer.freshness.commit}, of {self._commits}"
        return int(value)

    async def metric(self, least: int) -> int:
        """The count as a metric; it is that of some first commits, of no fewer than were in gold before."""
        request = kpis_service_pb2.QueryKpisRequest(
            metrics=["events"],
            range=kpis_service_pb2.QueryKpisRequest.Range(
                start=Timestamp(seconds=self._began - 3_600), end=Timestamp(seconds=self._began + 3_600)
            ),
            filters=[kpis_service_pb2.QueryKpisRequest.Filter(dimension="site", values=[self._site])],
        )
        answer = await self._kpis.QueryKpis(request, timeout=CALL_S_MAX)
        value = sum(row.values["events"] for row in answer.rows)
        assert value in {0, *itertools.accumulate(count for _, count in self._commits)}, f"{value} of {self._commits}"
        assert value >= least
        return int(value)

    async def _send(self, count: int) -> None:
        events = [
            Event(event_id=str(uuid.uuid4()), event_type="purchase", user_id="buyer", site_id=self._site, price=1.0)
            for _ in range(count)
        ]
        request = events_service_pb2.BatchCollectRequest(events=events)
        answer = await self._events.BatchCollect(request, timeout=CALL_S_MAX)
        assert answer.accepted_rows == count
        self._commits.append((answer.commit, count))

    async def _counts(self) -> None:
        request = events_service_pb2.CountEventsRequest(site_id=self._site)
        answer = await self._events.CountEvents(request, timeout=CALL_S_MAX)
        assert answer.total == self.sent, f"{answer.total} of {self.sent}"

    def _counted(self, commit: int) -> int:
        return sum(count for number, count in self._commits if number <= commit)


class Eager:
    """Calls more often than they may, whatever they are told."""

    def __init__(self, channel: grpc.aio.Channel, pause_s: float) -> None:
        self.rounds = 0
        self._pause_s = pause_s
        self._search = search_service_pb2_grpc.SearchServiceStub(channel)

    async def run(self, until: asyncio.Event) -> None:
        request = search_service_pb2.SearchRequest(filters=search_pb2.ProductFilter(colours=["blue"]), limit=5)
        while not until.is_set():
            try:
                answer = await self._search.Search(request, timeout=CALL_S_MAX)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            else:
                assert {each.product.colour for each in answer.results} == {"blue"}
            self.rounds += 1
            await asyncio.sleep(self._pause_s)


def _nobodys() -> str:
    return f"none-{uuid.uuid4()}"
