"""A place among products with behaviour for those without: learnt from products that have both text and behaviour.

Ridge regression from the text's vector to the behaviour's, each product counting by how much behaviour it has
(attribute-to-factor mapping: Gantner et al., Learning Attribute-to-Feature Mappings for Cold-Start Recommendations,
2010). The penalty is the one that predicts a held-out fifth of the products best; if even that predicts no better than
the mean, text says nothing of behaviour, and there is no map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from penstock.recommendations.interactions import Doubles, Floats
from penstock.recommendations.model import BehaviourModel

FIT_PRODUCTS_MAX = 20_000  # those with the most behaviour: 384 numbers are known long before
FIT_PRODUCTS_MIN = 20
COUNT_MAX = 50.0  # interactions from which on a product's vector is as good as it gets
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # in units of the mean of what they are added to
FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class TextMap:
    """From d numbers of text to f factors."""

    matrix: Floats  # (d, f)
    text_mean: Floats  # (d,)
    vector_mean: Floats  # (f,)
    gain: float  # share of the variance of held-out products that it predicts, in (0, 1]

    def vectors(self, texts: Floats) -> Floats:
        """(m, d) → (m, f); all 0 where the text is, and for texts of another encoder: of these nothing was learnt."""
        if texts.shape[1:] != self.text_mean.shape:
            return np.zeros((len(texts), len(self.vector_mean)), np.float32)
        mapped: Floats = (self.vector_mean + (texts - self.text_mean) @ self.matrix).astype(np.float32)
        mapped[~texts.any(axis=1)] = 0.0
        return mapped


def fit(model: BehaviourModel, texts: Callable[[Sequence[str]], Floats]) -> TextMap | None:
    """Learns the map, or None where there is too little or nothing to learn; `texts` is as `Catalogue.text_vectors`."""
    known = np.flatnonzero(model.vectors.any(axis=1))
    known = known[np.argsort(-model.counts[known], kind="stable")][:FIT_PRODUCTS_MAX]
    if len(known) < FIT_PRODUCTS_MIN:
        return None
    read = texts([model.products[place] for place in known.tolist()])
    has_text = read.any(axis=1)
    if has_text.sum() < FIT_PRODUCTS_MIN:
        return None
    known, text = known[has_text], read[has_text].astype(np.float64)
    vectors: Doubles = model.vectors[known].astype(np.float64)
    counts: Doubles = np.minimum(model.counts[known], COUNT_MAX).astype(np.float64)
    weight = counts / counts.mean()
    with threadpool_limits(1, "blas"):
        penalty, gain = _best_penalty(text, vectors, weight)
        if gain <= 0:
            return None
        matrix, text_mean, vector_mean = _ridge(text, vectors, weight, penalty)
    return TextMap(
        matrix.astype(np.float32), text_mean.astype(np.float32), vector_mean.astype(np.float32), min(gain, 1.0)
    )


def _best_penalty(text: Doubles, vectors: Doubles, weight: Doubles) -> tuple[float, float]:
    """The penalty, and the share of the held-out variance that is predicted with it."""
    held = np.arange(len(text)) % FOLDS == 0  # they are in the order of their counts: every fifth is a fair choice
    gains = []
    for penalty in PENALTIES:
        matrix, text_mean, vector_mean = _ridge(text[~held], vectors[~held], weight[~held], penalty)
        off = vectors[held] - vector_mean
        left = off - (text[held] - text_mean) @ matrix
        gains.append(1.0 - float((weight[held] @ left**2).sum() / (weight[held] @ off**2).sum()))
    best = int(np.argmax(gains))
    return PENALTIES[best], gains[best]


def _ridge(text: Doubles, vectors: Doubles, weight: Doubles, penalty: float) -> tuple[Doubles, Doubles, Doubles]:
    text_mean: Doubles = weight @ text / weight.sum()
    vector_mean: Doubles = weight @ vectors / weight.sum()
    centred = text - text_mean
    weighted = centred * weight[:, None]
    square = centred.T @ weighted
    square[np.diag_indices_from(square)] += penalty * max(float(np.trace(square)) / len(square), 1e-12)
    matrix: Doubles = np.linalg.solve(square, weighted.T @ (vectors - vector_mean)).astype(np.float64)
    return matrix, text_mean, vector_mean
