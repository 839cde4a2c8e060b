"""Maximal marginal relevance: what fits, but not ten times the same.

Carbonell and Goldstein (1998): at each place the product with the greatest (1 − λ) × fit − λ × (likeness to the most
alike of those before it).
"""

import numpy as np
from numpy.typing import NDArray

from penstock.recommendations.interactions import Doubles, Floats


def diversified(fit: Doubles, vectors: Floats, limit: int, diversity: float) -> tuple[NDArray[np.int64], Doubles]:
    """At most `limit` places of `fit`, in order, and the marginal relevance of each: from 1 to -1, never rising.

    `fit` is brought to 0…1 first, by its least and greatest. Likeness is the cosine of the vectors (m, f), not below
    0; a vector of all 0 is like nothing. Takes time for limit × m × f. Ties go to the earlier place.
    """
    most = min(limit, len(fit))
    span = fit.max() - fit.min() if len(fit) else 0.0
    gain = (1.0 - diversity) * ((fit - fit.min()) / span if span > 0 else np.ones_like(fit))
    if diversity == 0.0:
        chosen = np.argsort(-gain, kind="stable")[:most]
        return chosen, gain[chosen]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    places, values = np.empty(most, np.int64), np.empty(most)
    likeness = np.zeros(len(fit))
    for place in range(most):
        marginal = gain - diversity * likeness
        best = int(marginal.argmax())
        places[place], values[place] = best, marginal[best]
        likeness = np.maximum(likeness, unit @ unit[best])
        gain[best] = -np.inf
    return places, values
