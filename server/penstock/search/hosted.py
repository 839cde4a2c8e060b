"""A tenant's index, as searches see it: one generation answers; after a change of encoder another one is coming."""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from penstock import limits
from penstock.catalog.products import TenantProducts
from penstock.errors import Unavailable
from penstock.search.encoding import QueryEncoder
from penstock.search.generation import Generation
from penstock.search.index import IndexStatus, IndexVersion
from penstock.search.stored_vectors import StoredVectors

log = structlog.get_logger()

LOADING_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoder, and where its vectors are kept."""

    encoder: QueryEncoder
    vectors: StoredVectors


@dataclass(frozen=True, slots=True)
class State:
    """How an index is."""

    loading: bool
    index: IndexStatus
    version: int
    commit: int
    encoder: str
    dimensions: int
    snapshot_time: datetime | None
    snapshot_commit: int
    snapshot_problem: str
    coming: str  # the encoder for which an index is made meanwhile; empty when there is none
    coming_pending: int  # products that this waits for


@dataclass(frozen=True, slots=True)
class View:
    """What one search sees."""

    version: IndexVersion
    encoder: QueryEncoder
    products: TenantProducts
    whole: bool = True  # whether the version has all of the commit that it says it is of, and nothing more

    @property
    def content(self) -> str:
        """Names what answers depend on, alike on every server: the catalogue, and which products have vectors."""
        version = self.version
        if not self.whole:
            return f"{version.number}"
        return f"{version.commit}.{version.pending_vectors}.{self.encoder.name}"


class HostedIndex:
    """The index of one tenant."""

    def __init__(self, products: TenantProducts, mark: Callable[[int], Awaitable[str]], folder: Path) -> None:
        """`folder` has the saved indexes of all tenants; `mark(commit)` tells their databases apart."""
        self._mark = mark
        self._products = products
        self._folder = folder / hashlib.sha256(products.tenant.encode()).hexdigest()[:16]
        self._serving: Generation | None = None
        self._coming: Generation | None = None
        self._swap: asyncio.Task[None] | None = None

    async def open(
        self, wanted: Encoding, others: Sequence[Encoding], changed_since: Callable[[int], Awaitable[set[str]]]
    ) -> None:
        """Makes the index ready. Raises Unavailable.

        Where there is none of the encoder that is wanted, but one of another that can still be used, that one answers
        until every product is encoded anew.
        """
        generation = self._generation(wanted)
        old = next((each for each in others if self._is_saved(each) and not self._is_saved(wanted)), None)
        if old is None:
            self._serving = generation
            await generation.open(changed_since)
            return
        log.info("products are encoded anew", tenant=self._products.tenant, encoder=wanted.encoder.name)
        self._serving, self._coming = self._generation(old), generation
        await self._serving.open(changed_since)
        self._swap = asyncio.create_task(self._take_turns(changed_since), name="index-swap")

    async def close(self) -> None:
        """Saves what changed, and ends."""
        if self._swap is not None:
            self._swap.cancel()
            await asyncio.gather(self._swap, return_exceptions=True)
        for generation in (self._serving, self._coming):
            if generation is not None:
                await generation.close()

    @property
    def ready(self) -> bool:
        """Whether searches see anything."""
        return self._serving is not None and self._serving.ready

    @property
    def view(self) -> View:
        """What searches see now. Raises Unavailable (INDEX_LOADING)."""
        serving = self._serving
        if serving is None or not serving.ready:
            raise loading()
        # The flag first: it is lowered before a version that is not whole is published, and raised behind one that is.
        whole = serving.whole
        return View(serving.index.version, serving.encoder, self._products, whole)

    async def has(self, commit: int, product_ids: Sequence[str]) -> None:
        """Waits until searches see a commit, and these products by their vectors; not for an index that loads."""
        if self._serving is not None and self._serving.ready:
            await self._serving.has(commit, product_ids)

    def state(self) -> State:
        """How it is. Raises Unavailable before it is opened."""
        serving = self._serving
        if serving is None:
            raise loading()
        version = serving.index.version
        return State(
            loading=not serving.ready,
            index=serving.index.status(),
            version=version.number,
            commit=version.commit,
            encoder=serving.encoder.name,
            dimensions=serving.encoder.dimensions,
            snapshot_time=serving.saved.time if serving.saved else None,
            snapshot_commit=serving.saved.commit if serving.saved else 0,
            snapshot_problem=serving.problem,
            coming=self._coming.encoder.name if self._coming else "",
            coming_pending=self._coming.pending if self._coming else 0,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Products that are found, and what the index takes in bytes."""
        if self._serving is None:
            return 0, 0
        version = self._serving.index.version
        return version.size, version.nbytes

    async def rebuild(self) -> None:
        """Builds the base anew, and swaps. Raises Conflict (REBUILD_IN_PROGRESS), Unavailable."""
        _ = self.view
        assert self._serving is not None
        await self._serving.rebuild()

    def _generation(self, encoding: Encoding) -> Generation:
        return Generation(
            self._products, encoding.encoder, encoding.vectors, self._mark, self._folder / encoding.encoder.name
        )

    def _is_saved(self, encoding: Encoding) -> bool:
        return (self._folder / encoding.encoder.name).is_dir()

    async def _take_turns(self, changed_since: Callable[[int], Awaitable[set[str]]]) -> None:
        coming, old = self._coming, self._serving
        assert coming is not None
        assert old is not None
        await coming.open(changed_since)
        while coming.pending:  # noqa: ASYNC110  # hours of work: nobody is held up by a look every other second
            await asyncio.sleep(limits.INDEX_TEND_S)
        self._serving, self._coming = coming, None
        log.info("products are encoded anew, and found so", tenant=self._products.tenant, encoder=coming.encoder.name)
        await old.close(save=False)
        await asyncio.to_thread(shutil.rmtree, self._folder / old.encoder.name, ignore_errors=True)


def loading() -> Unavailable:
    """What is told while an index comes from disk, which takes half a second for 100,000 products."""
    return Unavailable("the index is being read", reason="INDEX_LOADING", retry_after_s=LOADING_RETRY_S)
