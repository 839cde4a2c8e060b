"""Has the index rebuilt and models trained all the time, so that servers die in the middle of it; recommends, too."""

import asyncio
import contextlib
import random

import grpc

from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1 import recommendations_service_pb2_grpc as recommendations_stubs
from penstock.search.v1 import search_service_pb2 as search
from penstock.search.v1 import search_service_pb2_grpc as search_stubs
from tests.faults.journal import Journal
from tests.faults.shop.writers import CALL_S_MAX, is_gone

LEARNT_S_MAX = 60.0

# One is under way; too many are.
BUSY = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Tender:
    """Has things done in the background."""

    def __init__(self, seed: int, journal: Journal) -> None:
        self.model_version = 0  # the newest that it was shown
        self._chance = random.Random(f"{seed}/tender")
        self._journal = journal

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Until the server is gone."""
        index = search_stubs.SearchServiceStub(channel)
        models = recommendations_stubs.RecommendationServiceStub(channel)
        while True:
            try:
                await self._tend(index, models)
            except grpc.aio.AioRpcError as error:
                if error.code() not in BUSY and error.details() != "the index is being read":
                    if is_gone(error):
                        return
                    raise self._journal.broken("tender", f"{error.code().name} {error.details()}") from None
            await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def begin_rebuild(self, channel: grpc.aio.Channel) -> None:
        """Has a rebuild begun, unless one is under way."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            stub = search_stubs.SearchServiceStub(channel)
            await stub.RebuildIndex(search.RebuildIndexRequest(), timeout=CALL_S_MAX)

    async def begin_training(self, channel: grpc.aio.Channel) -> None:
        """Waits until a model is learnt, and has another training begun. Raises TimeoutError."""
        models = recommendations_stubs.RecommendationServiceStub(channel)
        before = self.model_version
        async with asyncio.timeout(LEARNT_S_MAX):
            while self.model_version <= before:
                await self._begin_training(models)
                await self._look(models)
                await asyncio.sleep(0.1)
        await self._begin_training(models)

    async def _begin_training(self, models: recommendations_stubs.RecommendationServiceStub) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await models.TrainModel(recommendations.TrainModelRequest(), timeout=CALL_S_MAX)

    async def _look(self, models: recommendations_stubs.RecommendationServiceStub) -> None:
        answer: recommendations.GetModelResponse = await models.GetModel(
            recommendations.GetModelRequest(), timeout=CALL_S_MAX
        )
        self.model_version = max(self.model_version, answer.model.version)

    async def _tend(
        self, index: search_stubs.SearchServiceStub, models: recommendations_stubs.RecommendationServiceStub
    ) -> None:
        kind = self._chance.random()
        if kind < 0.3:
            await index.RebuildIndex(search.RebuildIndexRequest(), timeout=CALL_S_MAX)
            self._journal.note("tender", "rebuild")
        elif kind < 0.5:
            await models.TrainModel(recommendations.TrainModelRequest(), timeout=CALL_S_MAX)
            self._journal.note("tender", "training")
        elif kind < 0.7:
            await self._look(models)
        else:
            user = f"users-0-{self._chance.randint(0, 5)}"
            await models.Recommend(recommendations.RecommendRequest(user_id=user), timeout=CALL_S_MAX)
