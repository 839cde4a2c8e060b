"""`python -m tests.faults.soak [--seconds N] [--clients N]`: many change and search one catalogue at once, for long.

A quarter of the clients write, each products of its own; the others search, page, compare vectors and recommend. What
an answer must and must not show follows from what was acknowledged and from the commit that the index says it has, so
it holds however slow the machine is. How long a change takes until it is found is measured beside it.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.catalog.v1 import catalog_service_pb2_grpc as catalog_stubs
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1 import feedback_service_pb2_grpc as feedback_stubs
from penstock.feedback.v1.feedback_pb2 import CLICK, Interaction
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as recommendations_stubs
from penstock.search.v1 import search_service_pb2 as search
from penstock.search.v1 import search_service_pb2_grpc as search_stubs
from penstock.search.v1.search_pb2 import PRICE_ASCENDING, Index, ProductFilter, SearchResult
from tests.faults.journal import PromiseBroken
from tests.process import ServerProcess
from tests.search.shop import THINGS

# What is refused because a machine had stopped for a moment is asked again, as every client does.
PATIENT = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)
CALL_S_MAX = 60.0
PRODUCTS_OF_A_WRITER = 300  # so many it has at most; about half of them are there at a time
BATCH_MAX = 20
LOOK_S = 0.02  # between two looks of a writer at whether its change is found
VERSIONS_KEPT = 64  # of the index at least, for pages that follow
REPLIES_KEPT = 5_000  # whose versions are compared
WARM_UP_SHARE = 0.2  # of the time, and
WARM_UP_S_MAX = 60.0  # at most so long, memory may grow as it likes


@dataclass(slots=True)
class Known:
    """What the writer of a product knows of it: the last acknowledged change."""

    commit: int = 0  # of that change; 0: never stored
    product: Product | None = None  # None: not there
    turn: int = 0  # rises when a change begins
    changing: bool = False


class Shelf:
    """What was acknowledged, of all writers."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Known]] = {}

    def settled(self, writer: str, commit: int) -> dict[str, tuple[int, Product | None]]:
        """Of each product that nothing was changed of since `commit`: its turn, and what it is."""
        return {
            product_id: (known.turn, known.product)
            for product_id, known in self.known[writer].items()
            if not known.changing and 0 < known.commit <= commit
        }

    def unchanged(self, writer: str, product_id: str, turn: int) -> bool:
        """Whether no change began since."""
        return self.known[writer][product_id].turn == turn


