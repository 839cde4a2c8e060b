"""Recommendations and feedback through a real server: what a user does changes what they are shown next."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from penstock.catalog.v1 import catalog_service_pb2
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.events.v1 import events_service_pb2, events_service_pb2_grpc
from penstock.feedback.v1 import feedback_pb2
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.kpis.v1 import kpis_service_pb2, kpis_service_pb2_grpc
from penstock.pipeline.v1 import pipeline_service_pb2, pipeline_service_pb2_grpc
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.search.v1 import search_pb2
from tests.process import ServerProcess
from tests.search.shop import Shop, connected, products
from tests.search.test_service import refused

COUNT = 80


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module")
def shop(server: ServerProcess) -> Iterator[Shop]:
    with connected(server) as made:
        made.fill(products(COUNT))
        yield made


def recommend(shop: Shop, **fields: Any) -> pb.RecommendResponse:
    return shop.recommendations.Recommend(pb.RecommendRequest(**fields))


def ids(response: pb.RecommendResponse) -> list[str]:
    return [item.product.product_id for item in response.items]


def send(shop: Shop, user: str, product: str, **fields: Any) -> feedback.SendFeedbackResponse:
    fields.setdefault("interaction_type", feedback_pb2.CLICK)
    interaction = feedback_pb2.Interaction(user_id=user, product_id=product, **fields)
    return shop.feedback.SendFeedback(feedback.SendFeedbackRequest(interaction=interaction))


def test_a_click_changes_the_next_feed(shop: Shop) -> None:
    before = recommend(shop, user_id="clicker", limit=5)
    assert before.items
    assert recommend(shop, user_id="clicker", limit=5).cached
    assert send(shop, "clicker", "p0003").status == "stored"
    after = recommend(shop, user_id="clicker", limit=5)
    assert not after.cached
    assert ids(after) != ids(before)
    assert "p0003" not in ids(after)
    assert (after.session_size, after.history_size) == (1, 1)
    assert "Straw Hat" in after.items[0].product.name
    assert after.items[0].reason.product_id == "p0003"
    assert after.weights.long_term + after.weights.session == pytest.approx(1.0)


def test_an_interaction_is_stored_once(shop: Shop) -> None:
    first = send(shop, "once", "p0001", request_id="the-same")
    again = send(shop, "once", "p0001", request_id="the-same")
    other = send(shop, "another", "p0001", request_id="the-same")
    assert (first.status, again.status, other.status) == ("stored", "duplicate", "stored")
    assert (again.commit, again.request_id) == (0, "the-same")
    profile = shop.feedback.GetUserProfile(feedback.GetUserProfileRequest(user_id="once"))
    assert profile.interactions == 1
    assert [affinity.product_id for affinity in profile.session] == ["p0001"]


def test_a_batch_is_stored_in_one_commit(shop: Shop) -> None:
    types = (feedback_pb2.VIEW, feedback_pb2.LIKE, feedback_pb2.ADD_TO_CART, feedback_pb2.PURCHASE, feedback_pb2.VIEW)
    interactions = [
        feedback_pb2.Interaction(
            user_id="batch", product_id=f"p000{place}", interaction_type=kind, request_id=f"r{place % 4}"
        )
        for place, kind in enumerate(types)
    ]
    done = shop.feedback.BatchFeedback(feedback.BatchFeedbackRequest(interactions=interactions))
    assert (done.stored, done.duplicates) == (4, 1)
    profile = shop.feedback.GetUserProfile(feedback.GetUserProfileRequest(user_id="batch", limit=2))
    assert profile.interactions == 4
    assert len(profile.last_interactions) == 2
    weights = [affinity.weight for affinity in profile.long_term]
    assert weights == sorted(weights, reverse=True)
    assert profile.long_term[0].product_id == "p0003"


def test_a_stream_is_answered_request_by_request(shop: Shop) -> None:
    def requests() -> Iterator[feedback.StreamFeedbackRequest]:
        for number in range(3):
            yield feedback.StreamFeedbackRequest(
                interactions=[
                    feedback_pb2.Interaction(
                        user_id="stream", product_id=f"p{number:04}", interaction_type=feedback_pb2.VIEW
                    )
                ]
            )

    assert [answer.stored for answer in shop.feedback.StreamFeedback(requests())] == [1, 1, 1]


def test_the_past_is_long_term_and_not_session(shop: Shop) -> None:
    past = datetime.now(UTC) - timedelta(days=3)
    sent = feedback_pb2.Interaction(user_id="past", product_id="p0006", interaction_type=feedback_pb2.PURCHASE)
    sent.timestamp.FromDatetime(past)
    shop.feedback.SendFeedback(feedback.SendFeedbackRequest(interaction=sent))
    profile = shop.feedback.GetUserProfile(feedback.GetUserProfileRequest(user_id="past"))
    assert profile.long_term[0].weight > 0.9
    assert not any(affinity.weight > 1e-9 for affinity in profile.session)


def test_a_bad_rating_pushes_away(shop: Shop) -> None:
    for product in ("p0006", "p0014", "p0022"):
        send(shop, "hater", product, interaction_type=feedback_pb2.RATING, rating=1)
        send(shop, "hater", "p0001", interaction_type=feedback_pb2.LIKE)
    names = [item.product.name for item in recommend(shop, user_id="hater", limit=5).items]
    assert "Silk Scarf" not in names[0]
    profile = shop.feedback.GetUserProfile(feedback.GetUserProfileRequest(user_id="hater"))
    assert {a.product_id for a in profile.session if a.weight < 0} == {"p0006", "p0014", "p0022"}


def test_each_context_rests_on_what_it_should(shop: Shop) -> None:
    send(shop, "all", "p0004", interaction_type=feedback_pb2.PURCHASE)
    search = recommend(shop, user_id="all", context=recommendations_pb2.SEARCH, query="wool scarf", limit=4)
    assert search.weights.query == pytest.approx(0.7)
    assert "Wool Scarf" in search.items[0].product.name
    similar = recommend(shop, user_id="all", context=recommendations_pb2.SIMILAR, product_id="p0002", limit=4)
    assert similar.weights.product == pytest.approx(0.8)
    assert "p0002" not in ids(similar)
    assert "Hat" in similar.items[0].product.name
    category = recommend(shop, user_id="all", context=recommendations_pb2.CATEGORY, category="Shop/lamp", limit=4)
    assert category.weights.long_term == pytest.approx(1.0)
    assert all("Lamp" in item.product.name for item in category.items)


def test_filters_exclusions_and_stock_hold(shop: Shop) -> None:
    filters = search_pb2.ProductFilter(colours=["red"], max_price=40)
    response = recommend(shop, user_id="filtered", filters=filters, exclude=["p0000", "p0002"], limit=100)
    expected = {p.product_id for p in products(COUNT) if p.colour == "red" and p.price <= 40} - {"p0000", "p0002"}
    assert set(ids(response)) == expected
    sold_out = products(COUNT)[10]
    sold_out.in_stock = False
    shop.fill([sold_out])
    try:
        assert "p0010" not in ids(recommend(shop, user_id="filtered", filters=filters, limit=100))
    finally:
        shop.fill([products(COUNT)[10]])


def test_what_is_deleted_is_not_recommended(shop: Shop) -> None:
    shop.fill([Product(product_id="brief", name="Straw hat for one summer", price=1)])
    send(shop, "summer", "p0003")
    assert "brief" in ids(recommend(shop, user_id="summer", limit=50))
    shop.wait(shop.catalog.DeleteProduct(catalog_service_pb2.DeleteProductRequest(product_id="brief")).commit)
    assert "brief" not in ids(recommend(shop, user_id="summer", limit=50))


def test_many_are_answered_each_on_its_own(shop: Shop) -> None:
    requests = [
        pb.RecommendRequest(user_id="a", limit=2),
        pb.RecommendRequest(user_id="a", context=recommendations_pb2.SEARCH),
    ]
    answers = shop.recommendations.BatchRecommend(pb.BatchRecommendRequest(requests=requests)).responses
    assert [each.WhichOneof("result") for each in answers] == ["response", "error"]


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.RecommendRequest(limit=1_000_000), grpc.StatusCode.INVALID_ARGUMENT, "limit"),
        (pb.RecommendRequest(limit=-1), grpc.StatusCode.INVALID_ARGUMENT, "limit"),
        (pb.RecommendRequest(context=recommendations_pb2.SIMILAR), grpc.StatusCode.INVALID_ARGUMENT, "product_id"),
        (pb.RecommendRequest(query="x"), grpc.StatusCode.INVALID_ARGUMENT, "query"),
        (pb.RecommendRequest(user_id="x" * 257), grpc.StatusCode.INVALID_ARGUMENT, "user_id"),
        (pb.RecommendRequest(context=recommendations_pb2.SIMILAR, product_id="none"), grpc.StatusCode.NOT_FOUND, ""),
    ],
)
def test_what_is_wrong_is_named(shop: Shop, request_: pb.RecommendRequest, code: grpc.StatusCode, field: str) -> None:
    found, _, named = refused(lambda: shop.recommendations.Recommend(request_))
    assert (found, named) == (code, field)


def test_nobody_and_nothing_are_answers(shop: Shop) -> None:
    assert len(recommend(shop).items) == 10
    assert len(recommend(shop, user_id="never seen before").items) == 10
    assert list(recommend(shop, limit=0).items) == []
    nothing = recommend(shop, filters=search_pb2.ProductFilter(brands=["none such"]))
    assert (list(nothing.items), nothing.reason) == ([], "no product in stock passes the filters")


def trained(shop: Shop, server: ServerProcess) -> recommendations_pb2.Model:
    """The model of a training that began now; one that is under way is waited for."""
    deadline = time.monotonic() + 60
    with grpc.insecure_channel(server.target) as channel:
        operations = pipeline_service_pb2_grpc.PipelineServiceStub(channel)
        while True:
            operation = shop.recommendations.TrainModel(pb.TrainModelRequest())
            named = pipeline_service_pb2.GetOperationRequest(id=operation.name.removeprefix("operations/"))
            while not (operation := operations.GetOperation(named)).done:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if operation.HasField("response"):
                response = pb.GetModelResponse()
                operation.response.Unpack(response)
                return response.model


def test_it_learns_from_behaviour(shop: Shop, server: ServerProcess) -> None:
    """Who takes a lamp takes a scarf, though nothing in their texts says so."""
    interactions = [
        feedback_pb2.Interaction(
            user_id=f"pair-{user}",
            product_id=product,
            interaction_type=feedback_pb2.PURCHASE,
            request_id=f"{user}-{place}",
        )
        for user in range(60)
        for place, product in enumerate((f"p{8 * (user % 5):04}", f"p{8 * (user % 5) + 6:04}"))
    ]
    shop.feedback.BatchFeedback(feedback.BatchFeedbackRequest(interactions=interactions))
    assert trained(shop, server).interactions >= 120
    send(shop, "follower", "p0016", interaction_type=feedback_pb2.PURCHASE)
    assert "p0022" in ids(recommend(shop, user_id="follower", limit=3))


def test_experiments_assign_expose_and_are_compared(shop: Shop, server: ServerProcess) -> None:
    variants = [
        recommendations_pb2.Variant(name="control", weight=1),
        recommendations_pb2.Variant(name="bold", weight=1, overrides=recommendations_pb2.Overrides(diversity=1)),
    ]
    experiment = recommendations_pb2.Experiment(name="spread", variants=variants)
    made = shop.recommendations.CreateExperiment(pb.CreateExperimentRequest(experiment=experiment)).experiment
    assert made.HasField("create_time")
    again = shop.recommendations.CreateExperiment(pb.CreateExperimentRequest(experiment=experiment)).experiment
    assert again == made
    other = recommendations_pb2.Experiment(name="spread", variants=[variants[0], variants[0]])
    assert (
        refused(lambda: shop.recommendations.CreateExperiment(pb.CreateExperimentRequest(experiment=other)))[0]
        == grpc.StatusCode.INVALID_ARGUMENT
    )
    assigned: dict[str, str] = {}
    for user in range(30):
        shown = recommend(shop, user_id=f"tested-{user}").experiments
        assert [each.experiment for each in shown] == ["spread"]
        assigned[f"tested-{user}"] = shown[0].variant
        assert recommend(shop, user_id=f"tested-{user}").experiments[0].variant == shown[0].variant
    assert set(assigned.values()) == {"control", "bold"}
    with grpc.insecure_channel(server.target) as channel:
        events = events_service_pb2_grpc.EventServiceStub(channel)
        deadline = time.monotonic() + 20
        while events.CountEvents(events_service_pb2.CountEventsRequest(event_type="exposure")).total < 30:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        buys = [
            events_service_pb2.BatchCollectRequest(events=[{"event_type": "purchase", "user_id": user, "price": 2}])
            for user in assigned
        ]
        for buy in buys:
            events.BatchCollect(buy)
        pipeline_service_pb2_grpc.PipelineServiceStub(channel).RunPipeline(pipeline_service_pb2.RunPipelineRequest())
        answer = kpis_service_pb2_grpc.KpiServiceStub(channel).QueryKpis(
            kpis_service_pb2.QueryKpisRequest(metrics=["purchase_users"], dimensions=["experiment.spread"])
        )
    counts = {row.dimensions["experiment.spread"]: row.values["purchase_users"] for row in answer.rows}
    assert {variant: counts[variant] for variant in ("control", "bold")} == {
        variant: sum(each == variant for each in assigned.values()) for variant in ("control", "bold")
    }
    shop.recommendations.DeleteExperiment(pb.DeleteExperimentRequest(name="spread"))
    assert not recommend(shop, user_id="tested-1").experiments
    assert not shop.recommendations.ListExperiments(pb.ListExperimentsRequest()).experiments


def test_a_user_who_is_forgotten_is_unknown(shop: Shop, server: ServerProcess) -> None:
    for product in ("p0003", "p0011"):
        send(shop, "leaver", product, interaction_type=feedback_pb2.PURCHASE)
    with grpc.insecure_channel(server.target) as channel:
        stub = events_service_pb2_grpc.EventServiceStub(channel)
        event = {"event_type": "purchase", "user_id": "leaver", "price": 5, "product_id": "p0003"}
        stub.BatchCollect(events_service_pb2.BatchCollectRequest(events=[event]))
    known = recommend(shop, user_id="leaver", limit=5)
    done = shop.feedback.ForgetUser(feedback.ForgetUserRequest(user_id="leaver"))
    assert (done.removed["feedback"], done.removed["session"], done.removed["bronze_events"]) == (2, 2, 1)
    assert set(done.remaining.values()) == {0}
    profile = shop.feedback.GetUserProfile(feedback.GetUserProfileRequest(user_id="leaver"))
    assert (profile.interactions, len(profile.session), len(profile.long_term)) == (0, 0, 0)
    assert profile.reason
    after = recommend(shop, user_id="leaver", limit=5)
    assert (after.history_size, after.session_size, after.cached) == (0, 0, False)
    assert ids(after) != ids(known)
