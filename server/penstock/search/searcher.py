"""Searches one version of an index: finds, ranks, cuts the page, counts facets."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from penstock import limits
from penstock.catalog.writer import not_found
from penstock.errors import invalid_field
from penstock.search.documents import document
from penstock.search.hosted import View
from penstock.search.index import IndexVersion, Matches, Number, Order, combined, texts_to_encode
from penstock.search.index.document import Ints
from penstock.search.lane import SearchLane, Vectors
from penstock.search.query import Counted, Found, HowFound, Item, Mode, Query, Timings, Why

_NUMBERS = {"price": Number.PRICE, "rating": Number.RATING}
_KEYWORDS = ("brand", "merchant", "colour", "size", "category", "in_stock")
# What is sorted by something else than relevance is first cut down to what is relevant: with a word of the query, or
# where nothing has one, so many of the nearest.
_RELEVANT_MAX = 1_000


class Searcher:
    """Runs searches on the lane."""

    def __init__(self, lane: SearchLane) -> None:
        self._lane = lane

    async def search(self, view: View, query: Query) -> Found:
        """What the query finds in this version. Raises InvalidInput, Overloaded, Unavailable."""
        check_facets(query.facets)
        timings = Timings()
        vector: Vectors | None = None
        if query.text and query.mode is not Mode.LEXICAL and view.version.size > view.version.pending_vectors:
            with _timed(timings, "encode"):
                vector = await view.encoder.encode(query.text, view.products.tenant)
        return await self._lane.run(view.products.tenant, _found, view.version, query, vector, timings)

    async def vector_of(self, view: View, product_id: str) -> Vectors:
        """A product's vector, made now where it has none yet. Raises NotFound, Overloaded, Unavailable."""
        stored = view.products.get(product_id)
        if stored is None:
            raise not_found(product_id)
        vector = view.version.vector(product_id)
        if vector is not None:
            return vector
        texts = texts_to_encode(document(stored.product))
        encoded = [await view.encoder.encode(text, view.products.tenant) for text, _ in texts]
        return combined(np.stack(encoded), [weight for _, weight in texts])


def check_facets(names: Sequence[str]) -> None:
    """Raises InvalidInput for a name that is no facet."""
    for place, name in enumerate(names):
        if name in _KEYWORDS or name in _NUMBERS or name.startswith(("attributes.", "fashion.")):
            continue
        known = ", ".join((*_KEYWORDS, *_NUMBERS, "attributes.NAME", "fashion.NAME"))
        raise invalid_field(f"facets[{place}]", f"{name!r} is no facet; there are {known}")


def _found(version: IndexVersion, query: Query, vector: Vectors | None, timings: Timings) -> Found:
    with _timed(timings, "filter"):
        matches = version.matching(query.filter)
    if not query.text:
        items, all_of_them, plan = _browsed(version, query, matches, timings)
    elif query.order is not None:
        items, all_of_them, plan = _sorted(version, query, vector, matches, timings)
    elif query.mode is Mode.LEXICAL:
        items, all_of_them, plan = _by_words(version, query, matches, timings)
    elif query.mode is Mode.VECTOR:
        items, all_of_them, plan = _by_meaning(version, query, vector, matches, timings)
    else:
        items, all_of_them, plan = _by_both(version, query, vector, matches, timings)
    with _timed(timings, "facets"):
        facets = [_facet(version, name, all_of_them) for name in query.facets]
    total = all_of_them.count
    return Found(
        items=items,
        total=total,
        facets=facets,
        plan=plan,
        timings=timings,
        more=query.offset + len(items) < min(total, limits.SEARCH_DEPTH_MAX) and len(items) == query.limit > 0,
        reason="" if items or not query.limit else _why_nothing(version, query, matches, total),
    )


def _browsed(
    version: IndexVersion, query: Query, matches: Matches, timings: Timings
) -> tuple[list[Item], Matches, HowFound]:
    with _timed(timings, "rank"):
        numbers = version.ordered(matches, query.order or Order.BROWSE, query.limit, query.offset)
        items = [Item(product_id, 0.0, _passes(query)) for product_id in version.product_ids(numbers)]
    return items, matches, HowFound("browse", "there is no text to compare with", matches.count, matches.count)


def _sorted(
    version: IndexVersion, query: Query, vector: Vectors | None, matches: Matches, timings: Timings
) -> tuple[list[Item], Matches, HowFound]:
    """The relevant ones, in another order than that of their relevance."""
    assert query.order is not None
    with _timed(timings, "lexical"):
        words = version.lexical(query.text, 0, matches) if query.mode is not Mode.VECTOR else None
    if words is not None and (words.found.count or vector is None):
        relevant = words.found
        sorted_are = "sorted are the products that have a word of the query"
        plan = HowFound("lexical", sorted_are, matches.count, relevant.count)
    else:
        assert vector is not None
        with _timed(timings, "vector"):
            nearest = version.nearest(vector[None, :], _RELEVANT_MAX, matches)
        near = np.zeros(version.product_count, np.bool_)
        near[nearest.hits[0].numbers] = True
        relevant = matches.among(near)
        plan = HowFound.of(nearest.plan, matches.count)
    with _timed(timings, "rank"):
        numbers = version.ordered(relevant, query.order, query.limit, query.offset)
        items = [Item(product_id, 0.0, _passes(query)) for product_id in version.product_ids(numbers)]
    return items, relevant, plan


