"""The index of one tenant's products in memory: by words, by vectors, by what they are.

A pure library: it knows no storage, no wire and no event loop. Its calls block and may come from any thread.
"""

from penstock.search.index.base import Kind
from penstock.search.index.build import BuildStopped
from penstock.search.index.document import Change, Delete, Document, Number, SetVector, Upsert, Vectors
from penstock.search.index.encoded import combined, text_to_encode, texts_to_encode
from penstock.search.index.facets import FacetCounts, FacetValue, NumberRange, Range
from penstock.search.index.filter import (
    Between,
    Category,
    Condition,
    Except,
    Filter,
    InStock,
    Keywords,
    Matches,
    Only,
)
from penstock.search.index.hybrid import HybridHits
from penstock.search.index.order import Order
from penstock.search.index.planner import Hits, Nearest, Plan, PlanKind
from penstock.search.index.snapshot import SnapshotUnusable
from penstock.search.index.status import BuildState, IndexStatus, Recall
from penstock.search.index.tenant_index import TenantIndex
from penstock.search.index.version import IndexVersion, LexicalHits

__all__ = [
    "Between",
    "BuildState",
    "BuildStopped",
    "Category",
    "Change",
    "Condition",
    "Delete",
    "Document",
    "Except",
    "FacetCounts",
    "FacetValue",
    "Filter",
    "Hits",
    "HybridHits",
    "InStock",
    "IndexStatus",
    "IndexVersion",
    "Keywords",
    "Kind",
    "LexicalHits",
    "Matches",
    "Nearest",
    "Number",
    "NumberRange",
    "Only",
    "Order",
    "Plan",
    "PlanKind",
    "Range",
    "Recall",
    "SetVector",
    "SnapshotUnusable",
    "TenantIndex",
    "Upsert",
    "Vectors",
    "combined",
    "text_to_encode",
    "texts_to_encode",
]
