"""How texts are put together into runs."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock.search.encoding.tokens import groups


@given(lengths=st.lists(st.integers(0, 300)), padded_max=st.integers(1, 600))
def test_groups(lengths: list[int], padded_max: int) -> None:
    found = list(groups(lengths, padded_max))
    flat = [position for group in found for position in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert all(lengths[left] <= lengths[right] for left, right in pairwise(flat))
    for group in found:
        assert len(group) == 1 or len(group) * lengths[group[-1]] <= padded_max
    for group, following in pairwise(found):  # none is cut short without need
        assert (len(group) + 1) * lengths[following[0]] > padded_max
