"""Catalogue, search, recommendations and feedback, put together: they share the index, Redis and threads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog
from google.protobuf.descriptor import ServiceDescriptor

from penstock.cache.embedded import RedisFailed
from penstock.cache.redis import Redis, open_redis
from penstock.cache.results import Results
from penstock.cache.warming import Warmer
from penstock.catalog.products import Catalogue
from penstock.catalog.reader import ProductReader
from penstock.catalog.service import CatalogService
from penstock.catalog.v1 import catalog_service_pb2
from penstock.catalog.writer import CatalogueWriter
from penstock.errors import Conflict, PenstockError
from penstock.events.batch import Origin
from penstock.events.intake import Intake
from penstock.events.v1.events_pb2 import Event
from penstock.feedback.forgetting import Forgetting
from penstock.feedback.intake import FeedbackIntake
from penstock.feedback.interactions import Interactions
from penstock.feedback.profiles import Profiles, touch
from penstock.feedback.service import FeedbackService
from penstock.feedback.sessions import Sessions
from penstock.feedback.sessions_state import INTERACTIONS_MAX
from penstock.feedback.sessions_state import Interaction as Touch
from penstock.feedback.v1 import feedback_service_pb2
from penstock.pipeline.forget import Forgetter
from penstock.recommendations.behaviour import Behaviour
from penstock.recommendations.exposures import Exposures, Store
from penstock.recommendations.histories import Histories
from penstock.recommendations.models import Models
from penstock.recommendations.recommender import Recommender
from penstock.recommendations.service import RECOMMENDATIONS, RecommendationService
from penstock.recommendations.stored_experiments import StoredExperiments
from penstock.recommendations.v1 import recommendations_service_pb2
from penstock.rpc.operations import Operations
from penstock.search.encoding import QueryEncoder, open_encoder
from penstock.search.encoding.opening import CLIP, MINILM
from penstock.search.hosted import Encoding
from penstock.search.indexes import Indexes
from penstock.search.lane import SearchLane
from penstock.search.searcher import Searcher
from penstock.search.service import SEARCHES, SearchService
from penstock.search.stored_vectors import StoredVectors
from penstock.search.v1 import search_service_pb2
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine
from penstock.workers import Workers

log = structlog.get_logger()

_ENCODERS = (MINILM, CLIP)


@dataclass(frozen=True, slots=True)
class DiscoveryServices:
    """The services of these areas."""

    catalog: CatalogService
    search: SearchService
    recommendations: RecommendationService
    feedback: FeedbackService

    def by_descriptor(self) -> Mapping[ServiceDescriptor, object]:
        """Each with what the contract says of it."""
        return {
            catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]: self.catalog,
            search_service_pb2.DESCRIPTOR.services_by_name["SearchService"]: self.search,
            recommendations_service_pb2.DESCRIPTOR.services_by_name["RecommendationService"]: self.recommendations,
            feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]: self.feedback,
        }


class Discovery:
    """The parts of these areas that live as long as the server."""

    def __init__(
        self, settings: Settings, engine: Engine, commit_log: CommitLog, redis: Redis, results: Results
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._log = commit_log
        self._lane = SearchLane()
        self._interactions = Interactions(engine, commit_log)
        self._histories = Histories(self._interactions, commit_log)
        self._experiments = StoredExperiments(engine, commit_log)
        self._exposures: Exposures | None = None
        self._sessions: Sessions
        self._indexes: Indexes
        self._models: Models
        self._recommendations: RecommendationService | None = None
        self._warmer: Warmer | None = None
        self._encodings: Sequence[Encoding] = ()
        self.redis = redis
        self.results = results
        self.catalogue = Catalogue(engine, commit_log)
        self.writer = CatalogueWriter(engine, commit_log, self.catalogue, settings.currency)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, engine: Engine, commit_log: CommitLog, encoders: Awaitable[Sequence[QueryEncoder]]
    ) -> AsyncIterator[Self]:
        """Opens Redis, and has what `opened_encoders` gives; leaving the context saves indexes, and ends the rest.

        Raises Conflict (ENCODER_UNUSABLE, REDIS_UNUSABLE), Unavailable.
        """
        async with AsyncExitStack() as ending:
            redis = await ending.enter_async_context(_redis(settings))
            results = await ending.enter_async_context(Results(redis, (SEARCHES, RECOMMENDATIONS)))
            made = cls(settings, engine, commit_log, redis, results)
            ending.callback(made._lane.close)
            made._sessions = await ending.enter_async_context(Sessions(redis, made._touches))
            made._encodings = [
                Encoding(encoder, StoredVectors(engine, commit_log, encoder.name)) for encoder in await encoders
            ]
            folder = settings.data_dir / "index"
            made._indexes = Indexes(made.catalogue, made._encodings[0], made._encodings[1:], folder)
            ending.push_async_callback(made.catalogue.stop)
            ending.push_async_callback(made._indexes.close)
            made._models = Models(
                Behaviour(engine, commit_log),
                made.catalogue,
                made._indexes,
                commit_log,
                Workers(),
                settings.data_dir / "models",
            )
            ending.push_async_callback(made._models.stop)
            yield made

    def services(self, intake: Intake, operations: Operations, forgetter: Forgetter) -> DiscoveryServices:
        """The services of these areas."""
        self._exposures = exposures = Exposures(_through(intake))
        recommender = Recommender(self._lane, self._sessions, self._histories)
        search = SearchService(self._indexes, Searcher(self._lane), self._lane, self.results, operations)
        recommendations = RecommendationService(
            recommender, self._indexes, self._models, self._experiments, exposures, self.results, operations
        )
        self._recommendations = recommendations
        self._warmer = Warmer((search, recommendations))
        feedback = FeedbackService(
            FeedbackIntake(self._interactions, self._sessions, self._interacted),
            Profiles(self._interactions, self._sessions),
            Forgetting(forgetter, self._sessions, self._forgotten),
        )
        catalog = CatalogService(
            self.writer, ProductReader(self._engine, self._log, self.catalogue), self._indexes.found
        )
        return DiscoveryServices(catalog, search, recommendations, feedback)

    def loading(self) -> list[str]:
        """Tenants whose index is being read."""
        return self._indexes.loading

    def content(self, tenant: str) -> str | None:
        """Names what a tenant's searches depend on now; None while that cannot be said."""
        return self._indexes.content(tenant)

    def index_size(self) -> tuple[int, int]:
        """How many products the indexes of all tenants have, and what they take in bytes. For any thread."""
        return self._indexes.size()

    def index_size_of(self, tenant: str) -> tuple[int, int]:
        """The same of one tenant."""
        return self._indexes.size_of(tenant)

    async def start(self) -> None:
        """Begins to write, to read indexes, and to learn. Raises Unavailable."""
        self.catalogue.start()
        self.writer.start()
        self._interactions.start()
        self._experiments.start()
        if self._exposures is not None:
            self._exposures.start()
        await self._indexes.open()
        self._models.start()
        if self._warmer is not None:
            self._warmer.start()

    async def stop_writing(self) -> None:
        """Commits what waits, and takes nothing more."""
        if self._warmer is not None:
            await self._warmer.stop()
        if self._exposures is not None:
            await self._exposures.stop()
        for part in (self.writer, self._interactions, self._experiments):
            await part.stop()

    async def _touches(self, tenant: str, user_id: str) -> Sequence[Touch]:
        """What a session that was lost is made of again."""
        return [touch(row) for row in await self._interactions.last(tenant, user_id, INTERACTIONS_MAX)]

    async def _interacted(self, tenant: str, user_id: str, times: int) -> None:
        if self._recommendations is not None:
            self._recommendations.active(tenant, user_id, times)
        await self._changed(tenant, user_id)

    async def _changed(self, tenant: str, user_id: str) -> None:
        self._histories.changed(tenant, user_id)
        await self.results.invalidate(tenant, RECOMMENDATIONS.name, user_id)

    async def _forgotten(self, tenant: str, user_id: str) -> None:
        await self._changed(tenant, user_id)
        self._models.forget(tenant, user_id)
        if self._exposures is not None:
            self._exposures.forget(tenant, user_id)
        if self._recommendations is not None:
            self._recommendations.forget(tenant, user_id)


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[Redis]:
    async with AsyncExitStack() as ending:
        try:
            opened = open_redis(settings.redis_url, memory_bytes=settings.redis_memory_bytes)
            redis = await ending.enter_async_context(opened)
        except RedisFailed as failure:
            raise Conflict(
                f"the embedded Redis cannot run here: {failure}. Name another one in PENSTOCK_REDIS_URL, or leave it"
                " empty: sessions and caches are then kept in this server alone",
                reason="REDIS_UNUSABLE",
            ) from failure
        yield redis


