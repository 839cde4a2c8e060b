"""Products, for hostile requests to be about, and what must hold after each of them."""

from collections.abc import Iterator

import grpc
import pytest

from penstock.feedback.v1 import feedback_pb2, feedback_service_pb2
from penstock.recommendations.v1 import recommendations_service_pb2
from penstock.search.v1 import search_service_pb2
from tests.search.shop import Shop, products

COUNT = 40


@pytest.fixture(scope="package")
def shop(channel: grpc.Channel) -> Shop:
    """The package's server, with an index that is there: one that is being read is nobody's fault."""
    stocked = Shop(channel)
    stocked.fill(products(COUNT))
    return stocked


@pytest.fixture(autouse=True)
def still_finds(shop: Shop, unharmed: None) -> Iterator[None]:
    """After every test products are found, liked and recommended."""
    yield
    click = feedback_pb2.Interaction(user_id="honest", product_id="p0002", interaction_type=feedback_pb2.CLICK)
    shop.feedback.SendFeedback(feedback_service_pb2.SendFeedbackRequest(interaction=click))
    found = shop.search.Search(search_service_pb2.SearchRequest(query="straw hat", limit=1))
    assert "Straw Hat" in found.results[0].product.name
    liked = shop.recommendations.Recommend(recommendations_service_pb2.RecommendRequest(user_id="honest"))
    assert len(liked.items) == 10
