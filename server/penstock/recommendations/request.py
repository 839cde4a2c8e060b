"""What is asked of a ranking."""

from dataclasses import dataclass

from penstock.errors import invalid_field
from penstock.recommendations.interactions import Doubles
from penstock.recommendations.parameters import Context


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What the search found for the query, the best first."""

    ids: tuple[str, ...]
    scores: Doubles  # higher is better, on any scale

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.scores):
            raise ValueError("ids and scores are of one length")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One. Raises InvalidInput when the query or the product is missing where the context needs it."""

    context: Context
    limit: int
    query: Hits | None = None  # for SEARCH
    product_id: str | None = None  # for SIMILAR
    exclude: frozenset[str] = frozenset()
    include_seen: bool = False

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise invalid_field("limit", "must be from 0 on")
        if self.context is Context.SEARCH and self.query is None:
            raise invalid_field("query", "is required for SEARCH")
        if self.context is Context.SIMILAR and not self.product_id:
            raise invalid_field("product_id", "is required for SIMILAR")
