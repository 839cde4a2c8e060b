"""A server with products, for tests of what finds and recommends them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from penstock.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2_grpc
from penstock.recommendations.v1 import recommendations_service_pb2_grpc
from penstock.search.v1 import search_service_pb2, search_service_pb2_grpc
from tests.process import ServerProcess

WAIT_S_MAX = 60.0
THINGS = ("desk lamp", "floor lamp", "wool hat", "straw hat", "oak chair", "garden chair", "silk scarf", "wool scarf")


def products(count: int) -> list[Product]:
    """So many, of eight kinds, three brands and two colours, that cost 0, 1, 2, …"""
    return [
        Product(
            product_id=f"p{number:04}",
            name=f"{THINGS[number % 8].title()} {number}",
            brand=f"brand-{number % 3}",
            colour=("red", "blue")[number % 2],
            category_path=["Shop", THINGS[number % 8].split()[1]],
            price=float(number),
            attributes={"batch": str(number % 5)},
        )
        for number in range(count)
    ]


class Shop:
    """Stubs of a running server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(channel)
        self.recommendations = recommendations_service_pb2_grpc.RecommendationServiceStub(channel)
        self.feedback = feedback_service_pb2_grpc.FeedbackServiceStub(channel)

    def fill(self, some: list[Product]) -> int:
        """Stores products, and waits until they are found; the commit."""
        commit: int = self.catalog.UpsertProducts(catalog_service_pb2.UpsertProductsRequest(products=some)).commit
        self.wait(commit)
        return commit

    def wait(self, commit: int, *, encoded: bool = True) -> None:
        """Until the index has a commit, and with `encoded` every vector."""
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            index = self.search.GetIndex(search_service_pb2.GetIndexRequest()).index
            if index.commit >= commit and not (encoded and index.pending_vectors):
                return
            assert time.monotonic() < deadline, index
            time.sleep(0.02)


@contextmanager
def connected(server: ServerProcess) -> Iterator[Shop]:
    """A shop at a server."""
    with grpc.insecure_channel(server.target) as channel:
        yield Shop(channel)
