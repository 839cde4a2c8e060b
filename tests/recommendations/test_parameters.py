"""Shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.parameters import SHARES, Context, Overrides, Parameters, Weights

PARTS = ("long_term", "session", "query", "product", "popularity")
WEIGHTS = st.builds(Weights, *[st.floats(0, 10).map(lambda share: round(share, 3))] * 5)


def test_the_shares_of_the_contexts() -> None:
    assert dict(SHARES) == {
        Context.FEED: Weights(long_term=0.6, session=0.4),
        Context.SEARCH: Weights(query=0.7, long_term=0.3),
        Context.SIMILAR: Weights(product=0.8, long_term=0.2),
        Context.CATEGORY: Weights(long_term=1.0),
    }


@given(WEIGHTS, st.frozensets(st.sampled_from(PARTS)))
def test_what_is_missing_goes_to_the_others_in_proportion(weights: Weights, parts: frozenset[str]) -> None:
    before, after = weights.by_part(), weights.among(parts).by_part()
    total = sum(before[part] for part in parts)
    assert sum(after.values()) == pytest.approx(1.0 if total else 0.0)
    for part in PARTS:
        assert after[part] * total == pytest.approx(before[part] if part in parts else 0.0)


def test_an_override_changes_one_thing_in_one_context() -> None:
    changed = Parameters().overridden(Overrides(session=0.9, diversity=0.5), Context.FEED)
    assert changed.shares[Context.FEED] == Weights(long_term=0.6, session=0.9)
    assert {each: changed.shares[each] for each in (Context.SEARCH, Context.SIMILAR, Context.CATEGORY)} == {
        each: SHARES[each] for each in (Context.SEARCH, Context.SIMILAR, Context.CATEGORY)
    }
    assert changed.diversity == 0.5
    assert Parameters().overridden(Overrides()) == Parameters()


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_a_share_is_a_number(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Weights(session=share)


@pytest.mark.parametrize("diversity", [-0.1, 1.1, float("nan")])
def test_diversity_is_a_share(diversity: float) -> None:
    with pytest.raises(ValueError, match="diversity"):
        Parameters(diversity=diversity)
