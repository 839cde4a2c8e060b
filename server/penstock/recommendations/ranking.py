"""Ranks products for a user: what fits what is known of them, in the shares of the context, and says why.

Parts of the context of which nothing is known give their shares to the others. If nothing is known of any, the first of
these is taken: what the user does now, what they have liked for long, what others like. What a list still lacks is
filled with what is popular, then with what is new; these have scores below all others, from -1 and from -2 down.
"""

from dataclasses import dataclass

import numpy as np

from penstock.recommendations.basis import Basis, basis_of
from penstock.recommendations.candidates import candidates, popular, without
from penstock.recommendations.catalogue import Catalogue
from penstock.recommendations.diversity import diversified
from penstock.recommendations.interactions import Doubles, Floats
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.parameters import Context, Parameters, Weights
from penstock.recommendations.reasons import Reason, ReasonKind, reasons
from penstock.recommendations.request import Request
from penstock.recommendations.scoring import Products, products
from penstock.recommendations.text_map import TextMap
from penstock.recommendations.user import UserState

POOL_MIN = 100  # of the best products, among which diversity chooses; twice the limit where that is more
DEFAULT = Parameters()


@dataclass(frozen=True, slots=True)
class Ranked:
    """One product of a ranking."""

    product_id: str
    score: float  # what it is ranked by, fit and diversity: from 1 to -1; below that what only fills up
    reason: Reason


@dataclass(frozen=True, slots=True)
class Ranking:
    """Products, the best first."""

    items: tuple[Ranked, ...]
    weights: Weights  # the shares that were used: they sum to 1, or are all 0 when there was nothing to go by
    session_size: int  # products that the user touched in the session
    history_size: int  # … and at any time
    reason: str  # why there are fewer than were asked for, or others; empty when all is well


def rank(
    model: BehaviourModel,
    text_map: TextMap | None,
    catalogue: Catalogue,
    user: UserState,
    request: Request,
    parameters: Parameters = DEFAULT,
) -> Ranking:
    """At most `request.limit` products for the user.

    None twice, none that is excluded or not allowed, none that the user has seen unless the request includes these. The
    same arguments give the same ranking. Blocking: some 2 ms with a model of 100,000 products.
    """
    touched = {*user.history.ids, *user.session.ids}
    excluded = request.exclude | ({request.product_id} if request.product_id else frozenset())
    if not request.include_seen:
        excluded = excluded | touched | user.seen
    basis = basis_of(model, text_map, catalogue, user, request, excluded, parameters)
    if basis.weights.popularity:
        items = _popular(model, catalogue, request, excluded, parameters.diversity)
    else:
        items = _fitting(model, text_map, catalogue, basis, request, excluded, parameters.diversity)
    weights = Weights() if basis.weights.popularity and not items else basis.weights
    items += _filling(model, catalogue, excluded.union(item.product_id for item in items), request.limit - len(items))
    why = _why(weights, parameters.shares[request.context], len(items), request.limit)
    return Ranking(tuple(items), weights, len(set(user.session.ids)), len(touched), why)


def _fitting(
    model: BehaviourModel,
    text_map: TextMap | None,
    catalogue: Catalogue,
    basis: Basis,
    request: Request,
    excluded: frozenset[str],
    diversity: float,
) -> list[Ranked]:
    """What fits the parts of the basis."""
    if not request.limit:
        return []
    pool = max(POOL_MIN, 2 * request.limit)
    if basis.query is not None:
        ids = basis.query.ids
    else:
        ids = candidates(model, catalogue, lambda: basis.fit(model), basis.text, excluded, pool)
    if not ids:
        return []
    found = products(ids, model, text_map, catalogue, texts=basis.reads_texts)
    weighted = basis.weighted(found)
    fit: Doubles = np.sum(list(weighted.values()), axis=0)
    best = np.argsort(-fit, kind="stable")[:pool]
    places, scores = diversified(fit[best], _likeness_vectors(found.take(best)), request.limit, diversity)
    chosen = best[places]
    given = {name: values[chosen] for name, values in weighted.items()}
    why = reasons(found.take(chosen), given, {part.name: part for part in basis.parts}, model)
    return [
        Ranked(found.ids[place], score, reason)
        for place, score, reason in zip(chosen.tolist(), scores.tolist(), why, strict=True)
    ]


def _popular(
    model: BehaviourModel, catalogue: Catalogue, request: Request, excluded: frozenset[str], diversity: float
) -> list[Ranked]:
    """What others like, where nothing is known of the user: by logarithm, or one hit would make all others equal."""
    ids = popular(model, catalogue, excluded, max(POOL_MIN, 2 * request.limit))
    rows = model.rows(ids)
    fit = np.log1p(model.popularity[rows].astype(np.float64))
    places, scores = diversified(fit, model.vectors[rows], request.limit, diversity)
    kind = ReasonKind.IN_CATEGORY if request.context is Context.CATEGORY else ReasonKind.POPULAR
    return [
        Ranked(ids[place], score, Reason(kind)) for place, score in zip(places.tolist(), scores.tolist(), strict=True)
    ]


def _filling(model: BehaviourModel, catalogue: Catalogue, excluded: frozenset[str], missing: int) -> list[Ranked]:
    """What is popular, then what is new, for as many places as are left."""
    if missing <= 0:
        return []
    liked = popular(model, catalogue, excluded, missing)
    most = float(model.popularity.max()) if liked else 1.0
    items = [
        Ranked(product, -2.0 + float(model.popularity[row]) / most, Reason(ReasonKind.POPULAR))
        for product, row in zip(liked, model.rows(liked).tolist(), strict=True)
    ]
    missing -= len(items)
    if missing <= 0:
        return items
    # Those that are left out below must not take the places of others.
    out = excluded.union(liked)
    new = without(catalogue.newest(missing + len(out)), out)[:missing]
    return items + [
        Ranked(product, -2.0 - (place + 1) / len(new), Reason(ReasonKind.NEW)) for place, product in enumerate(new)
    ]


def _likeness_vectors(pool: Products) -> Floats:
    """Behaviour's vectors where all have one, otherwise texts' where they were read: the two cannot be compared."""
    if pool.texts is not None and not pool.vectors.any(axis=1).all():
        return pool.texts
    return pool.vectors


def _why(used: Weights, wanted: Weights, found: int, limit: int) -> str:
    if found < limit:
        several = f"only {found} products are" if found else "no product is"
        return f"{several} allowed that the user has not seen and the request does not exclude"
    if not any(used.by_part().values()):
        return "nothing was learnt from behaviour yet: these are new"
    if used.popularity and not wanted.popularity:
        return "nothing is known of what this rests on: these are what others like"
    if not any(share and wanted.by_part()[part] for part, share in used.by_part().items()):
        return "nothing is known of what this rests on: these are what fits the user otherwise"
    return ""