@asynccontextmanager
async def opened_encoders(settings: Settings) -> AsyncIterator[Awaitable[Sequence[QueryEncoder]]]:
    """Begins to open them, in a thread: 0.2 s, in which the database can be opened. Leaving the context closes them.

    To await them raises Conflict (ENCODER_UNUSABLE).
    """
    opening = asyncio.get_running_loop().run_in_executor(None, _open_encoders, settings)
    try:
        yield opening
    finally:
        await asyncio.wait({opening})  # a thread cannot be cancelled
        if opening.exception() is None:
            for encoder in opening.result():
                await encoder.close()


def _open_encoders(settings: Settings) -> Sequence[QueryEncoder]:
    """That which is wanted first; then others whose saved indexes may still answer."""
    names = sorted(_ENCODERS, key=lambda name: name != settings.encoder)
    wanted, *others = names
    encoders = [_encoder(wanted, settings)]
    for name in others:
        if not _any_saved(settings.data_dir / "index", encoders[0].name):
            continue
        try:
            encoders.append(_encoder(name, settings))
        except PenstockError as error:  # it cannot answer meanwhile: products are found by words until encoded
            log.info("an encoder of before cannot be used any more", encoder=name, why=error.message)
    return encoders


def _encoder(name: str, settings: Settings) -> QueryEncoder:
    return QueryEncoder(open_encoder(name, settings.encoder_path if name == CLIP else None))


def _any_saved(folder: Path, wanted: str) -> bool:
    """Whether an index of another encoder was saved."""
    return folder.is_dir() and any(each.name != wanted for tenant in folder.iterdir() for each in tenant.iterdir())


def _through(intake: Intake) -> Store:
    async def store(tenant: str, events: Sequence[Event]) -> None:
        await intake.store(Origin(tenant, "", "", "penstock"), events, keep_good=True)

    return store
