"""Which user is in which variant of an experiment: always the same, decided by a hash, stored nowhere.

Weighted rendezvous hashing: each variant draws a number for the user, -ln(u) ÷ weight, where u comes from a hash of
experiment, variant and user; the smallest wins, which it does with a probability of its weight's share. So a changed
weight moves users only to the variant whose share grew, or from the one whose share shrank: none between the others,
and no more than the shares demand.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.errors import invalid_field
from penstock.recommendations.parameters import Context, Overrides, Parameters

VARIANTS_MAX = 10
CONTROL = Overrides()


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to recommend."""

    name: str
    weight: float  # > 0: its share of the users is this ÷ the sum
    overrides: Overrides = CONTROL


@dataclass(frozen=True, slots=True)
class Experiment:
    """A comparison. Raises InvalidInput when it is none: 2 to 10 variants with names of their own, weights above 0."""

    name: str
    variants: tuple[Variant, ...]
    context: Context | None = None  # None: every one

    def __post_init__(self) -> None:
        if not 2 <= len(self.variants) <= VARIANTS_MAX:
            raise invalid_field("experiment.variants", f"must be 2 to {VARIANTS_MAX}")
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise invalid_field("experiment.variants", "must have names of their own")
        if not all(0 < variant.weight < math.inf for variant in self.variants):
            raise invalid_field("experiment.variants", "must have weights above 0")


@dataclass(frozen=True, slots=True)
class Assignment:
    """That a user is in a variant."""

    experiment: str
    variant: str


def assign(experiment: Experiment, user_id: str) -> Variant:
    """The user's variant."""
    return min(experiment.variants, key=lambda variant: _draw(experiment.name, variant, user_id))


def parameters_for(
    experiments: Iterable[Experiment], user_id: str, context: Context, parameters: Parameters
) -> tuple[Parameters, tuple[Assignment, ...]]:
    """How to rank for a user in a context, and the variants that say so.

    Experiments go by name; where two change the same, the later one has it. Without a user nobody is assigned, because
    nobody could be assigned the same again.
    """
    assigned: list[Assignment] = []
    if not user_id:
        return parameters, ()
    for experiment in sorted(experiments, key=lambda each: each.name):
        if experiment.context in (None, context):
            variant = assign(experiment, user_id)
            parameters = parameters.overridden(variant.overrides, context)
            assigned.append(Assignment(experiment.name, variant.name))
    return parameters, tuple(assigned)


def _draw(experiment: str, variant: Variant, user_id: str) -> float:
    """Exponentially distributed, with a mean of 1 ÷ weight."""
    # Lengths in front keep ("a", "bc") and ("ab", "c") apart.
    text = f"{len(experiment)}:{experiment}{len(variant.name)}:{variant.name}{user_id}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return -math.log((int.from_bytes(digest) + 0.5) / 2**64) / variant.weight
