"""Requests about products and users that are well-formed and absurd."""

import base64
import json
from collections.abc import Callable

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.catalog.v1 import catalog_service_pb2 as catalog
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.v1 import feedback_service_pb2 as feedback
from penstock.feedback.v1.feedback_pb2 import CLICK, RATING, VIEW, Interaction
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as recommendations
from penstock.recommendations.v1.recommendations_pb2 import Experiment, Overrides, Variant
from penstock.search.v1 import search_service_pb2 as search
from penstock.search.v1.search_pb2 import ProductFilter, Values, Vector
from tests.faults.hostile.calls import assert_their_fault, few, fields
from tests.faults.hostile.shop.methods import send
from tests.faults.hostile.test_json import nested
from tests.faults.hostile.test_requests import BEYOND
from tests.search.shop import Shop

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NAN, INF = float("nan"), float("inf")
DIMENSIONS = 384
UNKNOWN_ENUM = 77


def upsert(**given_: object) -> catalog.UpsertProductsRequest:
    """One product that is good but for what is given."""
    product = Product(**{"product_id": "odd", "name": "Odd", **given_})  # type: ignore[arg-type]
    return catalog.UpsertProductsRequest(products=[product])


def filtered(**given_: object) -> search.SearchRequest:
    return search.SearchRequest(filters=ProductFilter(**given_))  # type: ignore[arg-type]


def vectors(*values: list[float]) -> search.SearchVectorsRequest:
    return search.SearchVectorsRequest(vectors=[Vector(values=each) for each in values])


def sent(**given_: object) -> feedback.SendFeedbackRequest:
    """One interaction that is good but for what is given."""
    good = {"user_id": "hostile", "product_id": "p0001", "interaction_type": CLICK}
    return feedback.SendFeedbackRequest(interaction=Interaction(**{**good, **given_}))  # type: ignore[arg-type]


def experiment(**given_: object) -> recommendations.CreateExperimentRequest:
    """An experiment that is good but for what is given."""
    good = {"name": "odd", "variants": [Variant(name="a", weight=1), Variant(name="b", weight=1)]}
    return recommendations.CreateExperimentRequest(experiment=Experiment(**{**good, **given_}))  # type: ignore[arg-type]


def weighed(weight: float) -> recommendations.CreateExperimentRequest:
    return experiment(variants=[Variant(name="a", weight=1), Variant(name="b", weight=weight)])


def recommend(**given_: object) -> recommendations.RecommendRequest:
    return recommendations.RecommendRequest(**given_)  # type: ignore[arg-type]


WRONG = ProductFilter(min_price=NAN)
MANY = [f"n{number}" for number in range(10_001)]