@dataclass(slots=True)
class Report:
    """What a soak did; it raises for every promise that was broken."""

    seconds: float
    clients: int
    calls: Counter[str] = field(default_factory=Counter)
    lags_s: list[float] = field(default_factory=list)  # from an acknowledgement until the change was found
    versions: set[int] = field(default_factory=set)
    cached: int = 0
    expired_pages: int = 0
    memory_mb: list[tuple[float, float]] = field(default_factory=list)  # second, resident megabytes

    @property
    def lag_s_max(self) -> float:
        """The longest that a change took until it was found, in seconds."""
        return max(self.lags_s, default=0.0)

    @property
    def settled_mb(self) -> list[tuple[float, float]]:
        """Memory after the warm-up."""
        warm_up_s = min(WARM_UP_S_MAX, self.seconds * WARM_UP_SHARE)
        return [each for each in self.memory_mb if each[0] >= warm_up_s]

    @property
    def growth_mb_a_minute(self) -> float:
        """The slope of memory after the warm-up, by least squares."""
        seconds, megabytes = zip(*self.settled_mb, strict=True)
        return statistics.linear_regression(seconds, megabytes).slope * 60

    def __str__(self) -> str:
        lags = statistics.quantiles(self.lags_s, n=100) if len(self.lags_s) > 1 else [0.0] * 99
        memory = [megabytes for _, megabytes in self.settled_mb]
        return json.dumps(
            {
                "seconds": self.seconds,
                "clients": self.clients,
                "calls": dict(self.calls),
                "versions_seen": len(self.versions),
                "cached": self.cached,
                "expired_pages": self.expired_pages,
                "found_after_s": {
                    "p50": round(lags[49], 3),
                    "p95": round(lags[94], 3),
                    "max": round(self.lag_s_max, 3),
                },
                "memory_mb": {
                    "after_warm_up": round(memory[0]),
                    "end": round(memory[-1]),
                    "max": round(max(memory)),
                    "growth_a_minute": round(self.growth_mb_a_minute, 2),
                    "over_time": [round(each) for _, each in self.memory_mb[:: max(1, len(self.memory_mb) // 20)]],
                },
            }
        )


class Soak:
    """One soak of a running server."""

    def __init__(self, server: ServerProcess, channel: grpc.aio.Channel, report: Report, seed: int) -> None:
        self._server = server
        self._seed = seed
        self._began = time.monotonic()
        self.report = report
        self.shelf = Shelf()
        self.catalog = catalog_stubs.CatalogServiceStub(channel)
        self.search = search_stubs.SearchServiceStub(channel)
        self.feedback = feedback_stubs.FeedbackServiceStub(channel)
        self.recommendations = recommendations_stubs.RecommendationServiceStub(channel)

    @property
    def goes_on(self) -> bool:
        """Whether the time is not over."""
        return self._server.running() and time.monotonic() < self._began + self.report.seconds

    async def play(self) -> None:
        """Until the time is over. Raises PromiseBroken, and grpc.RpcError for what should not fail."""
        writers = max(1, self.report.clients // 4)
        names = [f"writer-{number}" for number in range(writers)]
        self.shelf.known = {name: {} for name in names}
        clients: list[Coroutine[None, None, None]] = [
            Writer(self, name, random.Random(f"{self._seed}/{name}")).run() for name in names
        ]
        clients += [
            Searcher(self, random.Random(f"{self._seed}/{number}")).run()
            for number in range(writers, self.report.clients)
        ]
        async with asyncio.TaskGroup() as tasks:
            for client in (*clients, self._watch_memory()):
                tasks.create_task(client)
        if not self._server.running():
            raise PromiseBroken(f"the server ended:\n{self._server.log[-2_000:]}")

    async def index(self) -> Index:
        """How the index is."""
        answer: search.GetIndexResponse = await self.search.GetIndex(search.GetIndexRequest(), timeout=CALL_S_MAX)
        return answer.index

    async def find(self, request: search.SearchRequest) -> search.SearchResponse:
        """Searches."""
        answer: search.SearchResponse = await self.search.Search(request, timeout=CALL_S_MAX)
        self.report.versions.add(answer.index_version)
        self.report.cached += answer.cached
        return answer

    async def _watch_memory(self) -> None:
        while self.goes_on:
            status = await asyncio.to_thread(Path(f"/proc/{self._server.pid}/status").read_text, encoding="ascii")
            kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            self.report.memory_mb.append((time.monotonic() - self._began, kilobytes / 1024))
            await asyncio.sleep(min(1.0, self.report.seconds / 50))


class Writer:
    """Stores and removes products of its own, and looks after each change until it is found."""

    def __init__(self, soak: Soak, name: str, chance: random.Random) -> None:
        self._soak = soak
        self._name = name
        self._chance = chance
        self._known = soak.shelf.known[name]
        self._changes = 0

    async def run(self) -> None:
        """Until the time is over."""
        while self._soak.goes_on:
            there = [product_id for product_id, known in self._known.items() if known.product is not None]
            if there and self._chance.random() < len(there) / PRODUCTS_OF_A_WRITER:
                await self._remove(self._chance.choice(there))
            else:
                await self._store(self._chance.randint(1, BATCH_MAX))

    async def _store(self, count: int) -> None:
        numbers = self._chance.sample(range(PRODUCTS_OF_A_WRITER), count)
        products = [self._made(f"{self._name}-{number}") for number in numbers]
        for product in products:
            self._begin(product.product_id)
        request = catalog.UpsertProductsRequest(products=products)
        answer: catalog.UpsertProductsResponse = await self._soak.catalog.UpsertProducts(request, timeout=CALL_S_MAX)
        self._soak.report.calls["stored"] += len(products)
        for product in products:
            self._end(product.product_id, answer.commit, product)
        await self._found(products[-1].product_id, products[-1])

    async def _remove(self, product_id: str) -> None:
        self._begin(product_id)
        request = catalog.DeleteProductRequest(product_id=product_id)
        answer: catalog.DeleteProductResponse = await self._soak.catalog.DeleteProduct(request, timeout=CALL_S_MAX)
        self._soak.report.calls["removed"] += 1
        self._end(product_id, answer.commit, None)
        await self._found(product_id, None)

    def _made(self, product_id: str) -> Product:
        self._changes += 1
        thing = self._chance.choice(THINGS)
        return Product(
            product_id=product_id,
            name=f"{self._chance.choice(('Old', 'New', 'Fine', 'Plain'))} {thing}",
            brand=self._name,
            category_path=["Shop", thing.split()[1]],
            price=float(self._changes),  # of one writer never twice, and rising
        )

    def _begin(self, product_id: str) -> None:
        known = self._known.setdefault(product_id, Known())
        known.turn += 1
        known.changing = True

    def _end(self, product_id: str, commit: int, product: Product | None) -> None:
        known = self._known[product_id]
        known.commit, known.product, known.changing = commit, product, False

    async def _found(self, product_id: str, product: Product | None) -> None:
        """Waits until searches show the change by what the index itself knows; how long that took is noted."""
        began = time.monotonic()
        filters = ProductFilter(product_ids=[product_id])
        if product is not None:
            filters.min_price = filters.max_price = product.price
        request = search.SearchRequest(filters=filters, limit=1, ids_only=True)
        while (await self._soak.find(request)).total != (product is not None):
            if time.monotonic() - began > CALL_S_MAX:
                raise PromiseBroken(f"{product_id} is not found as it is {CALL_S_MAX} s after it was acknowledged")
            await asyncio.sleep(LOOK_S)
        self._soak.report.lags_s.append(time.monotonic() - began)


class Searcher:
    """Searches in every way, and holds each answer against what was acknowledged."""

    def __init__(self, soak: Soak, chance: random.Random) -> None:
        self._soak = soak
        self._chance = chance
        self._replies: dict[tuple[int, bytes], tuple[int, list[str]]] = {}

    async def run(self) -> None:
        """Until the time is over."""
        ways: list[Callable[[str, int], Coroutine[None, None, None]]] = [
            self._browse, self._page, self._like, self._compare, self._recommend,
        ]  # fmt: skip
        while self._soak.goes_on:
            way = self._chance.choice(ways)
            writer = self._chance.choice(list(self._soak.shelf.known))
            try:
                await way(writer, (await self._soak.index()).commit)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:  # of a product that was removed meanwhile
                    raise
            self._soak.report.calls[way.__name__.strip("_")] += 1

    async def _browse(self, writer: str, commit: int) -> None:
        """All of a writer's products, in the order that the index has them in."""
        settled = self._soak.shelf.settled(writer, commit)
        request = search.SearchRequest(
            filters=ProductFilter(brands=[writer]), limit=1000, sort=PRICE_ASCENDING, facets=["category", "in_stock"],
            ids_only=self._chance.random() < 0.5,
        )  # fmt: skip
        answer = await self._soak.find(request)
        shown = {result.product.product_id: result.product for result in answer.results}
        self._none_gone(writer, settled, shown, request.ids_only)
        for product_id, (turn, product) in settled.items():
            if product is not None and product_id not in shown and self._soak.shelf.unchanged(writer, product_id, turn):
                raise PromiseBroken(f"{product_id} of commit <= {commit} is missing in version {answer.index_version}")
        self._agrees(answer, request, shown)
        # Of the same version the same, whether it was answered from memory or not.
        if request.ids_only:
            key = (answer.index_version, request.SerializeToString(deterministic=True))
            seen = (answer.total, [result.product.product_id for result in answer.results])
            if self._replies.setdefault(key, seen) != seen:
                raise PromiseBroken(f"version {answer.index_version} answers {request} in two ways")
            if len(self._replies) > REPLIES_KEPT:
                self._replies.clear()

    def _agrees(self, answer: search.SearchResponse, request: search.SearchRequest, shown: dict[str, Product]) -> None:
        """One answer agrees with itself: results, total and facets are of one version."""
        facets = {facet.name: sum(value.count for value in facet.values) for facet in answer.facets}
        if facets["in_stock"] != answer.total or len(shown) != len(answer.results):
            raise PromiseBroken(f"{answer.total} products, facets {facets}, {len(shown)} of {len(answer.results)} ids")
        if request.ids_only and len(shown) != answer.total:
            raise PromiseBroken(f"{len(shown)} of {answer.total} products are shown")

    async def _page(self, writer: str, commit: int) -> None:
        """Pages of one search, while everything changes."""
        settled = self._soak.shelf.settled(writer, commit)
        request = search.SearchRequest(
            query=self._chance.choice(("", "hat", "a wool thing", "lamp")), limit=40, ids_only=True,
            filters=ProductFilter(brands=[writer]),
        )  # fmt: skip
        seen: list[str] = []
        versions: set[int] = set()
        totals: set[int] = set()
        while True:
            try:
                answer = await self._soak.find(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
                    raise
                await self._may_expire(min(versions))
                return
            versions.add(answer.index_version)
            totals.add(answer.total)
            seen += [result.product.product_id for result in answer.results]
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        if len(versions) != 1 or len(totals) != 1:
            raise PromiseBroken(f"pages of one search are of versions {versions} with totals {totals}")
        if len(seen) != len(set(seen)) or len(seen) != answer.total:
            raise PromiseBroken(f"{len(seen)} results on all pages, {len(set(seen))} products, total {answer.total}")
        for product_id, (turn, product) in settled.items():
            if (product is not None) != (product_id in seen) and self._soak.shelf.unchanged(writer, product_id, turn):
                raise PromiseBroken(f"{product_id} is {'missing' if product else 'there, but removed'} on the pages")

    async def _may_expire(self, version: int) -> None:
        """Pages may end early only when the index has moved on by more versions than are kept for pages."""
        self._soak.report.expired_pages += 1
        newest = (await self._soak.index()).version
        if newest - version < VERSIONS_KEPT:
            raise PromiseBroken(f"pages of version {version} ended when the newest was {newest}")

    async def _like(self, writer: str, commit: int) -> None:
        """What is like a product that is there."""
        settled = self._soak.shelf.settled(writer, commit)
        there = [product_id for product_id, (_, product) in settled.items() if product is not None]
        if there:
            request = search.SearchSimilarRequest(product_id=self._chance.choice(there), limit=200)
            answer: search.SearchSimilarResponse = await self._soak.search.SearchSimilar(request, timeout=CALL_S_MAX)
            self._ranked(answer.results)
            self._none_gone(writer, settled, {each.product.product_id: each.product for each in answer.results}, False)

    async def _compare(self, writer: str, commit: int) -> None:
        """By words and meaning, over everything."""
        settled = self._soak.shelf.settled(writer, commit)
        request = search.SearchRequest(query=self._chance.choice(THINGS), limit=200, facets=["in_stock"])
        answer = await self._soak.find(request)
        shown = {each.product.product_id: each.product for each in answer.results}
        self._ranked(answer.results)
        self._agrees(answer, request, shown)
        self._none_gone(writer, settled, shown, False)

    async def _recommend(self, writer: str, commit: int) -> None:
        """A click, and what it leads to."""
        user = f"user-{self._chance.randint(0, 99)}"
        settled = self._soak.shelf.settled(writer, commit)
        product_id = self._chance.choice([*settled, "unknown"])
        click = Interaction(user_id=user, product_id=product_id, interaction_type=CLICK)
        await self._soak.feedback.SendFeedback(feedback.SendFeedbackRequest(interaction=click), timeout=CALL_S_MAX)
        request = recommendations.RecommendRequest(user_id=user, limit=50)
        answer: recommendations.RecommendResponse = await self._soak.recommendations.Recommend(
            request, timeout=CALL_S_MAX
        )
        shown = {item.product.product_id: item.product for item in answer.items}
        if product_id in shown:
            raise PromiseBroken(f"{user} clicked on {product_id}, and is recommended it")
        self._none_gone(writer, settled, shown, False)

    def _none_gone(
        self, writer: str, settled: dict[str, tuple[int, Product | None]], shown: dict[str, Product], ids_only: bool
    ) -> None:
        """What was removed is not shown; what is shown is as it is now, or newer."""
        for product_id, product in shown.items():
            turn, last = settled.get(product_id, (0, None))
            if not turn:
                continue
            if last is None and self._soak.shelf.unchanged(writer, product_id, turn):
                raise PromiseBroken(f"{product_id} was removed, and is shown")
            if last is not None and not ids_only and product.price < last.price:
                raise PromiseBroken(f"{product_id} costs {last.price} since long, and is shown for {product.price}")

    def _ranked(self, results: Iterable[SearchResult]) -> None:
        scores = [result.score for result in results]
        if scores != sorted(scores, reverse=True):
            raise PromiseBroken("results are not in the order of their scores")


async def soak(folder: Path, seconds: float, clients: int, seed: int) -> Report:
    """Soaks a server of its own over `folder`. Raises PromiseBroken, grpc.RpcError (in an ExceptionGroup)."""
    report = Report(seconds, clients)
    with ServerProcess(folder) as server:
        async with grpc.aio.insecure_channel(server.target, options=[("grpc.service_config", PATIENT)]) as channel:
            first = Product(product_id="first", name="The first product")
            await catalog_stubs.CatalogServiceStub(channel).UpsertProducts(
                catalog.UpsertProductsRequest(products=[first]), timeout=CALL_S_MAX
            )
            await _opened(search_stubs.SearchServiceStub(channel))
            await Soak(server, channel, report, seed).play()
    return report


async def _opened(stub: search_stubs.SearchServiceStub) -> None:
    """Until the index of what was an empty catalogue answers."""
    async with asyncio.timeout(CALL_S_MAX):
        while True:
            try:
                await stub.GetIndex(search.GetIndexRequest(), timeout=CALL_S_MAX)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


def main() -> None:
    """Soaks, and prints what came of it as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long (300)")
    parser.add_argument("--clients", type=int, default=16, help="how many at once (16)")
    parser.add_argument("--seed", type=int, default=1, help="of what clients choose (1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as folder:
        report = asyncio.run(soak(Path(folder), arguments.seconds, arguments.clients, arguments.seed))
    print(report)


if __name__ == "__main__":
    main()
