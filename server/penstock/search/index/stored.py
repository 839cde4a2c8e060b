"""The parts of a version as files: FAISS's own, arrays as `.npy`, texts as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import faiss
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from penstock.search.index.base import Base, Effort, Kind, flat_of, hnsw_of, ivf_of
from penstock.search.index.columns import BETWEEN_NAMES, Columns, Keyword
from penstock.search.index.document import Number
from penstock.search.index.growing import Growing
from penstock.search.index.products import Products
from penstock.search.index.store import Store
from penstock.search.index.texts import Sealed, Texts
from penstock.search.index.version import IndexVersion

_NAMES = "names.json"
_STORE = "vectors.faiss"
_STRUCTURE = "structure.faiss"

Scalar = TypeVar("Scalar", bound=np.generic)
Arrays = dict[str, npt.NDArray[np.generic]]


class _Names(BaseModel):
    """All texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    products: list[str]
    terms: list[str]
    keywords: dict[str, list[str]]
    categories: list[str]


def write(version: IndexVersion, place: Path) -> None:
    """Writes the parts of a version into an empty folder. Raises OSError."""
    base = version.store.base
    if base.kind is not Kind.HNSW:  # a graph has its vectors in it
        faiss.write_index(base.store, str(place / _STORE))
    if base.structure is not None:
        faiss.write_index(base.structure, str(place / _STRUCTURE))
    for name, array in _arrays(version).items():
        np.save(place / f"{name}.npy", array, allow_pickle=False)
    (place / _NAMES).write_text(_names(version).model_dump_json())


def read(place: Path, number: int, commit: int, kind: Kind, effort: Effort) -> IndexVersion:
    """The version whose parts stand in a folder, its arrays mapped.

    Raises OSError, or ValueError and RuntimeError (of FAISS) when they are none.
    """
    names = _Names.model_validate_json((place / _NAMES).read_bytes())
    arrays = _Arrays(place)
    texts = _texts(arrays, names)
    store = Store(
        base=_base(place, kind, effort),
        delta=arrays.growing("delta", np.float32),
        vector_product=arrays.growing("vector_product", np.int32),
        products=Products(names.products),
        columns=_columns(arrays, names),
        texts=texts,
    )
    return IndexVersion(
        store=store,
        number=number,
        commit=commit,
        row_of=arrays.of("row_of", np.int32),
        vector_of=arrays.of("vector_of", np.int32),
        text_of=arrays.of("text_of", np.int32),
        findable=arrays.of("findable", np.bool_),
        vector_slots=len(store.vector_product),
        text_slots=len(texts),
        frequency=arrays.of("frequency", np.int32),
        sealed=texts.sealed,
        sealed_slots=texts.sealed_slots,
    )


def _arrays(version: IndexVersion) -> Arrays:
    store, columns, rows = version.store, version.columns, len(version.findable)
    texts, slots = store.texts, version.text_slots
    postings = int(texts.starts.view()[slots])
    entries = [keyword.entries(rows) for keyword in _keywords(columns)]
    arrays: Arrays = {
        "row_of": version.row_of,
        "vector_of": version.vector_of,
        "text_of": version.text_of,
        "findable": version.findable,
        "frequency": version.frequency,
        "delta": store.delta.view(version.vector_slots - len(store.base)),
        "vector_product": store.vector_product.view(version.vector_slots),
        "product": columns.product.view(rows),
        "in_stock": columns.in_stock.view(rows),
        "is_active": columns.is_active.view(rows),
        "keyword_counts": np.array([len(each) for each, _ in entries], np.int64),
        "keyword_rows": _joined([each for each, _ in entries], np.int32),
        "keyword_codes": _joined([codes for _, codes in entries], np.int32),
        "text_terms": texts.terms.view(postings),
        "text_weights": texts.weights.view(postings),
        "text_starts": texts.starts.view(slots + 1),
        "text_digests": texts.digests.view(slots),
        "sealed_slots": np.array([version.sealed_slots], np.int64),
        "sealed_counts": np.array([[len(one.terms), len(one.slots)] for one in version.sealed], np.int64).reshape(
            -1, 2
        ),
        "sealed_terms": _joined([one.terms for one in version.sealed], np.int32),
        "sealed_starts": _joined([one.starts for one in version.sealed], np.int64),
        "sealed_postings": _joined([one.slots for one in version.sealed], np.int32),
        "sealed_weights": _joined([one.weights for one in version.sealed], np.float32),
    }
    return arrays | {f"number_{number}": columns.numbers[number].view(rows) for number in Number}


