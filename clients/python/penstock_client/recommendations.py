"""Recommending products, and comparing ways to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Required, TypeAlias, TypedDict
from uuid import uuid4

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as Packed

from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.recommendations.v1.recommendations_pb2 import Experiment, Model, Overrides, Variant
from penstock.recommendations.v1.recommendations_service_pb2_grpc import RecommendationServiceStub
from penstock_client.connection import Connection
from penstock_client.errors import Error, from_status
from penstock_client.filters import FilterLike, product_filter
from penstock_client.operation import Operation, found, unpacked

Context = Literal["feed", "search", "similar", "category"]

CONTEXTS = {
    None: recommendations_pb2.CONTEXT_UNSPECIFIED,
    "feed": recommendations_pb2.FEED,
    "search": recommendations_pb2.SEARCH,
    "similar": recommendations_pb2.SIMILAR,
    "category": recommendations_pb2.CATEGORY,
}


class RecommendFields(TypedDict, total=False):
    """One recommendation of many."""

    user_id: str
    context: Context
    query: str
    product_id: str
    category: str
    limit: int | None
    filters: FilterLike
    exclude: Iterable[str]
    include_seen: bool
    ids_only: bool


class VariantFields(TypedDict, total=False):
    """A way to recommend: its weight among the users, and what it does otherwise; nothing: it is the control."""

    weight: Required[float]
    long_term: float
    session: float
    query: float
    product: float
    diversity: float


RecommendLike: TypeAlias = str | RecommendFields | pb.RecommendRequest


class RecommendationsClient:
    """`client.recommendations`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> RecommendationServiceStub:
        return RecommendationServiceStub(self._connection.channel)

    async def recommend(
        self,
        user_id: str = "",
        *,
        context: Context = "feed",
        query: str = "",
        product_id: str = "",
        category: str = "",
        limit: int | None = None,
        filters: FilterLike = None,
        exclude: Iterable[str] = (),
        include_seen: bool = False,
        ids_only: bool = False,
    ) -> pb.RecommendResponse:
        """Products for a user (10 by default, up to 200), the best first; without a user, for whoever is there.

        The context "search" needs a `query`, "similar" a `product_id`, "category" a `category`. `filters` are as those
        of `client.search`. Raises NotFound for a product that is not there.
        """
        fields = RecommendFields(
            user_id=user_id, context=context, query=query, product_id=product_id, category=category, limit=limit,
            filters=filters, exclude=exclude, include_seen=include_seen, ids_only=ids_only,
        )  # fmt: skip
        return await self._connection.read(self._stub.Recommend, _recommend(fields), pb.RecommendResponse)

    async def batch(self, requests: Iterable[RecommendLike]) -> Sequence[pb.RecommendResponse | Error]:
        """Up to 100 in one call, each answered on its own: what is recommended, or the Error that it ended with.

        Each is a user's id, the arguments of `recommend` in a mapping, or a message.
        """
        request = pb.BatchRecommendRequest(requests=[_recommend(each) for each in requests])
        answer = await self._connection.read(self._stub.BatchRecommend, request, pb.BatchRecommendResponse)
        return [each.response if each.HasField("response") else from_status(each.error) for each in answer.responses]

    async def model(self) -> Model:
        """What was learnt from behaviour, and when."""
        return (await self._connection.read(self._stub.GetModel, pb.GetModelRequest(), pb.GetModelResponse)).model

    async def train(self, *, request_id: str | None = None) -> Operation[Model]:
        """Learns anew from all behaviour that is stored. The same `request_id` again gives the same operation.

        Raises RunInProgress while another training is under way.
        """
        request = pb.TrainModelRequest(request_id=request_id or str(uuid4()))
        # With its request_id the call starts nothing twice, so it may be tried again.
        started = await self._connection.read(self._stub.TrainModel, request, operations_pb2.Operation)
        return Operation(self._connection, started, _model)

    async def operation(self, operation_id: str) -> Operation[Model]:
        """A training that was started before. Raises NotFound."""
        return Operation(self._connection, await found(self._connection, operation_id), _model)

    async def experiments(self) -> Sequence[Experiment]:
        """The experiments that run, by name."""
        request = pb.ListExperimentsRequest()
        return (
            await self._connection.read(self._stub.ListExperiments, request, pb.ListExperimentsResponse)
        ).experiments

    async def create_experiment(
        self,
        name: str,
        variants: Mapping[str, float | VariantFields],
        *,
        description: str = "",
        context: Context | None = None,
    ) -> Experiment:
        """Begins an experiment such as `("mix", {"control": 1, "fresh": {"weight": 1, "session": 0.8}})`.

        A variant is its weight among the users, with what it does otherwise. Raises AlreadyStored when one of that name
        runs with other variants, LimitReached when as many run as may.
        """
        made = [_variant(variant, fields) for variant, fields in variants.items()]
        experiment = Experiment(name=name, description=description, variants=made, context=CONTEXTS[context])
        request = pb.CreateExperimentRequest(experiment=experiment)
        # One that is there and equal is answered as it is, so the call may be tried again.
        return (
            await self._connection.read(self._stub.CreateExperiment, request, pb.CreateExperimentResponse)
        ).experiment

    async def delete_experiment(self, name: str) -> None:
        """Ends an experiment; its results stay. Raises NotFound."""
        request = pb.DeleteExperimentRequest(name=name)
        await self._connection.call(self._stub.DeleteExperiment, request, pb.DeleteExperimentResponse)


def _recommend(given: RecommendLike) -> pb.RecommendRequest:
    if isinstance(given, pb.RecommendRequest):
        return given
    fields = RecommendFields(user_id=given) if isinstance(given, str) else given
    unknown = sorted(set(fields) - set(RecommendFields.__annotations__))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no argument of a recommendation")
    return pb.RecommendRequest(
        user_id=fields.get("user_id", ""),
        context=CONTEXTS[fields.get("context")],
        query=fields.get("query", ""),
        product_id=fields.get("product_id", ""),
        category=fields.get("category", ""),
        limit=fields.get("limit"),
        filters=product_filter(fields.get("filters")),
        exclude=fields.get("exclude", ()),
        include_seen=fields.get("include_seen", False),
        ids_only=fields.get("ids_only", False),
    )


def _variant(name: str, given: float | VariantFields) -> Variant:
    if isinstance(given, int | float):
        return Variant(name=name, weight=given)
    otherwise = {field: value for field, value in given.items() if field != "weight"}
    overrides = Overrides(**otherwise) if otherwise else None  # type: ignore[arg-type]  # as VariantFields declares
    return Variant(name=name, weight=given["weight"], overrides=overrides)


def _model(response: Packed) -> Model:
    return unpacked(pb.GetModelResponse, response).model
