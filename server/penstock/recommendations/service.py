"""Recommendations over gRPC."""

import asyncio
import hashlib
import time
from collections.abc import Sequence

from google.longrunning import operations_proto_pb2
from google.protobuf.message import Message

from penstock import limits
from penstock.cache.local import Asked
from penstock.cache.popular import Popular
from penstock.cache.results import Kind, Results
from penstock.cache.warming import PAUSE_S, Warmed
from penstock.errors import PenstockError
from penstock.recommendations import wire
from penstock.recommendations.exposures import Exposures
from penstock.recommendations.models import Models
from penstock.recommendations.recommender import Ground, Recommender
from penstock.recommendations.stored_experiments import StoredExperiments
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.rpc.call import Call
from penstock.rpc.operations import Operations, Report
from penstock.rpc.status import status_of
from penstock.search.indexes import Indexes

# An interaction of the user ends an answer at once; of another server's it is seen within `trust_s`.
RECOMMENDATIONS = Kind("recommendations", ttl_s=120.0, trust_s=0.0)


class RecommendationService:
    """Serves `penstock.recommendations.v1.RecommendationService`."""

    def __init__(
        self,
        recommender: Recommender,
        indexes: Indexes,
        models: Models,
        experiments: StoredExperiments,
        exposures: Exposures,
        results: Results,
        operations: Operations,
    ) -> None:
        self._recommender = recommender
        self._indexes = indexes
        self._models = models
        self._experiments = experiments
        self._exposures = exposures
        self._results = results
        self._operations = operations
        self._active = Popular()

    def tenants(self) -> set[str]:
        """Those with active users."""
        return self._active.tenants()

    def version(self, tenant: str) -> str | None:
        """What the tenant's answers depend on now, besides the users."""
        content = self._indexes.content(tenant)
        return f"{content}.{self._models.learnt(tenant).model.trained_at:.6f}" if content is not None else None

    def active(self, tenant: str, user_id: str, times: int) -> None:
        """A user has done something, so many times."""
        self._active.note(tenant, user_id.encode(), times)

    def forget(self, tenant: str, user_id: str) -> None:
        """A user is to be forgotten."""
        self._active.forget(tenant, user_id.encode())

    async def warm(self, tenant: str, limit: int) -> Warmed:
        """Recommends to the users who do most, as a feed. Raises Overloaded, Unavailable."""
        cached = []
        for user_id in self._active.most(tenant, at_least=limits.ACTIVE_USER_INTERACTIONS_MIN, limit=limit):
            request = pb.RecommendRequest(user_id=user_id.decode(), context=recommendations_pb2.FEED)
            answer = await self._recommended(request, tenant, time.perf_counter(), shown=False)
            cached.append(answer.cached)
            await asyncio.sleep(PAUSE_S)
        return Warmed(cached.count(False), cached.count(True))

    async def Recommend(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        return await self._recommended(request, call.tenant, call.started)

    async def BatchRecommend(self, request: pb.BatchRecommendRequest, call: Call) -> pb.BatchRecommendResponse:
        # One after the other: a call must not take more of the threads than others have.
        answers = []
        for each in request.requests:
            started = time.perf_counter()
            try:
                answers.append(pb.BatchRecommendResult(response=await self._recommended(each, call.tenant, started)))
            except PenstockError as error:
                answers.append(pb.BatchRecommendResult(error=status_of(error)))
        return pb.BatchRecommendResponse(responses=answers)

    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=wire.model(self._models.learnt(call.tenant)))

    async def TrainModel(self, request: pb.TrainModelRequest, call: Call) -> operations_proto_pb2.Operation:
        async def work(report: Report) -> Message:
            return pb.GetModelResponse(model=wire.model(await self._models.train(call.tenant)))

        return self._operations.start(call.tenant, request.request_id, work)

    async def CreateExperiment(self, request: pb.CreateExperimentRequest, call: Call) -> pb.CreateExperimentResponse:
        wire.experiment_of(request.experiment)
        return pb.CreateExperimentResponse(experiment=await self._experiments.create(call.tenant, request.experiment))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, call: Call) -> pb.ListExperimentsResponse:
        return pb.ListExperimentsResponse(experiments=await self._experiments.of(call.tenant))

    async def DeleteExperiment(self, request: pb.DeleteExperimentRequest, call: Call) -> pb.DeleteExperimentResponse:
        await self._experiments.end(call.tenant, request.name)
        return pb.DeleteExperimentResponse()

    async def _recommended(
        self, request: pb.RecommendRequest, tenant: str, started: float, *, shown: bool = True
    ) -> pb.RecommendResponse:
        """`shown`: whether the user sees it, which is what experiments count."""
        wanted = wire.wanted_of(request, tenant)
        view = (await self._indexes.of(tenant)).view
        experiments = await self._experiments.of(tenant)
        learnt = self._models.learnt(tenant)
        ground = self._recommender.ground(view, learnt, wire.experiments_of(experiments), wanted)

        async def load() -> bytes:
            return wire.recommended(await self._recommender.recommend(ground, wanted), ground).SerializeToString()

        answer = await self._results.get(
            Asked(
                kind=RECOMMENDATIONS.name,
                tenant=tenant,
                key=wire.asked(request),
                version=_version(ground, experiments),
                scope=wanted.user_id,
            ),
            load,
        )
        response = pb.RecommendResponse.FromString(answer.value)
        response.cached = answer.cached
        response.index_version = view.version.number
        if not request.ids_only:
            wire.fill(response, view.products)
        if shown:
            self._exposures.note(tenant, wanted.user_id, ground.assignments)
        response.took_ms = (time.perf_counter() - started) * 1e3
        return response


def _version(ground: Ground, experiments: Sequence[recommendations_pb2.Experiment]) -> str:
    """What an answer depends on besides the user, alike on every server."""
    running = hashlib.sha256(b"".join(each.SerializeToString(deterministic=True) for each in experiments))
    trained = f"{ground.learnt.model.trained_at:.6f}"
    return f"{ground.view.content}.{trained}.{running.hexdigest()[:8]}"
