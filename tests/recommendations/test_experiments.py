"""Who is in which variant."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from penstock.errors import InvalidInput
from penstock.recommendations.experiments import (
    Assignment,
    Experiment,
    Variant,
    assign,
    parameters_for,
)
from penstock.recommendations.parameters import Context, Overrides, Parameters

USERS = [f"user-{place}" for place in range(20_000)]
ONE = Experiment("colours", (Variant("red", 1.0), Variant("green", 2.0), Variant("blue", 5.0)))


def shares(experiment: Experiment) -> Counter[str]:
    return Counter(assign(experiment, user).name for user in USERS)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.0, 5.0), (0.01, 0.99), (1e6, 1e6, 1e6, 1e6)])
def test_users_are_spread_by_weight(weights: tuple[float, ...]) -> None:
    experiment = Experiment("spread", tuple(Variant(f"v{place}", weight) for place, weight in enumerate(weights)))
    found = shares(experiment)
    expected = [len(USERS) * weight / sum(weights) for weight in weights]
    assert chisquare([found[f"v{place}"] for place in range(len(weights))], expected).pvalue > 0.001


def test_experiments_are_independent_of_each_other() -> None:
    other = Experiment("shapes", ONE.variants)
    both = Counter((assign(ONE, user).name, assign(other, user).name) for user in USERS)
    weights = {variant.name: variant.weight / 8 for variant in ONE.variants}
    pairs = [(one, two) for one in weights for two in weights]
    expected = [len(USERS) * weights[one] * weights[two] for one, two in pairs]
    assert chisquare([both[pair] for pair in pairs], expected).pvalue > 0.001


@given(st.text(min_size=1, max_size=20))
def test_a_user_stays_and_the_order_of_the_variants_is_nothing(user: str) -> None:
    turned = Experiment(ONE.name, ONE.variants[::-1])
    assert assign(ONE, user).name == assign(ONE, user).name == assign(turned, user).name


def test_assignment_does_not_change_between_releases() -> None:
    assert [assign(ONE, user).name for user in USERS[:8]] == [
        "green",
        "blue",
        "blue",
        "blue",
        "blue",
        "green",
        "blue",
        "red",
    ]


@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_a_changed_weight_moves_no_more_users_than_it_must(weight: float) -> None:
    changed = Experiment(ONE.name, (Variant("red", weight), *ONE.variants[1:]))
    moved = Counter(
        (before, after)
        for before, after in ((assign(ONE, user).name, assign(changed, user).name) for user in USERS)
        if before != after
    )
    assert moved
    place = 0 if weight < 1 else 1  # red gives, or it takes
    assert {pair[place] for pair in moved} == {"red"}
    assert abs(shares(ONE)["red"] - shares(changed)["red"]) == moved.total()


def test_parameters_follow_the_variants() -> None:
    loud = Experiment("loud", (Variant("a", 1.0, Overrides(session=0.9)), Variant("b", 1.0, Overrides(session=0.9))))
    search = Experiment("only-search", loud.variants, Context.SEARCH)
    parameters, assigned = parameters_for([search, loud], "user-1", Context.FEED, Parameters())
    assert parameters.shares[Context.FEED].session == 0.9
    assert assigned == (Assignment("loud", assign(loud, "user-1").name),)
    assert len(parameters_for([search, loud], "user-1", Context.SEARCH, Parameters())[1]) == 2


def test_nobody_is_in_no_experiment() -> None:
    parameters = Parameters()
    assert parameters_for([ONE], "", Context.FEED, parameters) == (parameters, ())


@pytest.mark.parametrize(
    "variants",
    [
        (),
        (Variant("a", 1.0),),
        (Variant("a", 1.0), Variant("a", 1.0)),
        (Variant("a", 0.0), Variant("b", 1.0)),
        (Variant("a", float("nan")), Variant("b", 1.0)),
        tuple(Variant(f"v{place}", 1.0) for place in range(11)),
    ],
)
def test_what_is_no_experiment_is_refused(variants: tuple[Variant, ...]) -> None:
    with pytest.raises(InvalidInput):
        Experiment("none", variants)
