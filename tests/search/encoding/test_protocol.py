"""What holds for every encoder."""

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.search.encoding import Encoder, Vectors

TEXTS = [
    "red running shoes",
    "",
    "A solid oak dining table for six people, with two leaves that extend it to 220 cm.",
    "x" * 10_000,
    "torque wrench 1/2\" " * 500,
    "   \t\n ",
    "Ölgemälde 日本語 العربية 🙂👩‍👩‍👧 \u0000 \u200b \ufffd",
    "half of a pair: \ud83d",
    "ﷺ" * 300,
]  # fmt: skip


@pytest.fixture(scope="session", params=["minilm", "clip", "clip_of_fixed_width"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return cast(Encoder, request.getfixturevalue(request.param))


def same(left: Vectors, right: Vectors) -> bool:
    return bool(np.allclose(left, right, atol=1e-5))


def test_shape_type_and_length(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimensions)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.name


def test_no_texts_have_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_the_same_again(encoder: Encoder) -> None:
    assert np.array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))


def test_different_texts_differ(encoder: Encoder) -> None:
    first, second = encoder.encode(["red running shoes", "oak table"])
    assert first @ second < 0.99


def test_a_text_is_encoded_as_if_it_were_alone(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert same(encoder.encode([text])[0], vector), text[:40]


@settings(max_examples=15)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=12), data=st.data())
def test_order_does_not_matter(encoder: Encoder, texts: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    assert same(encoder.encode([texts[row] for row in order]), encoder.encode(texts)[order])


def test_many_threads_at_the_same_time(encoder: Encoder) -> None:
    calls = [TEXTS[start:] for start in range(4)] * 4
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(encoder.encode, calls))
    expected = encoder.encode(TEXTS)
    for index, vectors in enumerate(found):
        assert same(vectors, expected[index % 4 :])
