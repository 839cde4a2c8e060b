"""Writers of products and of feedback: what they were told is stored must be there, and nothing that they never sent.

A writer waits for each answer before it goes on, so it knows all but what was on its way when the server died: of that,
a beginning may be stored. `settle` finds out which, from what is there.
"""

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.catalog.v1 import catalog_service_pb2_grpc as catalog_stubs
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1 import feedback_service_pb2_grpc as feedback_stubs
from penstock.feedback.v1.feedback_pb2 import ADD_TO_CART, CLICK, LIKE, VIEW, Interaction
from tests.faults.journal import Journal
from tests.search.shop import THINGS

CALL_S_MAX = 60.0
PRODUCTS_OF_A_WRITER = 40
USERS_OF_A_WRITER = 6
STREAMED = 3  # requests of one stream
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
GRPC_AIO_ITSELF = "Internal error from Core"  # what it makes of a write that finds the call ended

T = TypeVar("T")


def is_gone(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server went away in mid-call."""
    return error.code() in GONE or error.details() == GRPC_AIO_ITSELF


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """Something that is stored, in a commit of `low` to `high`; these are equal where the server said which."""

    what: T
    low: int
    high: int


@dataclass(slots=True)
class Told(Generic[T]):
    """What a writer knows: what was stored, in order, and what nobody answered."""

    stored: list[Stored[T]] = field(default_factory=list)
    unsure: list[T] = field(default_factory=list)

    def acknowledged(self, what: T, commit: int) -> None:
        """The server said so."""
        self.stored.append(Stored(what, commit, commit))

    def settled(self, count: int, version: int) -> None:
        """The first `count` of what nobody answered are stored, as was seen in `version`."""
        low = self.stored[-1].high + 1 if self.stored else 1
        self.stored += [Stored(what, low, version) for what in self.unsure[:count]]
        self.unsure = []


Shelf = dict[str, Product]  # by id
Change = dict[str, Product | None]  # by id; None: removed


def changed(shelf: Shelf, changes: Iterable[Change]) -> Shelf:
    """The shelf after changes."""
    made: dict[str, Product | None] = {**shelf}
    for change in changes:
        made |= change
    return {product_id: product for product_id, product in made.items() if product is not None}


class ProductWriter:
    """Stores and removes products of its own."""

    def __init__(self, name: str, place: int, seed: int, journal: Journal) -> None:
        """`place` is its number among the writers."""
        self.name = name
        self.told: Told[Change] = Told()
        self.shelf: Shelf = {}  # for certain
        self._chance = random.Random(f"{seed}/{name}")
        self._journal = journal
        self._place = place
        self._changes = 0

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Until the server is gone."""
        stub = catalog_stubs.CatalogServiceStub(channel)
        while not self.told.unsure:
            kind = self._chance.random()
            if kind < 0.2 and self.shelf:
                await self._remove(stub, self._chance.choice(sorted(self.shelf)))
            elif kind < 0.35:
                await self._stream(stub, [self._made(self._chance.randint(1, 4)) for _ in range(STREAMED)])
            else:
                await self._store(stub, self._made(self._chance.randint(1, 8)))

    def settle(self, there: Shelf, version: int) -> str:
        """Compares what is there of this writer with what it knows; what is wrong, or nothing."""
        for count in range(len(self.told.unsure) + 1):
            if changed(self.shelf, self.told.unsure[:count]) == there:
                self._journal.note(self.name, "settled", unsure=len(self.told.unsure), stored=count, version=version)
                self.shelf = there
                self.told.settled(count, version)
                return ""
        return f"{self.name}: {_difference(self.shelf, there)}; unanswered were {self.told.unsure}"

    def as_of(self, version: int) -> list[Shelf]:
        """What it had in a version; more than one where it does not know in which commit something came."""
        sure = changed({}, [each.what for each in self.told.stored if each.high <= version])
        maybe = [each.what for each in self.told.stored if each.low <= version < each.high]
        return [changed(sure, maybe[:count]) for count in range(len(maybe) + 1)]

    def _made(self, count: int) -> list[Product]:
        numbers = self._chance.sample(range(PRODUCTS_OF_A_WRITER), count)
        return [self._product(f"{self.name}-{number:02}") for number in numbers]

    def _product(self, product_id: str) -> Product:
        self._changes += 1
        thing = self._chance.choice(THINGS)
        return Product(
            product_id=product_id,
            name=thing,  # one of a few, so that texts need not be encoded all the time
            brand=self.name,
            category_path=["Shop", thing.split()[1]],
            price=self._place * 1_000_000 + self._changes,  # no two changes have the same
            currency="EUR",
            in_stock=self._chance.random() < 0.9,
            is_active=self._chance.random() < 0.9,
            sku=f"{self.name}x{self._changes}",
            attributes={"change": f"{self.name}/{self._changes}"},
        )

    async def _store(self, stub: catalog_stubs.CatalogServiceStub, products: Sequence[Product]) -> None:
        change: Change = {product.product_id: product for product in products}
        self.told.unsure = [change]
        try:
            answer: catalog.UpsertProductsResponse = await stub.UpsertProducts(
                catalog.UpsertProductsRequest(products=products), timeout=CALL_S_MAX
            )
        except grpc.aio.AioRpcError as error:
            self._broke(error)
            return
        self._stored(change, answer.commit)

    async def _stream(self, stub: catalog_stubs.CatalogServiceStub, requests: Sequence[Sequence[Product]]) -> None:
        self.told.unsure = [{product.product_id: product for product in products} for products in requests]

        async def sending() -> AsyncIterator[catalog.StreamProductsRequest]:
            for products in requests:
                yield catalog.StreamProductsRequest(products=products)

        try:
            async for answer in stub.StreamProducts(sending(), timeout=CALL_S_MAX):
                self._stored(self.told.unsure[0], answer.commit)
        except grpc.aio.AioRpcError as error:
            self._broke(error)

    async def _remove(self, stub: catalog_stubs.CatalogServiceStub, product_id: str) -> None:
        change: Change = {product_id: None}
        self.told.unsure = [change]
        try:
            answer: catalog.DeleteProductResponse = await stub.DeleteProduct(
                catalog.DeleteProductRequest(product_id=product_id), timeout=CALL_S_MAX
            )
        except grpc.aio.AioRpcError as error:
            self._broke(error)
            return
        self._stored(change, answer.commit)

    def _stored(self, change: Change, commit: int) -> None:
        if not commit:
            raise self._journal.broken(self.name, f"{list(change)} were stored in no commit, but they had changed")
        self._journal.note(self.name, "stored", commit=commit, products=list(change))
        self.told.unsure.remove(change)
        self.told.acknowledged(change, commit)
        self.shelf = changed(self.shelf, [change])

    def _broke(self, error: grpc.aio.AioRpcError) -> None:
        if not is_gone(error):
            raise self._journal.broken(self.name, f"{error.code().name} {error.details()}")
        self._journal.note(self.name, "broke", code=error.code().name, unsure=len(self.told.unsure))


def _difference(expected: Shelf, there: Shelf) -> str:
    missing, more = sorted(expected.keys() - there.keys()), sorted(there.keys() - expected.keys())
    other = [key for key in sorted(expected.keys() & there.keys()) if expected[key] != there[key]]
    return f"missing {missing}, more {more}, other {[(key, expected[key].price, there[key].price) for key in other]}"


Batch = tuple[Interaction, ...]


class FeedbackWriter:
    """Sends what users of its own do."""

    def __init__(self, name: str, seed: int, journal: Journal) -> None:
        self.name = name
        self.told: Told[Batch] = Told()
        self.users = [f"{name}-{number}" for number in range(USERS_OF_A_WRITER)]
        self._chance = random.Random(f"{seed}/{name}")
        self._journal = journal
        self._sent = 0

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Until the server is gone."""
        stub = feedback_stubs.FeedbackServiceStub(channel)
        while not self.told.unsure:
            kind = self._chance.random()
            if kind < 0.1 and self.told.stored:
                await self._again(stub, self._chance.choice(self.told.stored).what)
            elif kind < 0.3:
                await self._stream(stub, [self._made(self._chance.randint(1, 4)) for _ in range(STREAMED)])
            else:
                await self._send(stub, self._made(self._chance.choice((1, 1, 5))))

    def interactions(self, batches: Iterable[Batch]) -> dict[str, list[Interaction]]:
        """By user, in the order in which they were sent."""
        found: dict[str, list[Interaction]] = {user: [] for user in self.users}
        for batch in batches:
            for each in batch:
                found[each.user_id].append(each)
        return found

    def settle(self, there: dict[str, set[str]], version: int) -> str:
        """Compares the request ids of each user with what it knows; what is wrong, or nothing."""
        sure = [each.what for each in self.told.stored]
        for count in range(len(self.told.unsure) + 1):
            expected = self.interactions([*sure, *self.told.unsure[:count]])
            if {user: {each.request_id for each in rows} for user, rows in expected.items()} == there:
                self._journal.note(self.name, "settled", unsure=len(self.told.unsure), stored=count, version=version)
                self.told.settled(count, version)
                return ""
        expected = self.interactions(sure)
        wrong = {user: sorted({each.request_id for each in rows} ^ there[user]) for user, rows in expected.items()}
        return f"{self.name}: interactions missing or more by user: {wrong}; unanswered were {self.told.unsure}"

    def _made(self, count: int) -> Batch:
        return tuple(self._interaction() for _ in range(count))

    def _interaction(self) -> Interaction:
        self._sent += 1
        return Interaction(
            user_id=self._chance.choice(self.users),
            product_id=f"product-{self._chance.randint(0, 9)}",
            interaction_type=self._chance.choice((VIEW, CLICK, LIKE, ADD_TO_CART)),
            request_id=f"r{self._sent}",
        )

    async def _send(self, stub: feedback_stubs.FeedbackServiceStub, batch: Batch) -> None:
        self.told.unsure = [batch]
        try:
            _, commit = await self._sent_off(stub, batch)
        except grpc.aio.AioRpcError as error:
            self._broke(error)
            return
        self._stored(batch, commit)

    async def _again(self, stub: feedback_stubs.FeedbackServiceStub, batch: Batch) -> None:
        """What is stored is sent again: nothing comes of it."""
        try:
            stored, commit = await self._sent_off(stub, batch)
        except grpc.aio.AioRpcError as error:
            self._broke(error)
            self.told.unsure = [()]  # nothing that could be stored, but the server is gone
            return
        requests = [each.request_id for each in batch]
        if stored:
            raise self._journal.broken(self.name, f"{requests} were stored once more")
        if commit:
            raise self._journal.broken(self.name, f"{requests} were stored before, and are told to be in {commit}")

    async def _sent_off(self, stub: feedback_stubs.FeedbackServiceStub, batch: Batch) -> tuple[int, int]:
        """How many were stored, and in which commit."""
        if len(batch) == 1:
            one: feedback.SendFeedbackResponse = await stub.SendFeedback(
                feedback.SendFeedbackRequest(interaction=batch[0]), timeout=CALL_S_MAX
            )
            return int(one.status == "stored"), one.commit
        many: feedback.BatchFeedbackResponse = await stub.BatchFeedback(
            feedback.BatchFeedbackRequest(interactions=batch), timeout=CALL_S_MAX
        )
        return many.stored, many.commit

    async def _stream(self, stub: feedback_stubs.FeedbackServiceStub, batches: Sequence[Batch]) -> None:
        self.told.unsure = list(batches)

        async def sending() -> AsyncIterator[feedback.StreamFeedbackRequest]:
            for batch in batches:
                yield feedback.StreamFeedbackRequest(interactions=batch)

        try:
            async for answer in stub.StreamFeedback(sending(), timeout=CALL_S_MAX):
                self._stored(self.told.unsure[0], answer.commit)
        except grpc.aio.AioRpcError as error:
            self._broke(error)

    def _stored(self, batch: Batch, commit: int) -> None:
        if not commit:
            raise self._journal.broken(
                self.name, f"{[each.request_id for each in batch]} are new, and no commit has them"
            )
        self._journal.note(self.name, "stored", commit=commit, requests=[each.request_id for each in batch])
        self.told.unsure.remove(batch)
        self.told.acknowledged(batch, commit)

    def _broke(self, error: grpc.aio.AioRpcError) -> None:
        if not is_gone(error):
            raise self._journal.broken(self.name, f"{error.code().name} {error.details()}")
        self._journal.note(self.name, "broke", code=error.code().name, unsure=len(self.told.unsure))
