"""The index of one tenant with one encoder, alive: it comes from disk, follows the catalogue, and has texts encoded; it
is rebuilt, measured and saved when it is time."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import structlog

from penstock import limits
from penstock.catalog.products import TenantProducts
from penstock.errors import PenstockError
from penstock.search.documents import document
from penstock.search.encoding import QueryEncoder
from penstock.search.index import (
    BuildStopped,
    Change,
    Delete,
    Document,
    IndexVersion,
    SetVector,
    SnapshotUnusable,
    TenantIndex,
    Upsert,
    combined,
    texts_to_encode,
)
from penstock.search.stored_vectors import StoredVectors, Vector, digest_of

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Saved:
    """What is on disk."""

    time: datetime
    commit: int
    version: int


@dataclass(frozen=True, slots=True)
class _Read:
    """A product that changed, as the index will have it; without a document it is gone."""

    product_id: str
    document: Document | None = None
    texts: Sequence[tuple[str, float]] = ()
    digest: bytes = b""


class Generation:
    """One index, and all that keeps it right."""

    def __init__(
        self,
        products: TenantProducts,
        encoder: QueryEncoder,
        vectors: StoredVectors,
        mark: Callable[[int], Awaitable[str]],
        folder: Path,
    ) -> None:
        """`folder` is where it is saved, each time with `mark(commit)`, which tells the database from others."""
        self._mark = mark
        self._products = products
        self._vectors = vectors
        self._folder = folder
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="index-write")
        self._builds = ThreadPoolExecutor(1, thread_name_prefix="index-build")
        self._dirty: set[str] = set()
        self._changed = asyncio.Event()
        self._unencoded = asyncio.Event()
        self._digests: dict[str, bytes] = {}  # of products that changed since the start: what their vectors are of
        self._unencodable: set[bytes] = set()
        self._listening = False
        self._moved = asyncio.Event()  # set, and another put in its place, when there is a newer version
        self._stopping = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._measured_version = -1
        self._still: tuple[int, float] = (-1, 0.0)  # the version that was seen last, and since when
        self._built_at = -math.inf  # by the same clock
        self.encoder = encoder
        self.index = TenantIndex(encoder.dimensions, encoder.name)
        self.whole = True  # whether the newest version has all of the commit that it says it is of, and nothing more
        self.ready = False  # whether it has all that the catalogue had when it was opened
        self.saved: Saved | None = None
        self.problem = ""  # why the last load from disk did not work

    async def open(self, changed_since: Callable[[int], Awaitable[set[str]]]) -> None:
        """Comes from disk, takes over what changed since, and is ready; then lives on in the background.

        `changed_since(commit)` are the products that changed after a commit. Raises Unavailable.
        """
        self._products.listen(self._note)
        self._listening = True
        await self._load()
        self._dirty |= await changed_since(self.index.version.commit)
        # Which products there are is compared as a whole: what is on disk may be of another database than it says.
        self._dirty |= set(_product_ids(self.index.version)) ^ set(self._products)
        while self._dirty:
            await self._take_over()
        self.ready = True
        self._unencoded.set()
        self._tasks = [
            asyncio.create_task(work(), name=f"index-{name}")
            for name, work in (("follow", self._follow), ("encode", self._encode), ("tend", self._tend))
        ]

    async def close(self, *, save: bool = True) -> None:
        """Stops at the next step, and saves what changed since it was last saved."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening:
            self._products.unlisten(self._note)
        if self.ready and save:
            await self._save()
        for executor in (self._writes, self._builds):
            await asyncio.to_thread(executor.shutdown, wait=True)

    async def rebuild(self) -> None:
        """Builds the base anew beside the one that searches use, and swaps. Raises Conflict (REBUILD_IN_PROGRESS)."""
        self._built_at = time.monotonic()
        await self._in_thread(self._builds, self.index.rebuild, self._stopping.is_set)
        await self._measure()
        await self._save()

    async def has(self, commit: int, product_ids: Sequence[str]) -> None:
        """Waits until searches see a commit, and these of its products by their vectors."""
        while True:
            moved = self._moved
            version = self.index.version
            if version.commit >= commit and not any(map(self._awaits_vector, product_ids)):
                return
            await moved.wait()

    @property
    def pending(self) -> int:
        """Products that wait for their vectors, or for being read."""
        return self.index.version.pending_vectors + len(self._dirty)

    def _note(self, commit: int, product_ids: frozenset[str]) -> None:
        self._dirty |= product_ids
        self._changed.set()

    def _awaits_vector(self, product_id: str) -> bool:
        return self.index.version.awaits_vector(product_id) and self._digests.get(product_id) not in self._unencodable

    def _tell(self) -> None:
        """Those who wait for a version look at the newest."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def _load(self) -> None:
        if not self._folder.exists():
            return
        try:
            loaded = await self._in_thread(
                self._writes, TenantIndex.load, self._folder, self.encoder.dimensions, self.encoder.name
            )
        except SnapshotUnusable as unusable:
            self.problem = unusable.problem
            log.warning("the saved index cannot be used; it is made anew", tenant=self._tenant, why=self.problem)
            return
        if loaded.version.commit > self._products.commit:
            self.problem = "it is newer than the database"
        elif loaded.version.commit and loaded.mark != await self._mark(loaded.version.commit):
            self.problem = "it is of another database"
        if self.problem:
            log.warning("the saved index cannot be used; it is made anew", tenant=self._tenant, why=self.problem)
            return
        self.index = loaded
        version = loaded.version
        self.saved = Saved(datetime.now(UTC), version.commit, version.number)

    @property
    def _tenant(self) -> str:
        return self._products.tenant

    async def _take_over(self) -> None:
        """Brings some of the products that changed into the index."""
        taken = list(self._dirty)[: limits.INDEX_APPLY_PRODUCTS]
        self._dirty -= set(taken)
        # What is left is of commits up to this one too: only when nothing is, the version may call itself so.
        rest = bool(self._dirty)
        commit = self.index.version.commit if rest else self._products.commit
        if rest:
            self.whole = False
        try:
            read = await self._in_thread(self._writes, _read, self._products, taken)
            changes = await self._changes(read)
            await self._in_thread(self._writes, self.index.apply, changes, commit)
        except BaseException:
            self._dirty |= set(taken)
            raise
        self._digests.update({each.product_id: each.digest for each in read if each.document is not None})
        for each in read:
            if each.document is None:
                self._digests.pop(each.product_id, None)
        self.whole = not rest
        self._tell()
        self._unencoded.set()

    async def _changes(self, read: Sequence[_Read]) -> list[Change]:
        """What the index is told. A product whose texts are as they were keeps its vector."""
        new = [each for each in read if each.document and self._digests.get(each.product_id) != each.digest]
        found = await self._vectors.find(self._tenant, [each.digest for each in new]) if new else {}
        changes: list[Change] = []
        for each in read:
            if each.document is None:
                changes.append(Delete(each.product_id))
            elif self._digests.get(each.product_id) == each.digest:
                changes.append(Upsert(each.document, keep_vector=True))
            elif each.digest in found:
                changes.append(Upsert(replace(each.document, vector=found[each.digest])))
            else:
                changes.append(Upsert(each.document))
        return changes

    async def _follow(self) -> None:
        while True:
            self._changed.clear()
            while self._dirty:
                await self._kept_alive(self._take_over)
            await self._changed.wait()

    async def _encode(self) -> None:
        while True:
            self._unencoded.clear()
            while await self._encode_some():
                pass
            await self._vectors.flush()
            await self._unencoded.wait()

    async def _encode_some(self) -> bool:
        """Encodes some of the products that wait for it; whether there were any."""
        most = limits.INDEX_ENCODE_PRODUCTS + len(self._unencodable)
        waiting = await self._in_thread(self._writes, self.index.version.pending, most)
        read = await self._in_thread(self._writes, _read, self._products, waiting)
        wanted = [each for each in read if each.document is not None and each.digest not in self._unencodable]
        del wanted[limits.INDEX_ENCODE_PRODUCTS :]
        if not wanted:
            return False
        return await self._kept_alive(self._encode_these, wanted)

    async def _encode_these(self, wanted: Sequence[_Read]) -> None:
        texts = [text for each in wanted for text, _ in each.texts]
        try:
            encoded = await self.encoder.encode_many(texts, self._tenant)
        except PenstockError:
            raise
        except Exception:
            if len(wanted) > 1:  # a text that the encoder cannot take must not hold up the others
                for each in wanted:
                    await self._encode_these([each])
            else:
                log.exception("texts cannot be encoded", tenant=self._tenant, product=wanted[0].product_id)
                self._unencodable.add(wanted[0].digest)
                self._tell()
            return
        vectors: dict[bytes, Vector] = {}
        start = 0
        for each in wanted:
            end = start + len(each.texts)
            vectors[each.digest] = combined(encoded[start:end], [weight for _, weight in each.texts])
            start = end
        await self._vectors.keep(self._tenant, vectors)
        # What a product's vector is of must be known before the product changes again.
        self._digests.update(await self._in_thread(self._writes, self._set_vectors, wanted, vectors))
        self._tell()

    def _set_vectors(self, wanted: Sequence[_Read], vectors: dict[bytes, Vector]) -> dict[str, bytes]:
        # A product may have changed since its texts were read: then its new texts are encoded next.
        now = {each.product_id: each.digest for each in _read(self._products, [each.product_id for each in wanted])}
        right = [each for each in wanted if now.get(each.product_id) == each.digest]
        if right:
            changes = [SetVector(each.product_id, vectors[each.digest]) for each in right]
            self.index.apply(changes, self.index.version.commit)
        return {each.product_id: each.digest for each in right}

    async def _tend(self) -> None:
        """Rebuilds, measures and saves when it is time."""
        while True:
            if self._is_to_be_rebuilt():
                await self._kept_alive(self.rebuild)
            elif self._is_to_be_measured():
                await self._kept_alive(self._measure)
            if self._is_to_be_saved():
                await self._kept_alive(self._save)
            await asyncio.sleep(limits.INDEX_TEND_S)

    def _is_to_be_rebuilt(self) -> bool:
        """Also where little is left beside the base, once nothing changes: after a bulk load it would be for ever."""
        if self.index.needs_rebuild():
            return True
        version, now = self.index.version, time.monotonic()
        if self._still[0] != version.number:
            self._still = version.number, now
        return (
            version.vector_slots - len(version.store.base) >= limits.INDEX_STILL_ROWS_MIN
            and now - self._still[1] >= limits.INDEX_STILL_S
            and now - self._built_at >= limits.INDEX_STILL_AGAIN_S
        )

    def _is_to_be_measured(self) -> bool:
        changed = self._measured_version != self.index.version.number
        last = self.index.status().recall
        old = last is None or (datetime.now(UTC) - last.time).total_seconds() > limits.INDEX_RECALL_S
        return changed and old and self.index.version.size > 0 and not self.index.version.pending_vectors

    async def _measure(self) -> None:
        number = self.index.version.number
        await self._in_thread(self._builds, self.index.measure_recall)
        self._measured_version = number

    def _is_to_be_saved(self) -> bool:
        saved = self.saved
        if saved is None:
            return self.index.version.size > 0 and not self.index.version.pending_vectors
        changed = saved.version != self.index.version.number
        return changed and (datetime.now(UTC) - saved.time).total_seconds() > limits.INDEX_SAVE_S

    async def _save(self) -> None:
        version = self.index.version
        if self.saved is not None and self.saved.version == version.number:
            return
        await self._vectors.flush()
        mark = await self._mark(version.commit)
        written = await self._in_thread(self._builds, self.index.snapshot, self._folder, version, mark)
        self.saved = Saved(datetime.now(UTC), written.commit, written.number)

    async def _kept_alive(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Does it, and waits a little where it fails: the next time it may work. Whether it was done."""
        try:
            await work(*args, **kwargs)
        except BuildStopped:
            return False
        except PenstockError as error:
            log.warning("the index is not up to date", tenant=self._tenant, error=error.message)
            await asyncio.sleep(limits.INDEX_RETRY_S)
            return False
        except Exception:
            log.exception("the index could not be kept up to date", tenant=self._tenant)
            await asyncio.sleep(limits.INDEX_RETRY_S)
            return False
        return True

    async def _in_thread(
        self, executor: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: work(*args, **kwargs))


def _product_ids(version: IndexVersion) -> list[str]:
    """All that are there, active or not."""
    return version.product_ids(np.flatnonzero(version.row_of >= 0).astype(np.int32))


def _read(products: TenantProducts, product_ids: Sequence[str]) -> list[_Read]:
    read = []
    for product_id in product_ids:
        stored = products.get(product_id)
        if stored is None:
            read.append(_Read(product_id))
            continue
        made = document(stored.product)
        texts = texts_to_encode(made)
        read.append(_Read(product_id, made, texts, digest_of(texts)))
    return read