@pytest.mark.parametrize(
    ("name", "request_", "named"),
    [
        ("UpsertProducts", catalog.UpsertProductsRequest(), "products"),
        ("UpsertProducts", catalog.UpsertProductsRequest(products=list(upsert().products) * 5_001), "products"),
        ("UpsertProducts", upsert(product_id=""), "products[0].product_id"),
        ("UpsertProducts", upsert(product_id="a\0b"), "products[0].product_id"),
        ("UpsertProducts", upsert(product_id="a\nb"), "products[0].product_id"),
        ("UpsertProducts", upsert(product_id="€" * 86), "products[0].product_id"),
        ("UpsertProducts", upsert(name=""), "products[0].name"),
        ("UpsertProducts", upsert(name="x" * 1_000_000), "products[0].name"),
        ("UpsertProducts", upsert(description="x" * 32_769), "products[0].description"),
        ("UpsertProducts", upsert(price=NAN), "products[0].price"),
        ("UpsertProducts", upsert(price=INF), "products[0].price"),
        ("UpsertProducts", upsert(price=-0.01), "products[0].price"),
        ("UpsertProducts", upsert(rrp_price=-INF), "products[0].rrp_price"),
        ("UpsertProducts", upsert(average_rating=NAN), "products[0].average_rating"),
        ("UpsertProducts", upsert(quality_score=1.01), "products[0].quality_score"),
        ("UpsertProducts", upsert(stock_quantity=-1), "products[0].stock_quantity"),
        ("UpsertProducts", upsert(review_count=-(2**31)), "products[0].review_count"),
        ("UpsertProducts", upsert(currency="euro"), "products[0].currency"),
        ("UpsertProducts", upsert(category_path=["a/b"]), "products[0].category_path[0]"),
        ("UpsertProducts", upsert(category_path=["a"] * 11), "products[0].category_path"),
        ("UpsertProducts", upsert(category_path=["a", ""]), "products[0].category_path[1]"),
        ("UpsertProducts", upsert(attributes={f"k{n}": "v" for n in range(10_000)}), "products[0].attributes"),
        ("UpsertProducts", upsert(attributes={"": "v"}), "products[0].attributes['']"),
        ("UpsertProducts", upsert(attributes={"k": "v" * 8_193}), "products[0].attributes['k']"),
        ("StreamProducts", catalog.StreamProductsRequest(products=[Product(product_id="a")]), "products[0].name"),
        ("GetProduct", catalog.GetProductRequest(), "product_id"),
        ("GetProduct", catalog.GetProductRequest(product_id="a", as_of_version=-1), "as_of_version"),
        ("DeleteProduct", catalog.DeleteProductRequest(product_id="x" * 257), "product_id"),
        ("ListProducts", catalog.ListProductsRequest(page_size=-1), "page_size"),
        ("ListProducts", catalog.ListProductsRequest(page_size=2**31 - 1), "page_size"),
        ("ListProducts", catalog.ListProductsRequest(min_price=NAN), "min_price"),
        ("ListProducts", catalog.ListProductsRequest(max_price=INF), "max_price"),
        ("ListProducts", catalog.ListProductsRequest(page_token="€"), "page_token"),
        ("ListProducts", catalog.ListProductsRequest(as_of_version=-1), "as_of_version"),
        ("Search", search.SearchRequest(query="x" * 2_049), "query"),
        ("Search", search.SearchRequest(limit=2**31 - 1), "limit"),
        ("Search", search.SearchRequest(offset=-1), "offset"),
        ("Search", search.SearchRequest(mode=UNKNOWN_ENUM), "mode"),  # type: ignore[arg-type]
        ("Search", search.SearchRequest(sort=UNKNOWN_ENUM), "sort"),  # type: ignore[arg-type]
        ("Search", search.SearchRequest(facets=["brand"] * 21), "facets"),
        ("Search", search.SearchRequest(facets=["brand", ""]), "facets[1]"),
        ("Search", search.SearchRequest(facets=["prize"]), "facets[0]"),
        ("Search", search.SearchRequest(page_token="x" * 1_024), "page_token"),
        ("Search", filtered(min_price=NAN), "filters.min_price"),
        ("Search", filtered(max_price=INF), "filters.max_price"),
        ("Search", filtered(min_price=2, max_price=1), "filters.min_price"),
        ("Search", filtered(min_rating=NAN), "filters.min_rating"),
        ("Search", filtered(min_rating=5.0001), "filters.min_rating"),
        ("Search", filtered(brands=[""]), "filters.brands[0]"),
        ("Search", filtered(brands=MANY[:1_001]), "filters.brands"),
        ("Search", filtered(product_ids=MANY), "filters.product_ids"),
        ("Search", filtered(attributes={f"k{n}": Values(values=["v"]) for n in range(10_000)}), "filters.attributes"),
        ("Search", filtered(attributes={"k": Values()}), "filters.attributes['k'].values"),
        ("SearchVectors", search.SearchVectorsRequest(), "vectors"),
        ("SearchVectors", vectors(*([[1.0] * DIMENSIONS] * 101)), "vectors"),
        ("SearchVectors", vectors([1.0] * 10), "vectors[0]"),
        ("SearchVectors", vectors([1.0] * DIMENSIONS, [NAN] * DIMENSIONS), "vectors[1]"),
        ("SearchVectors", vectors([1.0] * DIMENSIONS, [INF] + [0.0] * (DIMENSIONS - 1)), "vectors[1]"),
        ("SearchVectors", vectors([0.0] * DIMENSIONS), "vectors[0]"),
        ("SearchVectors", vectors([1.0] * 1_000_000), "vectors[0]"),
        ("SearchVectors", search.SearchVectorsRequest(vectors=[Vector(packed=b"\xff" * 1_535)]), "vectors[0].packed"),
        ("SearchVectors", search.SearchVectorsRequest(vectors=[Vector(packed=b"\xff" * 1_536)]), "vectors[0]"),
        ("BatchSearch", search.BatchSearchRequest(), "requests"),
        ("BatchSearch", search.BatchSearchRequest(requests=[search.SearchRequest()] * 101), "requests"),
        ("SearchSimilar", search.SearchSimilarRequest(), "product_id"),
        ("SearchSimilar", search.SearchSimilarRequest(product_id="p0001", limit=-1), "limit"),
        ("SearchSimilar", search.SearchSimilarRequest(product_id="a", filters=WRONG), "filters.min_price"),
        ("RebuildIndex", search.RebuildIndexRequest(request_id="x" * 129), "request_id"),
        ("TrainModel", recommendations.TrainModelRequest(request_id="€" * 43), "request_id"),
        ("Recommend", recommend(user_id="x" * 257), "user_id"),
        ("Recommend", recommend(limit=-1), "limit"),
        ("Recommend", recommend(limit=201), "limit"),
        ("Recommend", recommend(context=UNKNOWN_ENUM), "context"),
        ("Recommend", recommend(context=recommendations_pb2.SEARCH, query=" \t\n"), "query"),
        ("Recommend", recommend(context=recommendations_pb2.CATEGORY), "category"),
        ("Recommend", recommend(context=recommendations_pb2.SIMILAR, query="x"), "query"),
        ("Recommend", recommend(exclude=MANY), "exclude"),
        ("Recommend", recommend(filters=ProductFilter(min_price=9, max_price=8)), "filters.min_price"),
        ("BatchRecommend", recommendations.BatchRecommendRequest(), "requests"),
        ("CreateExperiment", recommendations.CreateExperimentRequest(), "experiment"),
        ("CreateExperiment", experiment(name="Odd"), "experiment.name"),
        ("CreateExperiment", experiment(name=""), "experiment.name"),
        ("CreateExperiment", experiment(variants=[Variant(name="a", weight=1)]), "experiment.variants"),
        ("CreateExperiment", experiment(variants=[Variant(name="a", weight=1)] * 2), "experiment.variants"),
        ("CreateExperiment", weighed(NAN), "experiment.variants[1].weight"),
        ("CreateExperiment", weighed(INF), "experiment.variants[1].weight"),
        ("CreateExperiment", weighed(0), "experiment.variants[1].weight"),
        (
            "CreateExperiment",
            experiment(
                variants=[Variant(name="a", weight=1), Variant(name="b", weight=1, overrides=Overrides(session=NAN))]
            ),
            "experiment.variants[1].overrides.session",
        ),
        ("DeleteExperiment", recommendations.DeleteExperimentRequest(), "name"),
        ("SendFeedback", feedback.SendFeedbackRequest(), "interaction"),
        ("SendFeedback", sent(user_id=""), "interaction.user_id"),
        ("SendFeedback", sent(user_id="x" * 100_000), "interaction.user_id"),
        ("SendFeedback", sent(product_id=""), "interaction.product_id"),
        ("SendFeedback", sent(interaction_type=0), "interaction.interaction_type"),
        ("SendFeedback", sent(interaction_type=UNKNOWN_ENUM), "interaction.interaction_type"),
        ("SendFeedback", sent(context=UNKNOWN_ENUM), "interaction.context"),
        ("SendFeedback", sent(interaction_type=RATING), "interaction.rating"),
        ("SendFeedback", sent(interaction_type=RATING, rating=NAN), "interaction.rating"),
        ("SendFeedback", sent(interaction_type=RATING, rating=5.5), "interaction.rating"),
        ("SendFeedback", sent(interaction_type=VIEW, rating=3), "interaction.rating"),
        ("SendFeedback", sent(position=0), "interaction.position"),
        ("SendFeedback", sent(request_id="x" * 129), "interaction.request_id"),
        ("SendFeedback", sent(timestamp=BEYOND), "interaction.timestamp"),
        ("SendFeedback", sent(timestamp=Timestamp(seconds=-(2**63))), "interaction.timestamp"),
        ("SendFeedback", sent(timestamp=Timestamp(seconds=1_700_000_000, nanos=-1)), "interaction.timestamp"),
        ("SendFeedback", sent(timestamp=Timestamp(seconds=1_700_000_000, nanos=2**31 - 1)), "interaction.timestamp"),
        ("SendFeedback", sent(timestamp=Timestamp(seconds=1)), "interaction.timestamp"),
        ("SendFeedback", sent(timestamp=Timestamp(seconds=253_402_300_799)), "interaction.timestamp"),
        ("BatchFeedback", feedback.BatchFeedbackRequest(), "interactions"),
        ("BatchFeedback", feedback.BatchFeedbackRequest(interactions=[sent().interaction] * 5_001), "interactions"),
        (
            "BatchFeedback",
            feedback.BatchFeedbackRequest(interactions=[sent().interaction, sent(timestamp=BEYOND).interaction]),
            "interactions[1].timestamp",
        ),
        ("GetUserProfile", feedback.GetUserProfileRequest(), "user_id"),
        ("GetUserProfile", feedback.GetUserProfileRequest(user_id="u", limit=-1), "limit"),
        ("ForgetUser", feedback.ForgetUserRequest(), "user_id"),
        ("ForgetUser", feedback.ForgetUserRequest(user_id="x" * 257), "user_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_request_out_of_bounds_names_its_field(
    channel: grpc.Channel, name: str, request_: Message, named: str
) -> None:
    code, _, error = send(channel, name, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT, f"{code} {error.details() if error else ''}"
    assert set(fields(error)) == {named}


QUERIES = (
    "\0",
    "\x1b[31m",
    "'; DROP TABLE products; --",
    '"unbalanced (AND OR NOT) *:*',
    "%" * 100,
    " " * 2_000,
    "x" * 2_048,
    "ab " * 682,
    "".join(chr(0x4E00 + n) for n in range(682)),
    "🦄" * 512,
    "\u202eevil\u202c \u0301\u0301\u0301 \ufeff",
    "e\u0301" * 600,
    "0" * 2_000,
    "-1e309 NaN Infinity",
    ".-_/\\:;,#+*~" * 100,
)


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_a_query_that_is_only_odd_is_answered(channel: grpc.Channel, query: str) -> None:
    for mode in (1, 2, 3):
        request = search.SearchRequest(query=query, mode=mode, explain=True, facets=["brand"])  # type: ignore[arg-type]
        code, answers, error = send(channel, "Search", request)
        assert code is grpc.StatusCode.OK, error
        answer = search.SearchResponse.FromString(answers[0])
        assert all(result.score == result.score for result in answer.results), "a score is no number"


@pytest.mark.parametrize(
    ("name", "request_", "code"),
    [
        ("UpsertProducts", upsert(name="\0\x1b[2J", description="\0" * 1_000, brand="'\"\\"), "OK"),
        ("UpsertProducts", upsert(name=" ", description=" ", colour="\u202e"), "OK"),
        ("UpsertProducts", upsert(product_id="'; --", sku="'\\", model="%_"), "OK"),
        ("UpsertProducts", upsert(product_id="/../..", category_path=["'", "\\", "%", "\0"]), "OK"),
        ("UpsertProducts", upsert(price=1e9, rrp_price=5e-324, review_count=2**31 - 1), "OK"),
        ("UpsertProducts", upsert(price=-0.0, average_rating=-0.0, quality_score=-0.0), "OK"),
        ("UpsertProducts", upsert(attributes={f"{n:0>128}": "v" * 8_192 for n in range(128)}), "OK"),
        ("GetProduct", catalog.GetProductRequest(product_id="'; --", as_of_version=2**63 - 1), "OUT_OF_RANGE"),
        ("GetProduct", catalog.GetProductRequest(product_id="\0"), "NOT_FOUND"),
        ("GetProduct", catalog.GetProductRequest(product_id="\0", as_of_version=1), "NOT_FOUND"),
        ("GetProduct", catalog.GetProductRequest(product_id="\\' OR 1", as_of_version=1), "NOT_FOUND"),
        ("DeleteProduct", catalog.DeleteProductRequest(product_id="\0"), "NOT_FOUND"),
        ("ListProducts", catalog.ListProductsRequest(min_price=2, max_price=1), "OK INVALID_ARGUMENT"),
        ("ListProducts", catalog.ListProductsRequest(brand="\0'\\", category="/" * 2_560), "OK"),
        ("ListProducts", catalog.ListProductsRequest(as_of_version=2**63 - 1), "OUT_OF_RANGE"),
        ("Search", filtered(product_ids=["p0001"], exclude_product_ids=["p0001"]), "OK"),
        ("Search", filtered(product_ids=MANY[:10_000], exclude_product_ids=MANY[:10_000]), "OK"),
        ("Search", filtered(min_price=0, max_price=0, min_rating=5, in_stock=False, brands=["\0"]), "OK"),
        ("Search", filtered(categories=["/", "//", "\0", "a" * 200 + "/b"], merchants=["'\\"]), "OK"),
        ("Search", filtered(attributes={"\0": Values(values=["\0", ""]), "fashion.": Values(values=["x"])}), "OK"),
        ("Search", filtered(attributes={"fashion.nothing": Values(values=MANY[:1_000])}), "OK"),
        (
            "Search",
            search.SearchRequest(facets=["attributes.\0", "fashion.gender"], offset=10_000),
            "OK INVALID_ARGUMENT",
        ),
        ("SearchVectors", vectors([3e38] * DIMENSIONS, [-3e38] * DIMENSIONS), "OK"),
        ("SearchVectors", vectors([1e-45] * DIMENSIONS), "OK INVALID_ARGUMENT"),
        ("SearchVectors", vectors([1e-30] + [0.0] * (DIMENSIONS - 1)), "OK"),
        ("SearchSimilar", search.SearchSimilarRequest(product_id="\0"), "NOT_FOUND"),
        ("Recommend", recommend(user_id="\0"), "OK"),
        ("Recommend", recommend(user_id="../../x'\\", exclude=MANY[:10_000]), "OK"),
        ("Recommend", recommend(context=recommendations_pb2.CATEGORY, category="/" * 2_560), "OK INVALID_ARGUMENT"),
        ("Recommend", recommend(context=recommendations_pb2.CATEGORY, category="no such"), "OK"),
        ("Recommend", recommend(context=recommendations_pb2.SIMILAR, product_id="no such"), "NOT_FOUND"),
        ("Recommend", recommend(context=recommendations_pb2.SEARCH, query="\0" * 2_048), "OK"),
        ("Recommend", recommend(filters=ProductFilter(product_ids=["no such"]), limit=200), "OK"),
        ("DeleteExperiment", recommendations.DeleteExperimentRequest(name="\0"), "NOT_FOUND INVALID_ARGUMENT"),
        ("SendFeedback", sent(user_id="\0", product_id="\0\n", request_id="\0", query="\0"), "OK"),
        ("SendFeedback", sent(user_id="hostile'\\", product_id="no such product"), "OK"),
        ("SendFeedback", sent(position=1_000_000, context=recommendations_pb2.SIMILAR, query="x" * 2_048), "OK"),
        ("GetUserProfile", feedback.GetUserProfileRequest(user_id="\0"), "OK"),
        ("GetUserProfile", feedback.GetUserProfileRequest(user_id="never seen", limit=0), "OK"),
        ("ForgetUser", feedback.ForgetUserRequest(user_id="never seen"), "OK"),
        ("ForgetUser", feedback.ForgetUserRequest(user_id="\0"), "OK"),
        ("ForgetUser", feedback.ForgetUserRequest(user_id="hostile'\\"), "OK"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_is_only_odd_is_answered(channel: grpc.Channel, name: str, request_: Message, code: str) -> None:
    found, _, error = send(channel, name, request_)
    assert found.name in code.split(), f"{found} {error.details() if error else ''}"


def test_odd_feedback_is_shown_as_it_came(channel: grpc.Channel) -> None:
    """Also such as no session and no query can have in its way."""
    user = "hostile \\ ' \0 €"
    assert send(channel, "SendFeedback", sent(user_id=user, product_id="\0'\\", query="\\\0'"))[0] is grpc.StatusCode.OK
    _, answers, _ = send(channel, "GetUserProfile", feedback.GetUserProfileRequest(user_id=user))
    profile = feedback.GetUserProfileResponse.FromString(answers[0])
    assert [(each.product_id, each.query) for each in profile.last_interactions] == [("\0'\\", "\\\0'")]
    assert [each.product_id for each in profile.session] == ["\0'\\"]


def test_variants_that_weigh_nothing(channel: grpc.Channel) -> None:
    """Shares of 0 for all that recommendations can rest on, and weights far apart: users still see products."""
    nothing = Overrides(long_term=0, session=0, query=0, product=0, diversity=1)
    variants = [
        Variant(name="a", weight=5e-324, overrides=nothing),
        Variant(name="b", weight=1_000_000, overrides=nothing),
    ]
    assert send(channel, "CreateExperiment", experiment(name="nothing", variants=variants))[0] is grpc.StatusCode.OK
    try:
        for context in (recommend(), recommend(context=recommendations_pb2.SEARCH, query="hat")):
            context.user_id = "honest"
            code, answers, error = send(channel, "Recommend", context)
            assert code is grpc.StatusCode.OK, error
            answer = recommendations.RecommendResponse.FromString(answers[0])
            assert answer.items
            assert all(item.score == item.score for item in answer.items), "a score is no number"
    finally:
        send(channel, "DeleteExperiment", recommendations.DeleteExperimentRequest(name="nothing"))


def tokens(kind: str) -> st.SearchStrategy[str]:
    """Tokens that nobody gave: any text, and JSON in the form that ours have, with surrogates and huge numbers."""
    strange = st.sampled_from(["\ud800", "\0", "'\\"])
    values = st.integers(-(10**30), 10**30) | st.text(max_size=10) | strange | st.none() | st.floats(allow_nan=True)
    ours = st.tuples(st.integers(-(2**70), 2**70), strange | st.text(max_size=5)).map(list)
    made = (ours | st.lists(values, max_size=4)).map(
        lambda each: base64.urlsafe_b64encode(json.dumps([kind, *each]).encode()).decode().rstrip("=")
    )
    return made | st.text(max_size=60)


TAKES_TOKEN: dict[str, tuple[str, Callable[[str], Message]]] = {
    "ListProducts": ("products", lambda token: catalog.ListProductsRequest(page_token=token)),
    "Search": ("search", lambda token: search.SearchRequest(page_token=token)),
}


@pytest.mark.parametrize("name", TAKES_TOKEN)
def test_tokens_that_nobody_gave(channel: grpc.Channel, name: str) -> None:
    kind, request = TAKES_TOKEN[name]

    @settings(few, max_examples=60)
    @given(tokens(kind))
    def check(token: str) -> None:
        if len(token) <= 512 and token.isprintable():
            code, _, error = send(channel, name, request(token))
            assert_their_fault(code, error)

    check()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (nested("[", "]", 100_000, ""), "INVALID_JSON"),
        (nested('{"a":', "}", 100_000, "1"), "INVALID_JSON"),
        (b'{"id":"a","name":"a","x":' + nested("[", "]", 900, "") + b"}", "INVALID_FIELD"),
        (b'{"id":"a","name":"a","attributes":{"x":' + nested('{"a":', "}", 900, "1") + b"}}", "INVALID_FIELD"),
        (b"\x00\xff\xfe", "INVALID_JSON"),
        (b"[]", "INVALID_JSON"),
        (b"null", "INVALID_JSON"),
        (b'"product"', "INVALID_JSON"),
        (b'{"id":"a"', "INVALID_JSON"),
        (b'{"id":"\xff\xfe","name":"a"}', "INVALID_JSON"),
        (b'{"id":"\\ud800","name":"a"}', "INVALID_JSON"),
        (b"{}", "INVALID_FIELD"),
        (b'{"id":"a"}', "INVALID_FIELD"),
        (b'{"id":["a"],"name":"a"}', "INVALID_FIELD"),
        (b'{"id":"a","name":{"en":"a"}}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":NaN}', "INVALID_JSON"),
        (b'{"id":"a","name":"a","price":1e999}', "INVALID_JSON"),
        (b'{"id":"a","name":"a","price":"nan"}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":"1e400"}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":"Infinity"}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":true}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":-1}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","price":' + b"9" * 300 + b"}", "INVALID_FIELD"),
        (b'{"id":"a","name":"a","review_count":1.5}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","review_count":1e30}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","stock_quantity":99999999999999999999}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","in_stock":"perhaps"}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","in_stock":2}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","category_path":{"a":1}}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","category_path":[["a"]]}', "INVALID_FIELD"),
        (b'{"id":"a","name":"a","fashion":{"gender":{}}}', "INVALID_FIELD"),
        (("{" + ",".join(f'"k{n}":1' for n in range(10_000)) + ',"id":"a","name":"a"}').encode(), "INVALID_FIELD"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else value,
)
def test_a_line_that_is_no_product(channel: grpc.Channel, line: bytes, reason: str) -> None:
    body = line + b'\n{"id":"after","name":"After"}\n'
    code, answers, error = send(channel, "UploadProducts", catalog.UploadProductsRequest(content=HttpBody(data=body)))
    assert code is grpc.StatusCode.OK, error
    answer = catalog.UploadProductsResponse.FromString(answers[0])
    assert (answer.rejected, answer.created + answer.unchanged + answer.updated) == (1, 1), answer
    assert [(each.line, each.reason) for each in answer.errors] == [(1, reason)]


def test_any_line(channel: grpc.Channel) -> None:
    names = st.sampled_from(["id", "name", "title", "price", "category", "inStock", "attributes", "fashion", "rating"])
    texts = st.text(max_size=20)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=3),
        max_leaves=8,
    )

    @settings(few, max_examples=60)
    @given(st.dictionaries(names | texts, values, max_size=5))
    def check(product: dict[str, object]) -> None:
        data = json.dumps({"id": "any", "name": "Any", **product}).encode()
        request = catalog.UploadProductsRequest(content=HttpBody(data=data))
        code, _, error = send(channel, "UploadProducts", request)
        assert code is grpc.StatusCode.OK, error

    check()


def test_what_odd_products_became_is_found(shop: Shop, channel: grpc.Channel) -> None:
    """Odd products do not hold up the index: everything that was stored is in it."""
    odd = upsert(
        product_id="last", name="\0 🦄 \u202e ' \\ %", category_path=["\0", "'"], brand="\\", attributes={"\0": "\0"}
    )
    commit = shop.catalog.UpsertProducts(odd).commit
    if commit:
        shop.wait(commit)
    brands = filtered(brands=["\\"], attributes={"\0": Values(values=["\0"])}, categories=["\0/'"])
    _, answers, _ = send(channel, "Search", brands)
    found = search.SearchResponse.FromString(answers[0])
    assert [result.product.product_id for result in found.results] == ["last"]
