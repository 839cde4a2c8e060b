"""Holds a running server, and the data folder afterwards, against what the writers know."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.catalog.v1 import catalog_service_pb2_grpc as catalog_stubs
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1 import feedback_service_pb2_grpc as feedback_stubs
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as recommendations_stubs
from penstock.search.v1 import search_service_pb2 as search
from penstock.search.v1 import search_service_pb2_grpc as search_stubs
from penstock.search.v1.search_pb2 import LEXICAL, PRICE_ASCENDING, Index, ProductFilter, Values, Vector
from penstock.settings import Settings
from penstock.storage.engine import open_engine
from tests.faults.shop.writers import CALL_S_MAX, FeedbackWriter, ProductWriter, Shelf

PAGE = 30
SAMPLE = 12  # products that are looked for one by one
VERSIONS = 4  # that are looked back at
INTERACTIONS_SHOWN_MAX = 200  # of a user
SESSION_MAX = 100  # interactions of a session
READY_S_MAX = 60.0
WAIT_S = 0.05
CLOSE = 1e-4  # scores of one vector may differ so much between two indexes

Scores = dict[str, float]  # by product


class Checker:
    """Asks a running server."""

    def __init__(self, channel: grpc.aio.Channel, chance: random.Random) -> None:
        """Nobody writes meanwhile."""
        self._version = 0  # that the catalogue was last read in
        self._catalog = catalog_stubs.CatalogServiceStub(channel)
        self._search = search_stubs.SearchServiceStub(channel)
        self._feedback = feedback_stubs.FeedbackServiceStub(channel)
        self._recommendations = recommendations_stubs.RecommendationServiceStub(channel)
        self._chance = chance

    # --- the catalogue ------------------------------------------------------------------------------------------------

    async def catalogue(self, writers: Sequence[ProductWriter]) -> list[str]:
        """What is wrong with the products as they are, and as they were; settles what the writers were unsure of."""
        listed, self._version = await self._listed(0)
        wrong = [writer.settle(_of(listed, writer), self._version) for writer in writers]
        strangers = listed.keys() - {product_id for writer in writers for product_id in _of(listed, writer)}
        wrong.append(f"products that nobody sent: {sorted(strangers)}" if strangers else "")
        wrong = list(filter(None, wrong))
        if wrong:
            return wrong
        commits = sorted({each.low for writer in writers for each in writer.told.stored if each.low == each.high})
        for commit in self._chance.sample(commits, min(VERSIONS, len(commits))):
            then, _ = await self._listed(commit)
            for writer in writers:
                had, could_have = _of(then, writer), writer.as_of(commit)
                if had not in could_have:
                    wrong.append(f"version {commit}: {writer.name} had {_names(had)}, not {_names(could_have[0])}")
        return wrong

    async def _listed(self, version: int) -> tuple[Shelf, int]:
        """Every product, without what the server sets; in which version."""
        request = catalog.ListProductsRequest(page_size=PAGE, include_inactive=True, as_of_version=version)
        found: Shelf = {}
        while True:
            page: catalog.ListProductsResponse = await self._catalog.ListProducts(request, timeout=CALL_S_MAX)
            found |= {product.product_id: _bare(product) for product in page.products}
            if not page.next_page_token:
                return found, page.version
            request.page_token = page.next_page_token

    # --- the index ----------------------------------------------------------------------------------------------------

    async def opened(self) -> bool:
        """Whether the index answers. Raises grpc.RpcError while it is being read."""
        await self._index()
        return True

    async def snapshot_problem(self) -> str:
        """Why the saved index was not used; empty when it was."""
        return (await self._index()).snapshot_problem

    async def _index(self) -> Index:
        answer: search.GetIndexResponse = await self._search.GetIndex(search.GetIndexRequest(), timeout=CALL_S_MAX)
        return answer.index

    async def index(self, writers: Sequence[ProductWriter]) -> list[str]:
        """What is wrong with what is found, by what the index itself knows of products."""
        shelf = {key: product for writer in writers for key, product in writer.shelf.items()}
        active = {key: product for key, product in shelf.items() if product.is_active}
        wrong = await self._browsed(active)
        sample = self._chance.sample(sorted(active), min(SAMPLE, len(active)))
        for product in (active[key] for key in sample):
            first = (await self._find(query=product.sku, mode=LEXICAL, explain=True, limit=1)).results
            if [(each.product.product_id, each.explanation.exact) for each in first] != [(product.product_id, True)]:
                wrong.append(f"search: {product.sku} does not find {product.product_id}, but {first}")
            told = ProductFilter(attributes={"change": Values(values=[product.attributes["change"]])})
            found = [each.product.product_id for each in (await self._find(filters=told)).results]
            if found != [product.product_id]:
                wrong.append(f"search: the attribute of {product.product_id} finds {found}")
        for old in self._replaced(writers, shelf):
            results = (await self._find(query=old.sku, mode=LEXICAL, explain=True, limit=3)).results
            if any(each.explanation.exact for each in results):
                wrong.append(f"search: {old.sku}, which no product has any more, still finds {results[0]}")
        return wrong

    async def _browsed(self, active: Shelf) -> list[str]:
        """All pages, by price as the index has it."""
        wrong: list[str] = []
        expected = sorted(active, key=lambda key: active[key].price)
        brands = Counter(product.brand for product in active.values())
        found: list[str] = []
        versions: set[int] = set()
        token = ""
        while True:
            page = await self._find(sort=PRICE_ASCENDING, limit=PAGE, page_token=token, facets=["brand"])
            versions.add(page.index_version)
            found += [each.product.product_id for each in page.results]
            wrong += [
                f"search: {each.product.product_id} is shown as it is not"
                for each in page.results
                if _bare(each.product) != active.get(each.product.product_id)
            ]
            counted = {value.value: value.count for value in page.facets[0].values}
            if (page.total, counted) != (len(active), dict(brands)):
                wrong.append(f"search: total {page.total}, brands {counted}; there are {len(active)}, {dict(brands)}")
            token = page.next_page_token
            if not token:
                break
        if found != expected:
            missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
            wrong.append(f"search: products by price differ: missing {missing}, more {more}, else in another order")
        if len(versions) != 1:
            wrong.append(f"search: pages are of versions {versions}")
        return wrong

    def _replaced(self, writers: Sequence[ProductWriter], shelf: Shelf) -> list[Product]:
        """Some states of products that are theirs no more."""
        now = {product.sku for product in shelf.values()}
        changes = [each.what for writer in writers for each in writer.told.stored]
        old = [product for change in changes for product in change.values() if product and product.sku not in now]
        return self._chance.sample(old, min(SAMPLE, len(old)))

    async def vectors(self, writers: Sequence[ProductWriter]) -> tuple[list[Scores], list[str]]:
        """How near all products are to some vectors, once every product has its own; and what is wrong with that."""
        await until(self._encoded)
        active = {key: each for writer in writers for key, each in writer.shelf.items() if each.is_active}
        chance = random.Random("vectors")
        dimensions = (await self._index()).dimensions
        sent = [Vector(values=[chance.gauss(0, 1) for _ in range(dimensions)]) for _ in range(3)]
        answer: search.SearchVectorsResponse = await self._search.SearchVectors(
            search.SearchVectorsRequest(vectors=sent, limit=1000, ids_only=True), timeout=CALL_S_MAX
        )
        scores = [{each.product.product_id: each.score for each in one.results} for one in answer.neighbours]
        wrong = [
            f"vectors: missing {sorted(active.keys() - one.keys())}, more {sorted(one.keys() - active.keys())}"
            for one in scores
            if one.keys() != active.keys()
        ]
        # What reads alike lies in one place: a vector that is of older texts would not.
        for one in scores:
            alike: dict[tuple[str, str], list[float]] = defaultdict(list)
            for key, score in one.items():
                if key in active:
                    alike[active[key].brand, active[key].name].append(score)
            wrong += [
                f"vectors: products that read {text} score {min(found)} to {max(found)}"
                for text, found in alike.items()
                if max(found) - min(found) > CLOSE
            ]
        return scores, wrong

    async def _encoded(self) -> bool:
        return not (await self._index()).pending_vectors

    async def _find(self, **fields: Any) -> search.SearchResponse:
        answer: search.SearchResponse = await self._search.Search(search.SearchRequest(**fields), timeout=CALL_S_MAX)
        return answer

    # --- feedback -----------------------------------------------------------------------------------------------------

    async def users(self, writers: Sequence[FeedbackWriter]) -> list[str]:
        """What is wrong with what users did; settles what the writers were unsure of. Read the catalogue first."""
        wrong: list[str] = []
        for writer in writers:
            profiles = {user: await self._profile(user) for user in writer.users}
            shown = {
                user: {each.request_id for each in profile.last_interactions} for user, profile in profiles.items()
            }
            problem = writer.settle(shown, self._version)
            if problem:
                wrong.append(problem)
                continue
            sent = writer.interactions([each.what for each in writer.told.stored])
            for user, profile in profiles.items():
                if profile.interactions != len(sent[user]):
                    wrong.append(f"{user} has {profile.interactions} interactions, not {len(sent[user])}")
                touched = {each.product_id for each in sent[user]}
                now = {each.product_id for each in profile.session}
                if now != touched and (now - touched or len(sent[user]) <= SESSION_MAX):
                    wrong.append(f"the session of {user} has {sorted(now)}, not {sorted(touched)}")
        return wrong

    async def _profile(self, user: str) -> feedback.GetUserProfileResponse:
        answer: feedback.GetUserProfileResponse = await self._feedback.GetUserProfile(
            feedback.GetUserProfileRequest(user_id=user, limit=INTERACTIONS_SHOWN_MAX), timeout=CALL_S_MAX
        )
        return answer

    async def model(self, version: int) -> list[str]:
        """A model that was shown is taken up again, and recommends."""

        async def there() -> bool:
            answer: recommendations.GetModelResponse = await self._recommendations.GetModel(
                recommendations.GetModelRequest(), timeout=CALL_S_MAX
            )
            return answer.model.version >= version

        try:
            await until(there)
        except TimeoutError:
            return [f"model: version {version} was shown, and is not taken up again"]
        await self._recommendations.Recommend(recommendations.RecommendRequest(user_id="users-0-0"), timeout=CALL_S_MAX)
        return []


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits; what is only being read is waited for, too. Raises TimeoutError after READY_S_MAX."""
    async with asyncio.timeout(READY_S_MAX):
        while True:
            try:
                if await holds():
                    return
            except grpc.aio.AioRpcError as error:
                if error.details() != "the index is being read":
                    raise
            await asyncio.sleep(WAIT_S)


