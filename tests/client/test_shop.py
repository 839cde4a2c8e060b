"""What the faces about products send, and what they make of answers, by a model of the server."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

import penstock
from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.pipeline.v1 import pipeline_service_pb2 as pipeline
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as search
from penstock_client import Filters, LimitReached, PageTokenExpired, interaction, product
from tests.client.model_server import status
from tests.client.shop_model import ShopModel, finished

AWAY = status(code_pb2.UNAVAILABLE, "INDEX_LOADING", 0.01)


@pytest.fixture
async def model() -> AsyncIterator[ShopModel]:
    """A model server."""
    async with ShopModel() as running:
        yield running


@pytest.fixture
async def client(model: ShopModel) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(model.target, timeout_s=5, retry_total_s=5) as opened:
        yield opened


def page(*names: str, token: str = "") -> search.SearchResponse:
    """A page of results."""
    return search.SearchResponse(
        results=[search_pb2.SearchResult(product=Product(product_id=name)) for name in names],
        next_page_token=token,
        total=3,
    )


class TestSearch:
    async def test_what_is_asked_for_goes_out(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("Search", AWAY, page("a"))
        answer = await client.search.search(
            "lamp", filters={"price": (10, 50), "brand": "x"}, limit=0, sort="price_ascending", facets=["brand"],
            mode="vector", explain=True, offset=5, ids_only=True,
        )  # fmt: skip
        assert answer == page("a")
        wanted = search.SearchRequest(
            query="lamp", filters=search_pb2.ProductFilter(min_price=10, max_price=50, brands=["x"]), limit=0,
            sort=search_pb2.PRICE_ASCENDING, facets=["brand"], mode=search_pb2.VECTOR, explain=True, offset=5,
            ids_only=True,
        )  # fmt: skip
        assert model.requests == [wanted, wanted]
        assert wanted.HasField("limit")

    async def test_what_is_not_asked_for_is_left_to_the_server(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("Search", page())
        await client.search.search()
        assert model.requests == [search.SearchRequest()]

    async def test_results_come_from_all_pages(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("Search", page("a", "b", token="t"), AWAY, page("c"))
        found = [each.product.product_id async for each in client.search.results("lamp", page_size=2)]
        assert found == ["a", "b", "c"]
        assert [each.page_token for each in model.requests] == ["", "t", "t"]
        model.answer("Search", page("a", token="t"), status(code_pb2.OUT_OF_RANGE, "PAGE_TOKEN_EXPIRED"))
        pages = client.search.pages("lamp")
        assert (await anext(pages)).total == 3
        with pytest.raises(PageTokenExpired):
            await anext(pages)

    async def test_each_search_of_a_batch_has_its_own_answer(self, client: penstock.Client, model: ShopModel) -> None:
        refused = search.BatchSearchResult(error=status(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD"))
        model.answer(
            "BatchSearch", search.BatchSearchResponse(responses=[search.BatchSearchResult(response=page("a")), refused])
        )
        found, failed = await client.search.batch(["lamp", {"query": "sofa", "limit": 3, "filters": {"size": "M"}}])
        assert found == page("a")
        assert isinstance(failed, penstock.InvalidRequest)
        assert model.requests[0].requests[1] == search.SearchRequest(
            query="sofa", limit=3, filters=search_pb2.ProductFilter(sizes=["M"])
        )
        with pytest.raises(TypeError, match="lmt"):
            await client.search.batch([{"lmt": 3}])  # type: ignore[list-item]

    async def test_vectors_and_what_is_like_one(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("SearchVectors", search.SearchVectorsResponse(index_version=7))
        vectors = np.arange(6, dtype=np.float64).reshape(2, 3)
        answer = await client.search.vectors(vectors, limit=5, filters=Filters(in_stock=True))
        assert answer.index_version == 7
        assert [each.packed for each in model.requests[0].vectors] == [row.astype("<f4").tobytes() for row in vectors]
        assert (model.requests[0].limit, model.requests[0].filters.in_stock) == (5, True)
        model.answer("SearchSimilar", status(code_pb2.FAILED_PRECONDITION, "VECTOR_PENDING"))
        with pytest.raises(penstock.Conflict, match="VECTOR_PENDING"):
            await client.search.similar("p1", filters={"exclude": "p2"})
        assert model.requests[1].filters.exclude_product_ids == ["p2"]

    async def test_a_rebuild_is_waited_for(self, client: penstock.Client, model: ShopModel) -> None:
        """Begun once, however often the call is made."""
        index = search_pb2.Index(kind="hnsw", size=5)
        model.answer("RebuildIndex", AWAY, operations_pb2.Operation(name="operations/o1"))
        model.answer("GetOperation", operations_pb2.Operation(name="operations/o1"))
        model.answer("GetOperation", finished(search.GetIndexResponse(index=index)))
        operation = await client.search.rebuild()
        assert (operation.id, operation.done) == ("o1", False)
        assert await operation.wait(10) == index
        first, second, *_ = model.requests
        assert first.request_id == second.request_id != ""
        model.answer("GetIndex", search.GetIndexResponse(index=index))
        assert await client.search.index() == index
        model.answer("RebuildIndex", status(code_pb2.FAILED_PRECONDITION, "REBUILD_IN_PROGRESS"))
        with pytest.raises(penstock.RunInProgress):
            await client.search.rebuild()

    async def test_an_operation_of_another_kind_is_told(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("GetOperation", finished(pipeline.RunPipelineResponse()))
        operation = await client.search.operation("o1")
        with pytest.raises(TypeError, match=r"penstock\.pipeline\.v1\.RunPipelineResponse"):
            await operation.wait()


class TestRecommendations:
    async def test_what_is_asked_for_goes_out(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("Recommend", AWAY, recommendations.RecommendResponse(history_size=3))
        answer = await client.recommendations.recommend(
            "u1", context="similar", product_id="p1", limit=5, filters={"category": "Home"}, exclude=iter(["p2"]),
            include_seen=True,
        )  # fmt: skip
        assert answer.history_size == 3
        wanted = recommendations.RecommendRequest(
            user_id="u1", context=recommendations_pb2.SIMILAR, product_id="p1", limit=5,
            filters=search_pb2.ProductFilter(categories=["Home"]), exclude=["p2"], include_seen=True,
        )  # fmt: skip
        assert model.requests == [wanted, wanted]

    async def test_a_batch_names_users_or_says_more(self, client: penstock.Client, model: ShopModel) -> None:
        answers = [
            recommendations.BatchRecommendResult(response=recommendations.RecommendResponse(reason="x")),
            recommendations.BatchRecommendResult(error=status(code_pb2.NOT_FOUND, "PRODUCT_NOT_FOUND")),
        ]
        model.answer("BatchRecommend", recommendations.BatchRecommendResponse(responses=answers))
        good, bad = await client.recommendations.batch(
            ["u1", {"user_id": "u2", "context": "similar", "product_id": "gone"}]
        )
        assert good == recommendations.RecommendResponse(reason="x")
        assert isinstance(bad, penstock.NotFound)
        assert [each.user_id for each in model.requests[0].requests] == ["u1", "u2"]

    async def test_a_training_is_waited_for(self, client: penstock.Client, model: ShopModel) -> None:
        trained = recommendations_pb2.Model(version=4, parts=["ease"])
        model.answer("TrainModel", finished(recommendations.GetModelResponse(model=trained)))
        operation = await client.recommendations.train(request_id="mine")
        assert await operation.wait() == trained
        assert model.requests[0].request_id == "mine"
        model.answer("GetModel", recommendations.GetModelResponse(model=trained))
        assert (await client.recommendations.model()).version == 4

    async def test_experiments(self, client: penstock.Client, model: ShopModel) -> None:
        begun = recommendations_pb2.Experiment(name="mix")
        model.answer("CreateExperiment", AWAY, recommendations.CreateExperimentResponse(experiment=begun))
        variants: Any = {"control": 1, "fresh": {"weight": 2, "session": 0.8, "diversity": 0}}
        assert await client.recommendations.create_experiment("mix", variants, context="feed") == begun
        sent = model.requests[0].experiment
        assert [(each.name, each.weight, each.HasField("overrides")) for each in sent.variants] == [
            ("control", 1, False), ("fresh", 2, True),
        ]  # fmt: skip
        fresh = sent.variants[1].overrides
        assert (fresh.session, fresh.HasField("diversity"), fresh.HasField("query")) == (0.8, True, False)
        model.answer("ListExperiments", recommendations.ListExperimentsResponse(experiments=[begun]))
        assert list(await client.recommendations.experiments()) == [begun]
        model.answer("DeleteExperiment", recommendations.DeleteExperimentResponse())
        await client.recommendations.delete_experiment("mix")
        model.answer("CreateExperiment", status(code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_EXPERIMENTS"))
        with pytest.raises(LimitReached):
            await client.recommendations.create_experiment("more", {"a": 1, "b": 1})


class TestFeedback:
    async def test_it_is_sent_again_under_the_same_name(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("SendFeedback", AWAY, feedback.SendFeedbackResponse(status="stored"))
        answer = await client.feedback.send("u1", "p1", "click", context="search", position=2, query="lamp")
        assert answer.status == "stored"
        first, second = (each.interaction for each in model.requests)
        assert first == second
        assert first.request_id

    async def test_every_interaction_of_a_batch_has_a_name(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("BatchFeedback", AWAY, feedback.BatchFeedbackResponse(stored=3))
        given: list[Any] = [
            {"user_id": "u", "product_id": "p", "interaction_type": "view"},
            interaction("u", "p", "like", request_id="mine"),
            penstock_interaction(),
        ]
        assert (await client.feedback.batch(given)).stored == 3
        first, second = model.requests
        assert first == second
        names = [each.request_id for each in first.interactions]
        assert len(set(names)) == 3
        assert "" not in names
        assert names[1] == "mine"
        assert not given[2].request_id

    async def test_profiles_and_forgetting(self, client: penstock.Client, model: ShopModel) -> None:
        model.answer("GetUserProfile", AWAY, feedback.GetUserProfileResponse(interactions=3))
        assert (await client.feedback.profile("u1", limit=0)).interactions == 3
        assert model.requests[1].HasField("limit")
        model.answer("ForgetUser", feedback.ForgetUserResponse(removed={"events": 2}, remaining={"events": 0}))
        assert dict((await client.feedback.forget("u1")).removed) == {"events": 2}
        model.answer("ForgetUser", status(code_pb2.FAILED_PRECONDITION, "RUN_IN_PROGRESS"))
        with pytest.raises(penstock.RunInProgress):
            await client.feedback.forget("u1")


class TestCatalog:
    async def test_an_upsert_is_tried_again_unless_the_catalogue_is_full(
        self, client: penstock.Client, model: ShopModel
    ) -> None:
        overloaded = status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", 0.01)
        model.answer("UpsertProducts", overloaded, AWAY, catalog.UpsertProductsResponse(created=1))
        assert (await client.catalog.upsert(product("p", "P"))).created == 1
        assert len(model.requests) == 3
        model.answer("UpsertProducts", status(code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_PRODUCTS"))
        with pytest.raises(LimitReached):
            await client.catalog.upsert(product("p", "P"))

    async def test_an_upload_is_sent_again_where_it_can_be(self, client: penstock.Client, model: ShopModel) -> None:
        body = [b"{}\n"] * 200_000
        model.break_before.append(2)
        model.answer("UploadProducts", catalog.UploadProductsResponse(created=1))
        assert (await client.catalog.upload(body)).created == 1
        assert model.requests == [b"".join(body)]
        model.break_before.append(1)
        with pytest.raises(penstock.Unavailable):
            await client.catalog.upload(iter(body))

    async def test_a_removal_is_not(self, client: penstock.Client, model: ShopModel) -> None:
        """The second try would find nothing, and say so of a product that the first one removed."""
        model.answer("DeleteProduct", AWAY)
        with pytest.raises(penstock.Unavailable):
            await client.catalog.delete("p")


def penstock_interaction() -> Message:
    """A message without a request_id, of the caller's own."""
    made = interaction("u", "p", "view")
    made.request_id = ""
    return made
