"""Finding by words, by both, and browsing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.search.index import (
    Between,
    Delete,
    Document,
    Filter,
    InStock,
    Keywords,
    Matches,
    Number,
    Order,
    TenantIndex,
    Upsert,
    combined,
    text_to_encode,
    texts_to_encode,
)
from penstock.search.index.words import WORD_CHARS_MAX, folded, words

SHOP = [
    Document(
        "cam-1", "Digital camera with zoom lens", "Takes pictures. Made in Japan.", brand="Nikkor", codes=("DSC-W830",)
    ),
    Document("cam-2", "Camera bag", "For a digital camera and its lenses", brand="Case Logic", codes=("CL 4711",)),
    Document("cam-3", "Compact cameras, refurbished", "", brand="Nikkor", codes=("DSCW810",)),
    Document("lamp-1", "Steel desk lamp", "Bright &amp; adjustable <b>LED</b> light", codes=("L16",)),
    Document("lamp-2", "Désk lâmp of oak", "", codes=("L17",)),
    Document("usb-1", "USB-C cable 2m", "Charges 16GB phones", codes=("4006381333931",)),
    Document("shirt-1", "Men's T-Shirt", "cotton", labels="Clothing Shirts blue"),
    Document("cn-1", "智能手机保护壳", ""),
]


@pytest.fixture(scope="module")
def index() -> TenantIndex:
    made = TenantIndex(4, "made")
    made.apply([Upsert(document) for document in SHOP], 1)
    return made


def _found(index: TenantIndex, query: str, *, prefix: bool = False, matches: Matches | None = None) -> list[str]:
    version = index.version
    hits = version.lexical(query, 10, matches if matches is not None else version.everything, prefix=prefix)
    return version.product_ids(hits.numbers)


@pytest.mark.parametrize(
    ("query", "first", "others"),
    [
        ("digital camera", "cam-1", {"cam-2", "cam-3"}),
        ("cameras", "cam-2", {"cam-1", "cam-3"}),
        ("desk lamp", "lamp-1", {"lamp-2"}),
        ("lampe désk", "lamp-1", {"lamp-2"}),
        ("tshirt", "shirt-1", set()),
        ("t-shirt men", "shirt-1", set()),
        ("usb c", "usb-1", set()),
        ("usbc", "usb-1", set()),
        ("16 gb", "usb-1", set()),
        ("led", "lamp-1", set()),
        ("手机", "cn-1", set()),
        ("CAMERA BAG", "cam-2", {"cam-1", "cam-3"}),
    ],
)
def test_words_find_products(index: TenantIndex, query: str, first: str, others: set[str]) -> None:
    found = _found(index, query)
    assert found[0] == first
    assert set(found[1:]) >= others


@pytest.mark.parametrize(
    ("typo", "first"), [("camrea bag", "cam-2"), ("digitl", "cam-1"), ("refurbishd", "cam-3"), ("clohting", "shirt-1")]
)
def test_typos_find_what_was_meant(index: TenantIndex, typo: str, first: str) -> None:
    assert _found(index, typo)[0] == first


def test_a_typo_counts_less_than_the_word(index: TenantIndex) -> None:
    version = index.version
    right, wrong = (version.lexical(query, 1, version.everything) for query in ("adjustable", "adjsutable"))
    assert version.product_ids(right.numbers) == version.product_ids(wrong.numbers) == ["lamp-1"]
    assert wrong.scores[0] < right.scores[0]


@pytest.mark.parametrize("query", ["l18", "oka", "zzzz", "", "   ", "?!", "_", "\x00", "#"])
def test_what_is_in_no_text_finds_nothing(index: TenantIndex, query: str) -> None:
    assert _found(index, query) == []


@pytest.mark.parametrize(
    ("query", "only"),
    [
        ("dsc-w830", "cam-1"),
        ("DSC W830", "cam-1"),
        ("dscw810", "cam-3"),
        ("cl4711", "cam-2"),
        ("4006381333931", "usb-1"),
        ("LAMP-2", "lamp-2"),
        ("l16", "lamp-1"),
    ],
)
def test_a_code_finds_its_product_first(index: TenantIndex, query: str, only: str) -> None:
    version = index.version
    hits = version.lexical(query, 10, version.everything)
    assert version.product_id(int(hits.numbers[0])) == only
    assert hits.exact.tolist() == [True] + [False] * (len(hits.numbers) - 1)
    hybrid = version.hybrid(query, None, 10, version.everything)
    assert version.product_id(int(hybrid.numbers[0])) == only
    assert hybrid.exact[0]


def test_the_last_word_may_be_a_beginning(index: TenantIndex) -> None:
    assert _found(index, "digital cam", prefix=True)[:2] == ["cam-1", "cam-2"]
    assert _found(index, "refurb", prefix=True) == ["cam-3"]
    assert _found(index, "refurb") == []
    assert _found(index, "refurb ", prefix=True) == []


def test_totals_are_true_under_filters(index: TenantIndex) -> None:
    version = index.version
    lamps = version.lexical("lamp camera", 1, version.everything)
    assert (len(lamps.numbers), lamps.found.count) == (1, 5)
    none = version.matching(Filter((Between(Number.PRICE, 1, 2),)))
    assert version.lexical("lamp", 10, none).found.count == 0
    assert set(_found(index, "lamp", matches=version.lexical("oak", 10, version.everything).found)) == {"lamp-2"}


def test_matched_words_are_those_of_the_query(index: TenantIndex) -> None:
    version = index.version
    number = int(version.numbers_of(["cam-1"])[0])
    assert version.matched_terms("Digital CAMERAS from japn in wood", number) == ["digital", "cameras", "japn", "in"]


def test_scores_are_shares_of_the_query(index: TenantIndex) -> None:
    version = index.version
    scores = version.lexical("digital camera zoom", 10, version.everything).scores
    assert ((scores > 0) & (scores < 1)).all()
    assert (np.diff(scores) <= 0).all()


def test_both_ways_make_one_order() -> None:
    index = TenantIndex(3, "made")
    axes = np.eye(3, dtype=np.float32)
    index.apply(
        [
            Upsert(Document("words", "red lamp", vector=axes[1])),
            Upsert(Document("meaning", "crimson light", vector=axes[0])),
            Upsert(Document("both", "red lamp", vector=axes[0])),
            Upsert(Document("neither", "green chair", vector=axes[1])),
            Upsert(Document("pending", "red lamp")),
            Upsert(Document("hidden", "red lamp", is_active=False, vector=axes[0])),
        ],
        1,
    )
    version = index.version
    hits = version.hybrid("red lamp", axes[0], 10, version.everything)
    ids = version.product_ids(hits.numbers)
    assert ids[0] == "both"
    assert ids[-1] == "neither"
    assert set(ids) == {"words", "meaning", "both", "neither", "pending"}
    by_id = dict(zip(ids, hits.similarity.tolist(), strict=True))
    assert by_id["both"] == pytest.approx(1.0)
    assert np.isnan(by_id["pending"])
    assert hits.lexical[ids.index("meaning")] == 0
    assert (np.diff(hits.scores) <= 0).all()
    assert version.product_ids(version.hybrid("red lamp", axes[0], 1, version.everything).numbers) == ["both"]
    with pytest.raises(InvalidInput):
        version.hybrid("red", np.full(3, np.nan, np.float32), 10, version.everything)


def _browsed() -> TenantIndex:
    index = TenantIndex(2, "made")
    prices = {"a": 3.0, "b": 1.0, "c": None, "d": 1.0, "e": 2.0}
    index.apply(
        [
            Upsert(
                Document(
                    product_id,
                    "x",
                    numbers={Number.RATING: len(product_id) * 1.0, Number.CREATED: ord(product_id) * 1.0}
                    | ({} if price is None else {Number.PRICE: price}),
                    keywords={"colour": "Red" if price == 1.0 else "BLUE"},
                    category_path=("Home", "A" if price else "B"),
                    in_stock=price is not None,
                )
            )
            for product_id, price in sorted(prices.items(), reverse=True)
        ],
        1,
    )
    return index


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.PRICE_ASCENDING, "bdeac"),
        (Order.PRICE_DESCENDING, "aebdc"),
        (Order.NEWEST, "edcba"),
        (Order.RATING, "abcde"),
        (Order.BROWSE, "abcde"),
    ],
)
def test_orders_and_their_pages(order: Order, expected: str) -> None:
    index = _browsed()
    version = index.version
    for size in (1, 2, 3, 10):
        pages = [version.product_ids(version.ordered(version.everything, order, size, at)) for at in range(0, 8, size)]
        assert "".join("".join(page) for page in pages) == expected
    assert len(version.ordered(version.everything, order, 0)) == 0
    index.apply([Upsert(Document("cc", "x")), Delete("b")], 2)
    assert "b" not in version.product_ids(index.version.ordered(index.version.everything, order, 10))


def test_facets_count_matches() -> None:
    version = _browsed().version
    everything = version.everything
    colours = version.facet("colour", everything, 1)
    assert [(value.value, value.count) for value in colours.values] == [("BLUE", 3)]
    assert colours.more_values == 1
    categories = {value.value: value.count for value in version.facet("category", everything, 10).values}
    assert categories == {"Home": 5, "Home/A": 4, "Home/B": 1}
    stock = {value.value: value.count for value in version.facet("in_stock", everything, 10).values}
    assert stock == {"true": 4, "false": 1}
    assert version.facet("nothing", everything, 10).values == ()
    red = version.matching(Filter((Keywords(("colour",), ("red",)), InStock())))
    assert [value.count for value in version.facet("colour", red, 10).values] == [2]
    prices = version.number_facet(Number.PRICE, everything, [0, 2, 4])
    assert [(each.low, each.high, each.count) for each in prices.ranges] == [(0, 2, 2), (2, 4, 2)]
    assert (prices.least, prices.greatest) == (1.0, 3.0)
    assert sum(each.count for each in version.number_facet(Number.PRICE, everything).ranges) == 4
    assert version.number_facet(Number.STOCK, everything).least is None
    with pytest.raises(InvalidInput):
        version.number_facet(Number.PRICE, everything, [2, 2])


def test_columns_are_read_by_number() -> None:
    version = _browsed().version
    numbers = version.numbers_of(["a", "c", "nobody"])
    assert numbers[2] == -1
    np.testing.assert_array_equal(version.values(Number.PRICE, numbers[:2]), [3.0, np.nan])
    assert version.in_stock(numbers[:2]).tolist() == [True, False]
    assert version.keyword("colour", numbers[:2]) == ["BLUE", "BLUE"]
    assert version.keyword("nothing", numbers[:2]) == ["", ""]


def test_numbers_that_are_none_are_refused() -> None:
    index = TenantIndex(2, "made")
    with pytest.raises(InvalidInput, match=r"changes\[0\].price"):
        index.apply([Upsert(Document("a", "x", numbers={Number.PRICE: float("nan")}))], 1)


def test_what_is_encoded() -> None:
    lamp = Document("l", "Desk <b>lamp</b>", "Oak &amp; steel. " + "x" * 1_000, brand="Acme")
    assert text_to_encode(lamp) == "Acme Desk lamp"
    texts = texts_to_encode(lamp)
    assert [weight for _, weight in texts] == [0.5, 0.5]
    assert texts[1][0].startswith("Acme Desk lamp. Oak steel.")
    assert len(texts[1][0]) < 250
    assert texts_to_encode(Document("l", "Acme lamp", brand="ACME")) == [("Acme lamp", 1.0)]
    vector = combined(np.eye(2, dtype=np.float32), [0.5, 0.5])
    np.testing.assert_allclose(vector, [0.5**0.5, 0.5**0.5], rtol=1e-6)


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_a_query_and_a_title(text: str, prefix: bool) -> None:
    index = TenantIndex(2, "made")
    index.apply([Upsert(Document("a", text, description=text, codes=(text[:20],))), Upsert(Document("b", "lamp"))], 1)
    version = index.version
    hits = version.lexical(text, 10, version.everything, prefix=prefix)
    found = version.product_ids(hits.numbers)
    assert not words(text) or found[0] == "a"
    assert all(0 <= score < 1 for score in hits.scores.tolist())
    assert all(0 < len(word) <= WORD_CHARS_MAX * 2 and word == folded(word) for word in words(text))


def test_terms_of_no_product_crowd_nothing_out() -> None:
    """A hundred words near `camera` were in texts once; only one is now."""
    index = TenantIndex(2, "made")
    index.apply([Upsert(Document(f"p{number}", f"came{chr(97 + number)}a")) for number in range(26)], 1)
    index.apply([Delete(f"p{number}") for number in range(26)], 2)
    index.apply([Upsert(Document("z", "camera bag"))], 3)
    version = index.version
    assert version.product_ids(version.lexical("camexa", 5, version.everything).numbers) == ["z"]
    assert version.product_ids(version.lexical("cam", 5, version.everything, prefix=True).numbers) == ["z"]


def test_a_word_that_is_rare_comes_before_what_is_like_it() -> None:
    index = TenantIndex(2, "made")
    index.apply([Upsert(Document(f"nikon{number}", "nikon nikon")) for number in range(50)], 1)
    index.apply([Upsert(Document("z", "something else", description="long text " * 50 + "nikor"))], 2)
    version = index.version
    hits = version.lexical("nikor", 60, version.everything)
    assert version.product_id(int(hits.numbers[0])) == "z"
    assert hits.found.count == 51


def test_a_query_of_many_unknown_words_is_bounded() -> None:
    index = TenantIndex(2, "made")
    index.apply([Upsert(Document("a", "lamp"))], 1)
    version = index.version
    query = " ".join(f"word{'x' * number}" for number in range(500)) + " lamp"
    assert len(version.lexical(query, 5, version.everything).numbers) == 0  # behind the words that are read
    assert len(version.lexical("lamp " + query, 5, version.everything).numbers) == 1
