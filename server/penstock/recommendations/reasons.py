"""Why a product is recommended: the part that moved it up most, and the product in it that did."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from penstock.recommendations.interactions import Doubles
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.parts import FOLLOWED, Part
from penstock.recommendations.scoring import BehaviourScores, Products, units


class ReasonKind(StrEnum):
    """What weighed most."""

    LIKED_BEFORE = "liked_before"
    LIKED_NOW = "liked_now"
    FITS_QUERY = "fits_query"
    LIKE_PRODUCT = "like_product"
    IN_CATEGORY = "in_category"
    POPULAR = "popular"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Reason:
    """Of one product."""

    kind: ReasonKind
    product_id: str = ""  # that it is recommended because of; empty when that is not one product


KINDS: Mapping[str, ReasonKind] = {
    "long_term": ReasonKind.LIKED_BEFORE,
    "session": ReasonKind.LIKED_NOW,
    "query": ReasonKind.FITS_QUERY,
    "product": ReasonKind.LIKE_PRODUCT,
}


def reasons(
    items: Products, weighted: Mapping[str, Doubles], parts: Mapping[str, Part], model: BehaviourModel
) -> list[Reason]:
    """For each item; `weighted` holds what each part gave to it. A tie goes to the part that comes first."""
    names = list(weighted)
    most = np.argmax(np.stack([weighted[name] for name in names]), axis=0)
    won = {names[part] for part in most.tolist()}
    because = {name: _because(items, parts[name], model) for name in won & set(parts)}
    return [
        Reason(KINDS[names[part]], because[names[part]][place] if names[part] in because else "")
        for place, part in enumerate(most.tolist())
    ]


def _because(items: Products, part: Part, model: BehaviourModel) -> list[str]:
    """The liked product of the part's profile that gave most to each item; empty where none gave anything."""
    given = np.zeros((len(part.profile.ids), len(items)))
    if part.behaviour is not None and part.belief > 0:
        given += part.belief * _by_behaviour(items, part, part.behaviour, model)
    if part.belief < 1 and items.texts is not None and part.texts is not None:
        given[: len(part.texts)] += (1.0 - part.belief) * (part.texts @ items.texts.T)
    given = np.where(part.profile.weights[:, None] > 0, given * part.profile.weights[:, None], 0.0)
    best = given.argmax(axis=0)
    return [part.profile.ids[row] if given[row, place] > 0 else "" for place, row in enumerate(best.tolist())]


def _by_behaviour(items: Products, part: Part, behaviour: BehaviourScores, model: BehaviourModel) -> Doubles:
    """What a weight of 1 on each product of the profile gives to each item: the scores are sums of these."""
    given: Doubles = behaviour.likeness_gain * (units(part.placed.vectors) @ items.vectors.T).astype(np.float64)
    if part.name in FOLLOWED:
        given += behaviour.following_gain * model.neighbours.between(part.placed.rows, items.rows)
    return given
