"""What a recommendation rests on: what the user liked for long, what they do now, the product it is shown beside."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock.recommendations.catalogue import Catalogue
from penstock.recommendations.interactions import Doubles, Floats
from penstock.recommendations.model import BehaviourModel
from penstock.recommendations.scoring import (
    BehaviourScores,
    Products,
    behaviour_scores,
    products,
    standardised,
    units,
)
from penstock.recommendations.text_map import TextMap
from penstock.recommendations.user import Profile

TEXT_PRODUCTS = 20  # of a profile, whose texts say what else it may like
# A product's own behaviour is believed n ÷ (n + this) after n interactions, its text the rest.
TEXT_PRIOR_INTERACTIONS = 10.0
FOLLOWED = frozenset({"session", "product"})


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of them, with what is needed to score products by it. There is a `behaviour`, a `text`, or both."""

    name: str  # as in Weights
    profile: Profile
    placed: Products  # those of the profile
    behaviour: BehaviourScores | None
    texts: Floats | None  # (at most TEXT_PRODUCTS, d) of the profile's first products, where they are needed
    text: Floats | None  # (d,) the direction of these, by the profile's weights
    belief: float  # share of behaviour in its scores, the rest is of text

    def scores(self, candidates: Products, *, among_candidates: bool) -> Doubles:
        """How well each candidate fits, standardised; see scoring."""
        scores = np.zeros(len(candidates))
        if self.behaviour is not None and self.belief > 0:
            fit = self.behaviour.of(candidates)
            scores += self.belief * (standardised(fit) if among_candidates else fit)
        if self.belief < 1 and self.text is not None and candidates.texts is not None:
            scores += (1.0 - self.belief) * standardised((candidates.texts @ self.text).astype(np.float64))
        return scores


def parts_of(
    profiles: Mapping[str, Profile], model: BehaviourModel, text_map: TextMap | None, catalogue: Catalogue
) -> dict[str, Part]:
    """The parts that there are, by name: without those of which neither behaviour nor text says anything."""
    placed = {
        name: products(profile.ids, model, text_map, catalogue, texts=False) for name, profile in profiles.items()
    }
    parts: dict[str, Part] = {}
    for name, profile in profiles.items():
        behaviour = behaviour_scores(model, profile, placed[name], follows=name in FOLLOWED)
        needs_text = behaviour is None or text_map is not None or name == "product"
        texts = catalogue.text_vectors(profile.ids[:TEXT_PRODUCTS]) if needs_text else None
        text = _direction(profile, texts) if texts is not None else None
        if behaviour is not None or text is not None:
            belief = _belief(name, placed[name], model, behaviour, text)
            parts[name] = Part(name, profile, placed[name], behaviour, texts, text, belief)
    return parts


def _belief(
    name: str, placed: Products, model: BehaviourModel, behaviour: BehaviourScores | None, text: Floats | None
) -> float:
    """A user is what they did, wherever that can be placed: means of texts rank below popularity (MovieLens-100K, HR@10
    .035 and .086). A product is what it says, too, until enough was done with it."""
    if behaviour is None:
        return 0.0
    if name != "product" or text is None:
        return 1.0
    row = int(placed.rows[0])
    count = float(model.counts[row]) if row >= 0 else 0.0
    return count / (count + TEXT_PRIOR_INTERACTIONS)


def _direction(profile: Profile, texts: Floats) -> Floats | None:
    direction = profile.weights[: len(texts)].astype(np.float32) @ texts
    return units(direction[None, :])[0] if direction.any() else None