def _names(version: IndexVersion) -> _Names:
    keywords = {name: list(keyword.values) for name, keyword in version.columns.keywords.items()}
    terms = version.store.texts.vocabulary.terms[: len(version.frequency)]
    categories = list(version.columns.category.values)
    return _Names(
        products=version.store.products.head(version.product_count),
        terms=terms,
        keywords=keywords,
        categories=categories,
    )


class _Arrays:
    """The arrays of a snapshot, mapped."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def of(self, name: str, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
        mapped = np.load(self._place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if mapped.dtype != dtype:
            raise ValueError(f"{name} is of {mapped.dtype}")
        return np.asarray(mapped)

    def growing(self, name: str, dtype: type[Scalar]) -> Growing[Scalar]:
        held = self.of(name, dtype)
        return Growing(dtype, held.shape[1] if held.ndim > 1 else None, held)


def _base(place: Path, kind: Kind, effort: Effort) -> Base:
    def index(name: str) -> faiss.Index:
        return faiss.read_index(str(place / name), faiss.IO_FLAG_MMAP_IFC)

    match kind:
        case Kind.FLAT:
            return flat_of(cast(faiss.IndexFlat, index(_STORE)))
        case Kind.HNSW:
            return hnsw_of(cast(faiss.IndexHNSWFlat, index(_STRUCTURE)), effort)
        case Kind.IVF:
            return ivf_of(cast(faiss.IndexFlat, index(_STORE)), index(_STRUCTURE), effort)


def _columns(arrays: _Arrays, names: _Names) -> Columns:
    columns = Columns()
    columns.product = arrays.growing("product", np.int32)
    columns.in_stock = arrays.growing("in_stock", np.bool_)
    columns.is_active = arrays.growing("is_active", np.bool_)
    columns.numbers = {number: arrays.growing(f"number_{number}", np.float64) for number in Number}
    columns.keywords = {name: Keyword(values) for name, values in names.keywords.items()}
    columns.category = Keyword(names.categories)
    for value in names.categories:
        columns.add_path(tuple(value.split(BETWEEN_NAMES)))
    rows, codes = arrays.of("keyword_rows", np.int32), arrays.of("keyword_codes", np.int32)
    ends = np.cumsum(arrays.of("keyword_counts", np.int64))
    for keyword, begin, end in zip(_keywords(columns), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        keyword.rows = Growing(np.int32, None, rows[begin:end])
        keyword.codes = Growing(np.int32, None, codes[begin:end])
    return columns


def _texts(arrays: _Arrays, names: _Names) -> Texts:
    texts = Texts(names.terms)
    texts.terms = arrays.growing("text_terms", np.int32)
    texts.weights = arrays.growing("text_weights", np.float32)
    texts.starts = arrays.growing("text_starts", np.int64)
    texts.digests = arrays.growing("text_digests", np.uint64)
    texts.sealed_slots = int(arrays.of("sealed_slots", np.int64)[0])
    terms, starts = arrays.of("sealed_terms", np.int32), arrays.of("sealed_starts", np.int64)
    slots, weights = arrays.of("sealed_postings", np.int32), arrays.of("sealed_weights", np.float32)
    term = start = posting = 0
    for term_count, posting_count in arrays.of("sealed_counts", np.int64).tolist():
        texts.sealed += (
            Sealed(
                terms[term : term + term_count],
                starts[start : start + term_count + 1],
                slots[posting : posting + posting_count],
                weights[posting : posting + posting_count],
            ),
        )
        term, start, posting = term + term_count, start + term_count + 1, posting + posting_count
    return texts


def _keywords(columns: Columns) -> list[Keyword]:
    return [columns.category, *columns.keywords.values()]


def _joined(parts: Sequence[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate([np.empty(0, dtype), *parts])
