"""Made-up products, and strategies of them."""

import numpy as np
from hypothesis import strategies as st

from penstock.search.index import (
    Between,
    Category,
    Change,
    Delete,
    Document,
    Except,
    Filter,
    InStock,
    Keywords,
    Number,
    Only,
    SetVector,
    Upsert,
    Vectors,
)

DIMENSIONS = 8
WORDS = ("red", "lamp", "lamps", "chair", "oak", "steel", "garden", "desk", "usb-c", "16gb", "Ünïcode", "机器学习")

ids = st.integers(0, 11).map(lambda number: f"p{number}")
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
values = st.sampled_from(["", "Red", "red ", "BLUE", "green"])
paths = st.sampled_from([(), ("Home",), ("Home", "Lamps"), ("home", "lamps", "LED"), ("Garden",), ("Garden", "Lamps")])
# Of few different numbers, so that equal vectors and equal cosines occur.
vectors = (
    st.lists(st.integers(-2, 2), min_size=DIMENSIONS, max_size=DIMENSIONS)
    .filter(any)
    .map(lambda numbers: np.array(numbers, np.float32))
)
numbers = st.dictionaries(st.sampled_from(list(Number)), st.sampled_from([0.0, 1.0, 2.5, 4.0]))

documents = st.builds(
    Document,
    product_id=ids,
    title=texts,
    description=texts,
    brand=st.sampled_from(["", "Acme"]),
    codes=st.sampled_from([(), ("AB-12",), ("X 9",)]),
    numbers=numbers,
    in_stock=st.booleans(),
    is_active=st.sampled_from([True, True, True, False]),
    keywords=st.fixed_dictionaries({}, optional={"colour": values, "brand": values, "category_id": values}),
    category_path=paths,
    vector=st.none() | vectors,
)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(Upsert, documents, keep_vector=st.booleans()),
    st.builds(Upsert, documents, keep_vector=st.booleans()),
    st.builds(Delete, ids),
    st.builds(SetVector, ids, vectors),
)
some_ids = st.frozensets(st.integers(0, 13).map(lambda number: f"p{number}"), max_size=6)
some_values = st.lists(st.sampled_from(["RED", "blue", "Green", "violet"]), max_size=3).map(tuple)
bounds = st.none() | st.sampled_from([0.0, 1.0, 2.0, 2.5, 9.0])
conditions = st.one_of(
    st.builds(Keywords, st.sampled_from([("colour",), ("brand", "colour"), ("nothing",), ()]), some_values),
    st.builds(Category, st.lists(paths, max_size=2).map(tuple), some_values),
    st.builds(Between, st.sampled_from(list(Number)), bounds, bounds),
    st.builds(InStock, st.booleans()),
    st.builds(Only, some_ids),
    st.builds(Except, some_ids),
)
filters = st.lists(conditions, max_size=3).map(lambda each: Filter(tuple(each)))


def clustered(rows: int, dimensions: int, seed: int = 0) -> Vectors:
    """Unit vectors in clusters, as texts have them."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, rows // 100), dimensions))
    made = centres[generator.integers(0, len(centres), rows)] + 0.6 * generator.standard_normal((rows, dimensions))
    vectors: Vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return vectors