def _by_words(
    version: IndexVersion, query: Query, matches: Matches, timings: Timings
) -> tuple[list[Item], Matches, HowFound]:
    with _timed(timings, "lexical"):
        hits = version.lexical(query.text, query.offset + query.limit, matches)
    plan = HowFound("lexical", "by words alone", matches.count, hits.found.count)
    with _timed(timings, "rank"):
        cut = _page(version, query, hits.numbers)
        numbers = hits.numbers[cut]
        items = [
            Item(product_id, float(score), _why(version, query, int(number), float(score), None, bool(exact)))
            for product_id, number, score, exact in zip(
                version.product_ids(numbers), numbers, hits.scores[cut], hits.exact[cut], strict=True
            )
        ]
    return items, hits.found, plan


def _by_meaning(
    version: IndexVersion, query: Query, vector: Vectors | None, matches: Matches, timings: Timings
) -> tuple[list[Item], Matches, HowFound]:
    encoded = matches.among(version.vector_of >= 0)
    if vector is None or not encoded.count:
        return [], encoded, HowFound("exact", "no product that passes has a vector yet", matches.count, 0)
    with _timed(timings, "vector"):
        nearest = version.nearest(vector[None, :], query.offset + query.limit, matches)
    hits = nearest.hits[0]
    with _timed(timings, "rank"):
        cut = _page(version, query, hits.numbers)
        numbers, scores = hits.numbers[cut], hits.scores[cut]
        items = [
            Item(product_id, float(score), _why(version, query, int(number), None, float(score), exact=False))
            for product_id, number, score in zip(version.product_ids(numbers), numbers, scores, strict=True)
        ]
    return items, encoded, HowFound.of(nearest.plan, matches.count)


def _by_both(
    version: IndexVersion, query: Query, vector: Vectors | None, matches: Matches, timings: Timings
) -> tuple[list[Item], Matches, HowFound]:
    if vector is None:
        return _by_words(version, query, matches, timings)
    with _timed(timings, "vector"):
        hits = version.hybrid(query.text, vector, query.offset + query.limit, matches)
    with _timed(timings, "rank"):
        cut = _page(version, query, hits.numbers)
        numbers = hits.numbers[cut]
        items = [
            Item(
                product_id, float(score), _why(version, query, int(number), _known(words), _known(cosine), bool(exact))
            )
            for product_id, number, score, words, cosine, exact in zip(
                version.product_ids(numbers),
                numbers,
                hits.scores[cut],
                hits.lexical[cut],
                hits.similarity[cut],
                hits.exact[cut],
                strict=True,
            )
        ]
    return items, matches, HowFound.of(hits.plan, matches.count)


def _page(version: IndexVersion, query: Query, ranked: Ints) -> Ints:
    """The places of the page in a ranking that reaches to its end: the best of what was not shown yet."""
    if not query.shown:
        return np.arange(query.offset, min(len(ranked), query.offset + query.limit), dtype=np.int32)
    shown = version.numbers_of([product_id for product_id in query.shown if product_id])
    left_out = query.offset - len(shown)  # by a first page that began at an offset
    fresh = np.flatnonzero(~np.isin(ranked, shown)).astype(np.int32)
    return fresh[left_out : left_out + query.limit]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _why(
    version: IndexVersion, query: Query, number: int, lexical: float | None, similarity: float | None, exact: bool
) -> Why | None:
    if not query.explain:
        return None
    return Why(lexical, similarity, exact, version.matched_terms(query.text, number))


def _passes(query: Query) -> Why | None:
    return Why(None, None, False, ()) if query.explain else None


def _facet(version: IndexVersion, name: str, matches: Matches) -> Counted:
    if name in _NUMBERS:
        return Counted(name, version.number_facet(_NUMBERS[name], matches))
    return Counted(name, version.facet(name, matches, limits.FACET_VALUES_MAX))


def _why_nothing(version: IndexVersion, query: Query, matches: Matches, total: int) -> str:
    if not version.size:
        return "the catalogue is empty"
    if not matches.count:
        return "no product passes the filters"
    if query.offset >= total > 0:
        return f"there are {total} results, and the page begins behind them"
    return "no product has a word of the query" if query.mode is Mode.LEXICAL else "products are still being encoded"


@contextmanager
def _timed(timings: Timings, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        setattr(timings, stage, getattr(timings, stage) + (time.perf_counter() - started) * 1e3)
