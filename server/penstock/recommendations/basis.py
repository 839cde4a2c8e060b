"""What one ranking rests on: the parts that are there, in their shares."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock.recommendations.candidates import without
from penstock.recommendations.catalogue import Catalogue
from penstock.recommendations.interactions import Doubles, Floats
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.parameters import Parameters, Weights
from penstock.recommendations.parts import Part, parts_of
from penstock.recommendations.request import Hits, Request
from penstock.recommendations.scoring import Products, standardised, units
from penstock.recommendations.text_map import TextMap
from penstock.recommendations.user import Profile, UserState, long_term, session

HITS_MAX = 500  # of a search that are ranked, the best
FALLBACKS = ("session", "long_term")  # in this order, when nothing that the context rests on is there


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """It."""

    parts: tuple[Part, ...]  # those with a share
    query: Hits | None  # what may be recommended of it; None when the query has no share
    weights: Weights

    def share(self, part: Part) -> float:
        """That of one part."""
        return self.weights.by_part()[part.name]

    @property
    def reads_texts(self) -> bool:
        """Whether texts have a say in how well products fit."""
        return any(part.belief < 1 for part in self.parts)

    def fit(self, model: BehaviourModel) -> Floats | None:
        """How well all products of the model fit by behaviour, less a constant; None where that says nothing.

        One pass over the model's vectors, whatever the number of parts: 0.7 ms for 100,000 × 64.
        """
        used = [
            (np.float32(self.share(part) * part.belief), part.behaviour)
            for part in self.parts
            if part.behaviour is not None and part.belief > 0
        ]
        if not used:
            return None
        scores: Floats = model.vectors @ np.sum([share * behaviour.direction for share, behaviour in used], axis=0)
        for share, behaviour in used:
            scores[behaviour.followers] += share * behaviour.strengths
        return scores

    @property
    def text(self) -> Floats | None:
        """The direction of the parts' texts together; None where there is none."""
        total: Floats | None = None
        for part in self.parts:
            if part.text is not None:
                given = np.float32(self.share(part)) * part.text
                total = given if total is None else total + given
        return None if total is None or not total.any() else units(total[None, :])[0]

    def weighted(self, found: Products) -> dict[str, Doubles]:
        """What each part gives to each of the candidates; how well they fit is the sum."""
        among = self.query is not None or self.reads_texts
        given = {part.name: self.share(part) * part.scores(found, among_candidates=among) for part in self.parts}
        if self.query is not None:
            score = dict(zip(self.query.ids, self.query.scores.tolist(), strict=True))
            given["query"] = self.weights.query * standardised(np.array([score[product] for product in found.ids]))
        return given


def basis_of(
    model: BehaviourModel,
    text_map: TextMap | None,
    catalogue: Catalogue,
    user: UserState,
    request: Request,
    excluded: frozenset[str],
    parameters: Parameters,
) -> Basis:
    """What there is of the context's parts; otherwise the first of FALLBACKS; otherwise what others like."""
    shares = parameters.shares[request.context]
    wanted = {part for part, share in shares.by_part().items() if share > 0}
    query = _allowed(request.query, catalogue, excluded) if request.query is not None and "query" in wanted else None

    def there(names: set[str]) -> dict[str, Part]:
        profiles = {name: profile for name, profile in _profiles(user, request, names).items() if profile.likes}
        return parts_of(profiles, model, text_map, catalogue)

    parts = there(wanted)
    if parts or query is not None:
        weights = shares.among(frozenset(parts) | ({"query"} if query is not None else frozenset()))
        return Basis(tuple(parts.values()), query, weights)
    for name in FALLBACKS:
        parts = there({name}) if name not in wanted else {}
        if parts:
            return Basis(tuple(parts.values()), None, Weights(**{name: 1.0}))
    return Basis((), None, Weights(popularity=1.0))


def _profiles(user: UserState, request: Request, names: set[str]) -> Mapping[str, Profile]:
    found: dict[str, Profile] = {}
    if "long_term" in names:
        found["long_term"] = long_term(user.history)
    if "session" in names:
        found["session"] = session(user.session)
    if "product" in names and request.product_id:
        found["product"] = Profile((request.product_id,), np.ones(1))
    return found


def _allowed(query: Hits, catalogue: Catalogue, excluded: frozenset[str]) -> Hits | None:
    """The best hits that may be recommended, or None."""
    ids = without(query.ids, excluded)[: 2 * HITS_MAX]
    allowed = catalogue.allowed(ids).tolist() if ids else []
    kept = [product for product, is_allowed in zip(ids, allowed, strict=True) if is_allowed][:HITS_MAX]
    score = dict(zip(query.ids, query.scores.tolist(), strict=True))
    return Hits(tuple(kept), np.array([score[product] for product in kept])) if kept else None
