"""What a search asks for, and what it finds, in the terms of the area."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from penstock.search.index import FacetCounts, Filter, NumberRange, Order, Plan


class Mode(Enum):
    """How results are found."""

    HYBRID = "hybrid"
    LEXICAL = "lexical"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Query:
    """One search."""

    text: str = ""
    filter: Filter = field(default_factory=Filter)
    limit: int = 20
    offset: int = 0
    order: Order | None = None  # None: by relevance; without a text, as one browses
    facets: tuple[str, ...] = ()
    mode: Mode = Mode.HYBRID
    explain: bool = False
    shown: tuple[str, ...] = ()  # by the pages before, `offset` of them; a first page at an offset has none


@dataclass(frozen=True, slots=True)
class Why:
    """Why a product was found."""

    lexical: float | None  # 0 to 1; None: no word of the query is in it
    similarity: float | None  # cosine; None: not compared
    exact: bool
    matched_terms: Sequence[str]

    @property
    def text(self) -> str:
        """The same in a sentence."""
        if self.exact:
            return "its id, SKU or model is the query"
        parts = []
        if self.matched_terms:
            parts.append(f"it has {', '.join(self.matched_terms)}")
        if self.similarity is not None:
            parts.append(f"its text is {self.similarity:.0%} like the query")
        return " and ".join(parts) or "it passes the filters"


@dataclass(frozen=True, slots=True)
class Item:
    """A product that was found."""

    product_id: str
    score: float
    why: Why | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """One facet: the commonest values, or of numbers the ranges."""

    name: str
    values: FacetCounts | NumberRange


@dataclass(slots=True)
class Timings:
    """Milliseconds by stage."""

    encode: float = 0.0
    filter: float = 0.0
    lexical: float = 0.0
    vector: float = 0.0
    rank: float = 0.0
    facets: float = 0.0


@dataclass(frozen=True, slots=True)
class HowFound:
    """How products were compared."""

    kind: str
    reason: str
    matches: int
    candidates: int

    @classmethod
    def of(cls, plan: Plan, matches: int) -> "HowFound":
        """From the index's own plan."""
        return cls(plan.kind.value, plan.reason, matches, plan.candidates)


@dataclass(frozen=True, slots=True)
class Found:
    """What one search found."""

    items: Sequence[Item]
    total: int
    facets: Sequence[Counted]
    plan: HowFound
    timings: Timings
    more: bool  # whether there are results behind the last
    reason: str  # why there are none; empty when there are
