"""Making an index anew beside the one that is used.

Rows, texts and vectors that are of no product any more are left out, texts are sealed into one, and the base has all
vectors. What costs is the base: 100,000 vectors take HNSW a minute of one core. So it is kept where it can be:

* nothing is new and little is gone: the base stays;
* little is gone: a copy of it gets the new vectors, a millisecond each;
* otherwise: a new one.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import faiss
import numpy as np

from penstock.search.index.base import Base, Kind, hnsw_of
from penstock.search.index.build import built, calibrated, check, fill, kind_for
from penstock.search.index.document import Ints, Vectors
from penstock.search.index.draft import Draft
from penstock.search.index.growing import Growing
from penstock.search.index.products import Products
from penstock.search.index.store import Store
from penstock.search.index.texts import Texts
from penstock.search.index.version import IndexVersion

KEPT_DEAD_SHARE_MAX = 0.15  # of a base that is kept: each is a candidate for nothing
ADDED_SHARE_MAX = 0.5  # of a base that is copied and added to; for more, a new one is hardly dearer


def compacted(source: IndexVersion, should_stop: Callable[[], bool]) -> IndexVersion:
    """A version that shows what the source does, in a store of its own. Raises BuildStopped."""
    there = np.flatnonzero(source.row_of >= 0).astype(np.int32)
    number_of = np.full(source.product_count, -1, np.int32)  # here, by the number there
    number_of[there] = np.arange(len(there), dtype=np.int32)
    rows = source.row_of[there]
    order = np.argsort(rows)
    columns = source.columns.kept(rows[order], number_of[there[order]])
    row_of = np.empty(len(there), np.int32)
    row_of[order] = np.arange(len(there), dtype=np.int32)
    texts, text_of, frequency = _texts(source, there)
    check(should_stop)
    base, slots = _base(source, there, should_stop)
    vector_of, vector_product = _vector_numbers(source.vector_of[there], slots)
    store = Store(
        base=base,
        delta=Growing(np.float32, source.dimensions),
        vector_product=vector_product,
        products=Products(source.product_ids(there)),
        columns=columns,
        texts=texts,
    )
    store.products.ranks()  # now, not in the first search that wants an order: 100,000 ids take 60 ms
    return IndexVersion(
        store=store,
        number=source.number,
        commit=source.commit,
        row_of=row_of,
        vector_of=vector_of,
        text_of=text_of,
        findable=columns.is_active.view().copy(),
        vector_slots=len(vector_product),
        text_slots=len(texts),
        frequency=frequency,
        sealed=texts.sealed,
        sealed_slots=texts.sealed_slots,
    )


def carried_over(made: IndexVersion, now: IndexVersion, product_ids: Iterable[str], number: int) -> IndexVersion:
    """What was made, with these products as they are now."""
    changed = sorted(product_ids)
    draft = Draft(made, len(changed))
    texts = now.store.texts
    for product_id in changed:
        there = now.known(product_id)
        if there is None:
            draft.delete(product_id)
            continue
        slot = int(now.text_of[there])
        document = now.columns.document(int(now.row_of[there]), product_id)
        here = draft.put(document, int(texts.digests.view()[slot]), partial(texts.weights_of, slot))
        draft.set_vector(here, now.vector(product_id))
    return draft.finished(number, now.commit)


def _base(source: IndexVersion, there: Ints, should_stop: Callable[[], bool]) -> tuple[Base, Ints]:
    """A base, and of each of its slots the slot that the source has the vector in."""
    base, delta = source.store.base, source.vector_slots - len(source.store.base)
    slots = source.vector_of[there]
    live = np.sort(slots[slots >= 0])
    dead_share = 1 - len(live) / source.vector_slots if source.vector_slots else 0.0
    every = np.arange(source.vector_slots, dtype=np.int32)
    if dead_share <= KEPT_DEAD_SHARE_MAX and base.kind is kind_for(source.vector_slots) is Kind.HNSW:
        if not delta:
            return base, every
        if delta <= ADDED_SHARE_MAX * len(base):
            new = source.store.delta.view(delta)
            return _added(base, new, should_stop), every
    vectors = source.vectors_at(live)
    return built(vectors, should_stop), live


def _added(base: Base, new: Vectors, should_stop: Callable[[], bool]) -> Base:
    """A copy of a graph with more vectors behind those it has."""
    assert base.structure is not None
    # By way of bytes: a clone of what is mapped from disk is mapped, too, and FAISS aborts the process that adds to it.
    structure = cast(faiss.IndexHNSWFlat, faiss.deserialize_index(faiss.serialize_index(base.structure)))
    fill(structure, new, should_stop)
    return calibrated(hnsw_of(structure, base.effort), should_stop)


def _vector_numbers(slots_there: Ints, slots: Ints) -> tuple[Ints, "Growing[np.int32]"]:
    """Of each product its slot here, and of each slot its product; a slot of none has product 0, which has another."""
    place = np.full(int(slots.max(initial=-1)) + 2, -1, np.int32)  # the last for products without a vector
    place[slots] = np.arange(len(slots), dtype=np.int32)
    vector_of = place[slots_there]
    product_of = np.zeros(len(slots), np.int32)
    has = np.flatnonzero(vector_of >= 0)
    product_of[vector_of[has]] = has
    growing: Growing[np.int32] = Growing(np.int32)
    growing.append(product_of)
    return vector_of, growing


def _texts(source: IndexVersion, there: Ints) -> tuple[Texts, Ints, Ints]:
    """The texts of these products, which slot each has, and how often each term is in them."""
    texts, slots_there = source.store.texts, source.text_of[there]
    order = np.argsort(slots_there)
    slots = slots_there[order]
    starts = texts.starts.view(source.text_slots + 1)
    lengths = np.diff(starts)[slots]
    ends = np.cumsum(lengths)
    postings = np.repeat(starts[slots] - (ends - lengths), lengths) + np.arange(int(lengths.sum()))
    used, terms = np.unique(texts.terms.view()[postings], return_inverse=True)
    names = texts.vocabulary.terms
    made = Texts(names[term] for term in used.tolist())
    made.fill(terms.astype(np.int32), texts.weights.view()[postings], lengths, texts.digests.view()[slots])
    text_of = np.empty(len(there), np.int32)
    text_of[order] = np.arange(len(there), dtype=np.int32)
    return made, text_of, np.bincount(terms, minlength=len(used)).astype(np.int32)
