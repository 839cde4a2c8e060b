"""The index of one tenant's products: one writer at a time, any number of readers, no locks for them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from penstock.errors import Conflict
from penstock.search.index import snapshot
from penstock.search.index.build import FLAT_ROWS_MAX
from penstock.search.index.document import (
    Change,
    Delete,
    Document,
    SetVector,
    Upsert,
    Vectors,
    check_numbers,
    texts_digest,
    unit,
)
from penstock.search.index.draft import Draft
from penstock.search.index.rebuild import carried_over, compacted
from penstock.search.index.recall import measured
from penstock.search.index.status import BuildState, IndexStatus, Recall
from penstock.search.index.store import empty_store
from penstock.search.index.texts import weighed
from penstock.search.index.version import IndexVersion

DELTA_ROWS_MIN = 1_000  # a delta of so many is compared in .1 ms: no reason to build
DELTA_SHARE_MAX = 0.04  # of the vectors; at 100,000 they take .4 ms of every search, and a build that adds them 10 s
DEAD_SHARE_MAX = 0.3  # of vectors, rows or texts that are of no product any more
CHANGES_AT_SWAP_MAX = 500  # carried over while writers wait, at 50 µs each; more are carried over before
SEALED_MAX = 64  # each is one more place to look for every word


def _never() -> bool:
    return False


class TenantIndex:
    """Publishes versions: each change makes one, in one step; who holds an older one keeps seeing it.

    All methods may be called from any thread. `apply` and the last step of `rebuild` wait for each other.
    """

    def __init__(self, dimensions: int, encoder: str, version: IndexVersion | None = None) -> None:
        self.dimensions = dimensions
        self.encoder = encoder
        # Numbers rise over restarts, too, so that no page token and no cache takes one version for another: they begin
        # at the time in milliseconds, and changes come slower than these.
        begun = version if version is not None else _first(dimensions)
        self._version = replace(begun, number=max(begun.number + 1, time.time_ns() // 1_000_000))
        self.mark = ""  # of what was loaded: see `snapshot`
        self._writing = threading.Lock()
        self._building = threading.Lock()
        self._changed: set[str] | None = None  # while a rebuild is under way
        self._recall: Recall | None = None
        self._build_time: datetime | None = None
        self._build_ms: float | None = None
        self._snapshotting = threading.Lock()
        self._snapshot_time: datetime | None = None
        self._snapshot_commit: int | None = None

    @property
    def version(self) -> IndexVersion:
        """The newest version."""
        return self._version

    def apply(self, changes: Sequence[Change], commit: int) -> IndexVersion:
        """Makes the changes, in order and all at once, and publishes the version that has them, as of a commit.

        Raises InvalidInput (INVALID_VECTOR, INVALID_FIELD); then nothing was changed.
        """
        made = [_checked(change, self.dimensions, place) for place, change in enumerate(changes)]
        with self._writing:
            draft = Draft(self._version, len(made))
            for change in made:
                _make(draft, change)
            version = draft.finished(self._version.number + 1, commit)
            if self._changed is not None:
                self._changed.update(_product_id(change) for change in made)
            self._version = version
        return version

    def needs_rebuild(self) -> bool:
        """Whether a rebuild would make searches faster or memory smaller, by enough to be worth it."""
        version = self._version
        base, live = len(version.store.base), int(np.count_nonzero(version.vector_of >= 0))
        return (
            version.vector_slots - base > max(DELTA_ROWS_MIN, DELTA_SHARE_MAX * base)
            or _too_dead(live, version.vector_slots)
            or _too_dead(version.size, len(version.findable))
            or _too_dead(int(np.count_nonzero(version.text_of >= 0)), version.text_slots)
            or len(version.sealed) > SEALED_MAX
        )

    def rebuild(self, should_stop: Callable[[], bool] = _never) -> IndexVersion:
        """Builds everything anew from what is there, beside searches and changes, and swaps it in one step.

        Takes minutes with many vectors. Raises Conflict (REBUILD_IN_PROGRESS), and BuildStopped within a second
        or two of `should_stop` being true; then all is as before.
        """
        if not self._building.acquire(blocking=False):
            raise Conflict("the index is being rebuilt already", reason="REBUILD_IN_PROGRESS")
        try:
            begun = time.perf_counter()
            with self._writing:
                self._changed = set()
                source = self._version
            version = self._swapped(compacted(source, should_stop))
            self._build_time, self._build_ms = datetime.now(UTC), (time.perf_counter() - begun) * 1e3
            return version
        finally:
            self._changed = None
            self._building.release()

    def snapshot(self, folder: Path, version: IndexVersion | None = None, mark: str = "") -> IndexVersion:
        """Writes a version of this index, by default the newest, to disk in the place of the one before; returns it.

        `mark` tells its commit from one of the same number in another database. Raises OSError.
        """
        with self._snapshotting:
            version = version if version is not None else self._version
            self._snapshot_time = snapshot.write(version, self.encoder, folder, mark)
            self._snapshot_commit = version.commit
        return version

    @classmethod
    def load(cls, folder: Path, dimensions: int, encoder: str) -> "TenantIndex":
        """The index that was last written there, by the same encoder. Raises SnapshotUnusable: then it is to be made
        from the catalogue."""
        version, mark = snapshot.read(folder, dimensions, encoder)
        made = cls(dimensions, encoder, version)
        made.mark = mark
        return made

    def measure_recall(self, nearest: int = 10, queries: int = 100) -> Recall:
        """Compares what searches find with what there is; kept for `status`. Takes 10 ms a query at 100,000."""
        self._recall = measured(self._version, nearest, queries)
        return self._recall

    def status(self) -> IndexStatus:
        """How it is now."""
        version = self._version
        base = version.store.base
        live = int(np.count_nonzero(version.vector_of >= 0))
        return IndexStatus(
            state=BuildState.BUILDING if self._building.locked() else BuildState.READY,
            version=version.number,
            commit=version.commit,
            size=version.size,
            pending_vectors=version.pending_vectors,
            kind=base.kind,
            dimensions=self.dimensions,
            encoder=self.encoder,
            base_size=len(base),
            delta_size=version.vector_slots - len(base),
            tombstones=version.vector_slots - live,
            memory_bytes=version.nbytes,
            effort=base.effort.near,
            recall=self._recall,
            build_time=self._build_time,
            build_ms=self._build_ms,
            snapshot_time=self._snapshot_time,
            snapshot_commit=self._snapshot_commit,
        )

    def _swapped(self, made: IndexVersion) -> IndexVersion:
        """Brings what was built up to what was changed meanwhile, and publishes it."""
        while True:
            with self._writing:
                now, changed = self._version, self._changed
                assert changed is not None
                if len(changed) <= CHANGES_AT_SWAP_MAX:
                    self._version = carried_over(made, now, changed, now.number + 1)
                    return self._version
                self._changed = set()
            made = carried_over(made, now, changed, now.number)


def _first(dimensions: int) -> IndexVersion:
    none = np.empty(0, np.int32)
    return IndexVersion(
        store=empty_store(dimensions),
        number=0,
        commit=0,
        row_of=none,
        vector_of=none,
        text_of=none,
        findable=np.empty(0, np.bool_),
        vector_slots=0,
        text_slots=0,
        frequency=none,
        sealed=(),
        sealed_slots=0,
    )


@dataclass(frozen=True, slots=True)
class _Put:
    """An Upsert that was looked at: its vector is of length 1, its texts are terms."""

    document: Document
    vector: Vectors | None
    keep_vector: bool
    digest: int


_Checked = _Put | Delete | SetVector


def _checked(change: Change, dimensions: int, place: int) -> _Checked:
    match change:
        case Upsert(document, keep_vector):
            check_numbers(document, f"changes[{place}]")
            given = document.vector
            vector = None if given is None else unit(given, dimensions, f"changes[{place}].vector")
            return _Put(document, vector, keep_vector and given is None, texts_digest(document))
        case SetVector(product_id, vector):
            return SetVector(product_id, unit(vector, dimensions, f"changes[{place}].vector"))
        case Delete():
            return change


def _make(draft: Draft, change: _Checked) -> None:
    match change:
        case _Put(document, vector, keep_vector, digest):
            number = draft.put(document, digest, partial(weighed, document))
            if not keep_vector:
                draft.set_vector(number, vector)
        case SetVector(product_id, vector):
            there = draft.number(product_id)
            if there is not None:
                draft.set_vector(there, vector)
        case Delete(product_id):
            draft.delete(product_id)


def _product_id(change: _Checked) -> str:
    return change.document.product_id if isinstance(change, _Put) else change.product_id


def _too_dead(live: int, all_there: int) -> bool:
    return all_there > FLAT_ROWS_MAX and all_there - live > DEAD_SHARE_MAX * all_there
