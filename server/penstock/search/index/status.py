"""How an index is."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from penstock.search.index.base import Kind


class BuildState(StrEnum):
    """What goes on beside the searches."""

    READY = "READY"
    BUILDING = "BUILDING"
    """A new base is being built."""


@dataclass(frozen=True, slots=True)
class Recall:
    """A measurement of what the base finds against comparing all."""

    at: int
    """Of so many nearest,"""
    share: float
    """this share was found, 0 to 1,"""
    queries: int
    """by so many queries."""
    time: datetime


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """How an index is, for operators."""

    state: BuildState
    version: int
    commit: int
    size: int
    """Products that can be found."""
    pending_vectors: int
    kind: Kind
    dimensions: int
    encoder: str
    base_size: int
    """Vectors in the base."""
    delta_size: int
    """Vectors that came since it was built."""
    tombstones: int
    """Vectors of both that are of no product any more."""
    memory_bytes: int
    effort: int
    """What a search of the base looks at for the ten nearest, found by measurement when it was built."""
    recall: Recall | None
    build_time: datetime | None
    build_ms: float | None
    snapshot_time: datetime | None
    snapshot_commit: int | None
    """The last commit that is in what was last written to disk."""