def differ(one: Iterable[Scores], other: Iterable[Scores]) -> list[str]:
    """Where an index that came from disk compares vectors otherwise than one that was made from the catalogue."""
    return [
        f"vectors: from disk {before.get(key)}, made anew {after.get(key)}: {key}"
        for before, after in zip(one, other, strict=True)
        for key in before.keys() | after.keys()
        if abs(before.get(key, 9) - after.get(key, -9)) > CLOSE
    ]


# --- the data folder --------------------------------------------------------------------------------------------------

_FEEDBACK = "SELECT user_id, request_id, product_id, count() AS times, max(commit) AS commit FROM feedback GROUP BY ALL"
_NEVER_LOGGED = """
SELECT 'products' AS table, commit FROM products WHERE commit NOT IN (SELECT commit FROM commits)
UNION ALL
SELECT 'feedback', commit FROM feedback WHERE commit NOT IN (SELECT commit FROM commits)
"""
_NEWEST = """
SELECT product_id, commit
FROM (SELECT * FROM products ORDER BY product_id, commit DESC LIMIT 1 BY product_id)
WHERE NOT deleted
"""


async def on_disk(data_dir: Path, products: Sequence[ProductWriter], users: Sequence[FeedbackWriter]) -> list[str]:
    """What is wrong with the tables, read with statements of the test's own; no server has the folder open."""
    engine = open_engine(Settings(data_dir=data_dir, fsync=False))
    try:
        rows = await engine.rows(_FEEDBACK)
        never_logged = await engine.rows(_NEVER_LOGGED)
        newest = {row["product_id"]: int(row["commit"]) for row in await engine.rows(_NEWEST)}
    finally:
        await engine.close()
    wrong = [f"rows of commit {row['commit']} of {row['table']}, which was never logged" for row in never_logged]
    found = {(row["user_id"], row["request_id"]): row for row in rows}
    wrong += [f"{row['user_id']} {row['request_id']} is there {row['times']} times" for row in rows if row["times"] > 1]
    if len(found) < len(rows):
        wrong.append("one request is there with two products")
    expected = {
        (each.user_id, each.request_id): (each.product_id, stored.low, stored.high)
        for writer in users
        for stored in writer.told.stored
        for each in stored.what
    }
    wrong += [f"feedback {key} was never sent, or never stored" for key in found.keys() - expected.keys()]
    wrong += [f"feedback {key} was acknowledged, and is missing" for key in expected.keys() - found.keys()]
    for key in found.keys() & expected.keys():
        product_id, low, high = expected[key]
        if found[key]["product_id"] != product_id or not low <= found[key]["commit"] <= high:
            wrong.append(f"feedback {key} is {found[key]}, not {product_id} of commit {low} to {high}")
    for shelf in products:
        for product_id in shelf.shelf:
            last = [each for each in shelf.told.stored if product_id in each.what][-1]
            if not last.low <= newest.get(product_id, -1) <= last.high:
                wrong.append(f"{product_id} is of commit {newest.get(product_id)}, not of {last.low} to {last.high}")
    return wrong


def _of(shelf: Shelf, writer: ProductWriter) -> Shelf:
    return {key: product for key, product in shelf.items() if key.startswith(f"{writer.name}-")}


def _names(shelf: Shelf) -> list[str]:
    return [f"{key} at {product.price:.0f}" for key, product in sorted(shelf.items())]


def _bare(product: Product) -> Product:
    """Without what the server sets."""
    made = Product()
    made.CopyFrom(product)
    made.ClearField("create_time")
    made.ClearField("update_time")
    return made
