"""What is known of a product to find it by, and the changes that the index takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from penstock.errors import invalid_field

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Number(StrEnum):
    """What products have as a number, for ranges, facets and order."""

    PRICE = "price"
    RATING = "rating"
    REVIEW_COUNT = "review_count"
    QUALITY = "quality"
    STOCK = "stock"
    CREATED = "created"
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Document:
    """One product, as the index knows it."""

    product_id: str
    title: str
    description: str = ""
    brand: str = ""
    """Words to find it by; to filter by brand, `keywords` has it too."""
    labels: str = ""
    """Other short words: categories, colour, size, materials."""
    codes: tuple[str, ...] = ()
    """SKU, model and the like. A query that is one of them, or the product's id, finds the product first."""
    numbers: Mapping[Number, float] = field(default_factory=dict)
    """Those that are known."""
    in_stock: bool = True
    is_active: bool = True
    """What is not active is kept and never found."""
    keywords: Mapping[str, str] = field(default_factory=dict)
    """What can be filtered by and counted, by name; empty values are as if absent."""
    category_path: tuple[str, ...] = ()
    """From the root down."""
    vector: Vectors | None = None
    """(dimensions,), of any length but 0: only its direction counts. None: not encoded yet."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """The product is this now."""

    document: Document
    keep_vector: bool = False
    """A document without a vector keeps the one that the product has."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The product is gone."""

    product_id: str


@dataclass(frozen=True, slots=True)
class SetVector:
    """The product has been encoded; of a product that is gone meanwhile it changes nothing."""

    product_id: str
    vector: Vectors


Change = Upsert | Delete | SetVector


def unit(vector: Vectors, dimensions: int, name: str = "vector") -> Vectors:
    """The vector of length 1 in its direction.

    Raises InvalidInput (INVALID_VECTOR) when it is not of so many finite numbers, or has no direction.
    """
    made = np.asarray(vector, np.float64)
    if made.shape != (dimensions,):
        raise invalid_field(name, f"{dimensions} numbers are needed, not {made.shape}", reason="INVALID_VECTOR")
    if not np.isfinite(made).all():
        raise invalid_field(name, "every number must be finite", reason="INVALID_VECTOR")
    # In float64 no square of a float32 overflows or vanishes.
    length = float(np.sqrt(made @ made))
    if length == 0.0:
        raise invalid_field(name, "a vector of zeros has no direction", reason="INVALID_VECTOR")
    return (made / length).astype(np.float32)


def units(vectors: Vectors, dimensions: int, name: str = "vectors") -> Vectors:
    """(n, dimensions): each as `unit` makes it; an error names the one."""
    made = np.asarray(vectors, np.float64)
    if made.ndim == 2 and made.shape[1] == dimensions:
        # The square of a length is finite and not 0 where `unit` has nothing to say against a vector of float32.
        squares = np.einsum("nd,nd->n", made, made)
        if np.isfinite(squares).all() and squares.all():
            unit_vectors: Vectors = (made / np.sqrt(squares)[:, None]).astype(np.float32)
            return unit_vectors
    return np.stack([unit(vector, dimensions, f"{name}[{row}]") for row, vector in enumerate(vectors)])


def texts_digest(document: Document) -> int:
    """64 bits that differ when what lexical search reads does."""
    texts = (document.title, document.description, document.brand, document.labels, *document.codes)
    digest = blake2b("\x00".join(texts).encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def check_numbers(document: Document, name: str) -> None:
    """Raises InvalidInput when a number is not finite: what is not known is absent."""
    for number, value in document.numbers.items():
        if not np.isfinite(value):
            raise invalid_field(f"{name}.{number}", "it must be finite, or absent")
