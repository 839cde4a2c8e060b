"""What is asked for most is computed before it is asked for again; what is dropped is computed anew."""

from collections.abc import Iterator

import grpc
import pytest

from penstock import limits
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1.feedback_pb2 import CLICK, Interaction
from penstock.operations.v1 import operations_service_pb2 as operations
from penstock.operations.v1 import operations_service_pb2_grpc as operations_stubs
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1.recommendations_pb2 import FEED
from penstock.search.v1 import search_service_pb2 as search
from tests.process import ServerProcess
from tests.search.shop import Shop, products


class Warm(Shop):
    """A shop, and its caches."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__(channel)
        self.operations = operations_stubs.OperationsServiceStub(channel)

    def search_is_kept(self, query: str) -> bool:
        """Whether the answer came from the cache; it is kept from now on."""
        return bool(self.search.Search(search.SearchRequest(query=query)).cached)

    def feed_is_kept(self, user_id: str) -> bool:
        """The same of a user's feed."""
        request = recommendations.RecommendRequest(user_id=user_id, context=FEED)
        return bool(self.recommendations.Recommend(request).cached)

    def warmed(self) -> int:
        """How many searches and users are worth to be warmed, and are warm now."""
        done = self.operations.WarmCache(operations.WarmCacheRequest())
        return int(done.searches + done.users + done.already_cached)  # the server warms by itself, too

    def drop(self, kind: str, user_id: str = "") -> list[str]:
        """The kinds that were dropped."""
        request = operations.InvalidateCacheRequest(kind=kind, user_id=user_id)
        return list(self.operations.InvalidateCache(request).kinds)

    def click(self, user_id: str, times: int) -> None:
        """So many interactions of a user."""
        self.feedback.BatchFeedback(
            feedback.BatchFeedbackRequest(
                interactions=[
                    Interaction(user_id=user_id, product_id=f"p{number:04}", interaction_type=CLICK)
                    for number in range(times)
                ]
            )
        )


@pytest.fixture
def shop(server: ServerProcess) -> Iterator[Warm]:
    with grpc.insecure_channel(server.target) as channel:
        made = Warm(channel)
        made.fill(products(16))
        yield made


def test_searches_are_worth_it_from_the_fifth_on(shop: Warm) -> None:
    for _ in range(limits.POPULAR_SEARCHES_MIN - 1):
        shop.search_is_kept("wool hat")
    assert shop.warmed() == 0
    assert shop.search_is_kept("wool hat")
    assert shop.drop("search") == ["search"]
    assert shop.warmed() == 1
    assert shop.search_is_kept("wool hat")


def test_users_are_worth_it_from_the_tenth_interaction_on(shop: Warm) -> None:
    before = shop.warmed()
    shop.click("busy", limits.ACTIVE_USER_INTERACTIONS_MIN - 1)
    assert shop.warmed() == before
    shop.click("busy", 1)
    assert shop.warmed() == before + 1
    assert shop.feed_is_kept("busy")


@pytest.mark.parametrize(("kind", "user_id"), [("", ""), ("rec*", ""), ("recommendations", "calm")])
def test_what_is_dropped_is_computed_anew(shop: Warm, kind: str, user_id: str) -> None:
    for user in ("calm", "other"):
        shop.feed_is_kept(user)
        assert shop.feed_is_kept(user)
    shop.search_is_kept("oak chair")
    assert shop.search_is_kept("oak chair")
    kinds = shop.drop(kind, user_id)
    assert kinds == (["recommendations", "search"] if not kind else ["recommendations"])
    assert not shop.feed_is_kept("calm")
    assert shop.feed_is_kept("other") is bool(user_id)
    assert shop.search_is_kept("oak chair") is bool(kind)


def test_a_kind_that_is_none_is_refused(shop: Warm) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        shop.drop("kpis")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
