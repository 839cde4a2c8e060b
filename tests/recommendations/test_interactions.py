"""Columns of interactions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.recommendations.interactions import Interaction, Interactions

ROWS = st.lists(
    st.builds(
        Interaction,
        st.sampled_from(["u", "v", "w"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([-1.0, 0.25, 0.5, 1.0]),  # exact in 32 bits
        st.integers(0, 10**6).map(float),
    ),
    max_size=30,
)


def rows_of(interactions: Interactions) -> list[Interaction]:
    columns = (interactions.user, interactions.product, interactions.weight, interactions.time)
    return [
        Interaction(interactions.users[user], interactions.products[product], weight, time)
        for user, product, weight, time in zip(*(column.tolist() for column in columns), strict=True)
    ]


@given(ROWS)
def test_columns_hold_the_rows_by_user_and_time(rows: list[Interaction]) -> None:
    assert rows_of(Interactions.of(rows)) == sorted(rows, key=lambda row: (row.user_id, row.time))  # stable, both


@given(ROWS, st.integers(0, 40))
def test_the_newest_are_kept(rows: list[Interaction], most: int) -> None:
    kept = rows_of(Interactions.of(rows).newest(most))
    assert len(kept) == min(most, len(rows))
    times = sorted((row.time for row in rows), reverse=True)
    assert sorted((row.time for row in kept), reverse=True) == times[:most]


@given(ROWS.filter(len), st.floats(0.1, 1000))
def test_what_is_older_has_decayed_further(rows: list[Interaction], half_life_days: float) -> None:
    interactions = Interactions.of(rows)
    left = interactions.decay(half_life_days)[np.argsort(interactions.time)]
    assert left[-1] == 1.0
    assert (np.diff(left) >= 0).all()
    assert (left >= 0).all()


def test_half_is_left_after_the_half_life() -> None:
    rows = [Interaction("u", "a", 1.0, 0.0), Interaction("u", "b", 1.0, 10 * 86_400.0)]
    assert Interactions.of(rows).decay(10.0).tolist() == [0.5, 1.0]


def test_timestamps_are_seconds() -> None:
    columns = {"user_id": ["u"], "product_id": ["a"], "weight": [1.0]}
    for type in (pa.timestamp("us", "UTC"), pa.timestamp("ms"), pa.timestamp("ns")):
        table = pa.table({**columns, "time": pa.array([1_700_000_000_250], pa.timestamp("ms")).cast(type)})
        assert Interactions.from_arrow(table).time.tolist() == [1_700_000_000.25]


def test_dictionaries_and_chunks_are_read_like_strings() -> None:
    one = pa.table({"user_id": ["v", "u"], "product_id": ["b", "a"], "weight": [1.0, 1.0], "time": [2.0, 1.0]})
    both = pa.concat_tables([one, one])
    coded = both.set_column(1, "product_id", both["product_id"].dictionary_encode())
    assert rows_of(Interactions.from_arrow(coded)) == rows_of(Interactions.from_arrow(both))
    assert len(Interactions.from_arrow(coded)) == 4


@pytest.mark.parametrize("column", ["user_id", "product_id", "weight", "time"])
def test_nulls_are_refused(column: str) -> None:
    table = pa.table({"user_id": ["u"], "product_id": ["a"], "weight": [1.0], "time": [1.0]})
    place = table.column_names.index(column)
    table = table.set_column(place, column, pa.nulls(1, table[column].type))
    with pytest.raises(ValueError, match="nulls"):
        Interactions.from_arrow(table)


def test_what_is_not_finite_is_refused() -> None:
    table = pa.table({"user_id": ["u"], "product_id": ["a"], "weight": [float("nan")], "time": [1.0]})
    with pytest.raises(ValueError, match="finite"):
        Interactions.from_arrow(table)
