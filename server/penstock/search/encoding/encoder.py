"""What an encoder is: text (or an image) in, a unit vector out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from penstock.errors import Conflict

Vectors = npt.NDArray[np.float32]
"""Shape (n, dimensions), C-contiguous, every row of length 1: their inner product is their cosine."""


class Encoder(Protocol):
    """Turns texts into vectors. Blocking; any number of threads may call it at the same time."""

    @property
    def name(self) -> str:
        """Identifies the vectors: it changes whenever they would, and vectors of two names never meet."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row a text, in their order; a row does not depend on what else is encoded with it.

        An empty text has a vector, too. What is past the model's bound of a text's length is not read. Raises Conflict
        (ENCODER_UNUSABLE) when the weights give something that has no direction.
        """


class ImageEncoder(Protocol):
    """Turns images into vectors that may be compared with those of texts of the same name."""

    @property
    def name(self) -> str:
        """As `Encoder.name`."""

    @property
    def dimensions(self) -> int:
        """As `Encoder.dimensions`."""

    def encode_images(self, images: Sequence[bytes]) -> Vectors:
        """One row an image file (JPEG, PNG, WebP …), in their order.

        Raises InvalidInput for what is not an image or has too many pixels, Conflict as `Encoder.encode`.
        """


def unit_length(raw: Vectors, weights: Path) -> Vectors:
    """Rows of `raw` (n, d), which `weights` gave, by their length. Raises Conflict where that is 0 or not finite."""
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise unusable(f"{weights} gives vectors without a direction; export it again")
    return np.ascontiguousarray(raw / lengths, dtype=np.float32)


def unusable(message: str) -> Conflict:
    """The encoder cannot be used as it is installed. `message` names what is wrong and what mends it."""
    return Conflict(message, reason="ENCODER_UNUSABLE")
